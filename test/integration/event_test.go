package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// eventAtAnyTime sends events before an instance is begun, while it works, and after it is parked.
func eventAtAnyTime(w *world) {
	s := ops(wait("first", "before"), gated("work"), wait("second", "while"), wait("third", "after"), do("last"))
	gate := w.gate("a", "work")
	w.create("a", s)
	w.send("a", "before", "1")
	w.runner(setup{})
	body := gate.await()
	w.send("a", "while", "2")
	w.disturb()
	body.open(w.t)
	w.reaches("a", "waits for the last event", func(s protocol.Status) bool {
		return s.State == protocol.StateWaiting && len(s.Steps) == 4
	})
	w.quiesce() // the wake of its park is gone: the event has only its own
	w.send("a", "after", "3")
	tr := w.finish("a", s)
	if tr.count(protocol.EntryReceived) != 3 {
		w.t.Errorf("%d events received", tr.count(protocol.EntryReceived))
	}
}

// eventOlderThanThePark stores an event after the code has looked for it and before it parks. Nobody else will serve it:
// that is the duty of the wake that parks, of its first runner or, if that one is killed, of the next. A runner looks for
// events every few seconds: one that happens to do so in between takes the event, and then there is another try.
func eventOlderThanThePark(w *world, kill bool) {
	const tries = 5
	for i := range tries {
		if w.parkAfterEvent(fmt.Sprint(i), kill) {
			return
		}
	}
	w.t.Errorf("in %d tries of %[1]d the event was taken before the park", tries)
}

// parkAfterEvent reports whether an instance was parked after an event had come for it. It fails if that is lost.
func (w *world) parkAfterEvent(id string, kill bool) bool {
	w.t.Helper()
	s := ops(sideBySide(inTurn(wait("answer", "answer"), do("x")), inTurn(gated("work"))))
	gate := w.gate(id, "work")
	how := setup{}
	if kill {
		how.stopAt = testsignal.RunnerAppended
	}
	runner := w.runner(how)
	w.create(id, s)
	body := gate.await()
	w.reaches(id, "waits for the event", func(s protocol.Status) bool { return len(s.Steps) == 2 })
	w.holdWakes(true) // so that nobody tells the runner of the event
	w.send(id, "answer", "yes")
	body.open(w.t)
	if kill {
		runner.awaitSignal(w.t, testsignal.RunnerAppended)
		runner.kill(w.t)
	} else {
		w.reaches(id, "goes on", func(s protocol.Status) bool { return s.State.Finished() })
	}
	older := w.trail(id).parkedAfterEvent(w.t)
	w.holdWakes(false)
	if kill {
		runner = w.runner(setup{})
	}
	w.finish(id, s)
	w.quiesce()
	if !older {
		runner.terminate(w.t)
	}
	return older
}

// holdWakes stops the delivery of wakes, or lets it go on.
func (w *world) holdWakes(hold bool) {
	w.t.Helper()
	for shard, stream := range w.streams() {
		natstest.Ask(w.t, "hold back wakes or let them go", func(ctx context.Context) error {
			if hold {
				_, err := w.js.PauseConsumer(ctx, stream, protocol.ConsumerWakes(shard), time.Now().Add(time.Hour))
				return err
			}
			_, err := w.js.ResumeConsumer(ctx, stream, protocol.ConsumerWakes(shard))
			return err
		})
	}
	eventually(w.t, patience, "the consumers' leaders know", func() bool {
		return !slices.ContainsFunc(w.consumers(protocol.ConsumerWakes), func(c *jetstream.ConsumerInfo) bool { return c.Paused != hold })
	})
}

// parkedAfterEvent reports whether the instance was parked after an event for it was stored, and did not take it before.
func (tr *trail) parkedAfterEvent(t testing.TB) bool {
	t.Helper()
	for _, l := range tr.log {
		for _, e := range l.Entries {
			switch {
			case e.Kind == protocol.EntryReceived:
				t.Logf("the event was taken before the park: %+v", tr.entries())
				return false
			case e.Kind != protocol.EntryParked:
			case slices.Min(slices.Collect(maps.Keys(tr.events))) > l.sequence:
				t.Fatalf("the event is newer than the park at %d: %+v", l.sequence, tr.events)
			default:
				return true
			}
		}
	}
	t.Fatalf("there is no park: %+v", tr.entries())
	return false
}

