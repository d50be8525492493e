package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// gate is where the bodies of one step wait for the test.
type gate struct {
	w        *world
	arrivals chan *nats.Msg
}

// arrival is a body that waits at a gate.
type arrival struct {
	call
	msg *nats.Msg
}

// gate makes a gate of a step that has one in its script, of one instance or, with the id "*", of all.
func (w *world) gate(id, step string) *gate {
	w.t.Helper()
	g := &gate{w: w, arrivals: make(chan *nats.Msg, 100)}
	sub, err := w.nc.ChanSubscribe(gateSubject(w.name, id, step), g.arrivals)
	if err == nil {
		err = w.nc.FlushTimeout(patience)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	return g
}

// await waits for the next body that arrives.
func (g *gate) await() arrival {
	g.w.t.Helper()
	select {
	case m := <-g.arrivals:
		a := arrival{msg: m}
		if err := json.Unmarshal(m.Data, &a.call); err != nil {
			g.w.t.Fatal(err)
		}
		return a
	case <-time.After(patience):
		g.w.t.Fatal("no body comes to the gate")
	}
	return arrival{}
}

// none fails if a body has arrived.
func (g *gate) none(why string) {
	g.w.t.Helper()
	select {
	case m := <-g.arrivals:
		g.w.t.Errorf("a body runs although %s: %s", why, m.Data)
	default:
	}
}

// instance is the id of the instance whose body it is.
func (a arrival) instance() string { return strings.Split(a.msg.Subject, ".")[2] }

// open lets the body go on.
func (a arrival) open(t testing.TB) {
	t.Helper()
	if err := a.msg.Respond(nil); err != nil {
		t.Fatal(err)
	}
}

// listen hears every attempt to write an instance's log, also those that the stream refuses.
func (w *world) listen(id string) *attempts {
	w.t.Helper()
	a := &attempts{w: w, id: id, heard: make(chan *nats.Msg, 1000)}
	sub, err := w.nc.ChanSubscribe(w.instance(id).LogSubject(), a.heard)
	if err == nil {
		err = w.nc.FlushTimeout(patience)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	return a
}

type attempts struct {
	w     *world
	id    string
	heard chan *nats.Msg
}

// awaitRefused waits until a runner has tried to append what is not in the log.
func (a *attempts) awaitRefused(runner string) {
	a.w.t.Helper()
	eventually(a.w.t, patience, "an append of "+runner+" is refused", func() bool {
		var tried protocol.Append
		select {
		case m := <-a.heard:
			if err := json.Unmarshal(m.Data, &tried); err != nil {
				a.w.t.Fatal(err)
			}
		default:
			return false
		}
		stored := slices.ContainsFunc(a.w.trail(a.id).log, func(l logged) bool { return l.ID == tried.ID })
		return tried.Runner == runner && !stored
	})
}