// eventsAroundThePark sends to many instances at the moment at which they park: a bit before, a bit after.
func eventsAroundThePark(w *world) {
	s := ops(do("before"), wait("answer", "answer"), do("after"))
	w.runner(setup{})
	w.runner(setup{})
	const instances = 150
	var group errgroup.Group
	group.SetLimit(30)
	for i := range instances {
		group.Go(func() error {
			instance, err := w.scripts().Create(w.t.Context(), s, workflow.ID(fmt.Sprint(i)))
			if err != nil {
				return err
			}
			// Around the park, on either side: no condition that the test could wait for is met before it is stored. What
			// must come to the same on both sides is named by the tests of an event older than the park.
			pause(w.t.Context(), rand.N(20*time.Millisecond))
			return instance.SendEvent(w.t.Context(), "answer", "yes")
		})
	}
	if err := group.Wait(); err != nil {
		w.t.Fatal(err)
	}
	w.finishAll(instances, s)
	w.quiesce()
}

// eventsInOrder sends many events of one type to one instance, in bursts, while a runner is killed.
func eventsInOrder(w *world) {
	const events, burst = 30, 5
	var s script
	for i := range events {
		s.Ops = append(s.Ops, wait(fmt.Sprint("wait ", i), "tick"))
		if i%4 == 0 {
			s.Ops = append(s.Ops, do("between"))
		}
	}
	victim := w.runner(setup{})
	w.create("a", s)
	for i := range events {
		w.send("a", "tick", fmt.Sprint(i))
		if i%burst == 0 {
			w.reaches("a", "has taken some", func(s protocol.Status) bool { return len(s.Steps) > i })
		}
		if i == events/2 {
			victim.kill(w.t)
			w.disturb()
			w.runner(setup{})
		}
	}
	var got []string
	for _, e := range w.finish("a", s).entries() {
		if e.Kind == protocol.EntryReceived {
			got = append(got, string(e.Result))
		}
	}
	for i, payload := range got {
		if payload != fmt.Sprintf("%q", fmt.Sprint(i)) {
			w.t.Errorf("event %d is %s, want them in order: %v", i, payload, got)
			break
		}
	}
	w.quiesce()
}

// eventsForManyWaits sends from many sides to waits that stand side by side. None is lost, none is taken twice.
func eventsForManyWaits(w *world) {
	const branches, each = 8, 5
	var group op
	for i := range branches {
		var b []op
		for j := range each {
			b = append(b, wait(fmt.Sprintf("wait %d-%d", i, j), "order"))
		}
		group.Group = append(group.Group, append(b, do(fmt.Sprint("last of ", i))))
	}
	s := ops(group)
	w.runner(setup{})
	w.runner(setup{})
	w.create("a", s)
	var senders errgroup.Group
	for i := range branches {
		senders.Go(func() error {
			instance, err := w.scripts().Get(w.t.Context(), "a")
			for j := range each {
				if err == nil {
					err = instance.SendEvent(w.t.Context(), "order", fmt.Sprintf("%d-%d", i, j))
				}
			}
			return err
		})
	}
	if err := senders.Wait(); err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for _, e := range w.finish("a", s).entries() {
		if e.Kind == protocol.EntryReceived {
			got = append(got, string(e.Result))
		}
	}
	slices.Sort(got)
	if len(slices.Compact(got)) != branches*each {
		w.t.Errorf("%d different events were taken, want %d", len(slices.Compact(got)), branches*each)
	}
	w.quiesce()
}

// eventRepeated stores one event twice, as a sender does that did not get its answer: before a wait has taken it, and
// after.
func eventRepeated(w *world) {
	s := ops(wait("first", "pay"), gated("work"), wait("second", "pay"), wait("third", "pay"))
	gate := w.gate("a", "work")
	w.runner(setup{})
	w.create("a", s)
	one, two, three := event("one"), event("two"), event("three")
	w.publish("a", one)
	w.publish("a", one)
	body := gate.await()
	w.publish("a", one)
	w.publish("a", two)
	w.publish("a", two)
	body.open(w.t)
	w.reaches("a", "waits for the third", func(s protocol.Status) bool {
		return s.State == protocol.StateWaiting && len(s.Steps) == 4
	})
	w.quiesce()
	w.publish("a", one) // alone, it must wake nothing up
	w.publish("a", two)
	w.quiesce()
	w.publish("a", three)
	var got []string
	for _, e := range w.finish("a", s).entries() {
		if e.Kind == protocol.EntryReceived {
			got = append(got, string(e.Result))
		}
	}
	if text := strings.Join(got, " "); text != `"one" "two" "three"` {
		w.t.Errorf("received %s", text)
	}
}

func event(payload string) protocol.Event {
	raw, _ := json.Marshal(payload)
	return protocol.Event{V: protocol.Version, Input: uuid.NewString(), Type: "pay", Payload: raw, Sent: time.Now().UTC()}
}

func (w *world) publish(id string, e protocol.Event) {
	w.t.Helper()
	body, err := json.Marshal(e)
	if err == nil {
		_, err = w.store.Publish(w.t.Context(), w.instance(id).EventSubject(), nil, body)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
