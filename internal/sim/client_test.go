package sim

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// act is something that somebody outside does.
type act struct {
	instance  protocol.Instance
	create    bool
	eventType string
	control   protocol.Control
	id        string // of the input; the same twice is a repetition
}

func (a act) String() string {
	switch {
	case a.create:
		return fmt.Sprintf("create %v", a.instance)
	case a.eventType != "":
		return fmt.Sprintf("event %s of type %s to %v", a.id, a.eventType, a.instance)
	}
	return fmt.Sprintf("%s %v (%s)", a.control.Action, a.instance, a.id)
}

// makePlan decides what somebody outside is going to do.
func (w *world) makePlan() {
	instances := 1
	if w.plot != deletes {
		instances += w.IntN(2)
	}
	for n := range instances {
		i := protocol.Instance{Project: project, Workflow: fmt.Sprint("w", n), ID: "i"}
		w.instances = append(w.instances, i)
		depth := 1
		if w.contests {
			depth += w.IntN(2)
		}
		w.scripts[i.Workflow] = w.script("", "s", depth)
		w.plan = append(w.plan, act{instance: i, create: true})
	}
	events := w.IntN(5)
	if w.plot == cleanings {
		events += 2
	}
	for n := range events {
		w.plan = append(w.plan, act{instance: w.someone(), eventType: eventTypes[w.IntN(2)], id: fmt.Sprint("e", n)})
	}
	if w.plot == deletes || w.chance(2) {
		for n := range 1 + w.IntN(3) {
			w.plan = append(w.plan, w.someControl(fmt.Sprint("c", n)))
		}
	}
	if w.chance(4) {
		w.plan = append(w.plan, w.plan[w.IntN(len(w.plan))]) // once more, late
	}
	creates := len(w.instances)
	w.Shuffle(len(w.plan)-creates, func(i, j int) {
		i, j = i+creates, j+creates
		w.plan[i], w.plan[j] = w.plan[j], w.plan[i]
	})
	if w.chance(4) {
		i := w.someone()
		for _, a := range []protocol.Action{protocol.ActionPause, protocol.ActionResume} {
			w.plan = append(w.plan, act{instance: i, control: protocol.Control{Action: a}, id: string(a)})
		}
	}
}

func (w *world) someone() protocol.Instance { return w.instances[w.IntN(len(w.instances))] }

func (w *world) someControl(id string) act {
	a := act{instance: w.someone(), id: id}
	switch k := w.IntN(12); {
	case k < 3:
		a.control.Action = protocol.ActionPause
	case k < 6:
		a.control.Action = protocol.ActionResume
	case k < 7:
		a.control.Action = protocol.ActionTerminate
	case k < 10:
		a.control.Action = protocol.ActionRestart
		if l := w.scripts[a.instance.Workflow]; w.chance(2) {
			if o := l[w.IntN(len(l))]; o.branches == nil && o.op != protocol.OpValue {
				a.control.From = &protocol.Key{Op: o.op, Name: o.name, Count: 1}
			}
		}
	default:
		a.control.Action = protocol.ActionDelete
	}
	if w.plot == deletes && w.chance(2) || w.plot == cleanings && w.chance(4) {
		a.control = protocol.Control{Action: protocol.ActionDelete}
	}
	return a
}

// perform lets somebody do it, in a process of their own.
func (w *world) perform(a act) {
	w.clients++
	store := must(journal.OpenOn(newNetwork(w)))
	w.spawn(fmt.Sprint("client ", w.clients), nil, func() {
		w.tell("%v", a)
		switch {
		case a.create:
			w.create(store, a)
		case a.eventType != "":
			w.publish(store, a.instance.EventSubject(), protocol.Event{
				V: protocol.Version, Input: a.id, Type: a.eventType, Payload: encode(a.id), Sent: w.now,
			})
		default:
			c := a.control
			c.V, c.Input, c.Sent = protocol.Version, a.id, w.now
			w.publish(store, a.instance.ControlSubject(), c)
			if c.Action == protocol.ActionDelete && (w.plot == deletes || w.chance(2)) {
				w.plan = append([]act{{instance: a.instance, create: true}}, w.plan...)
			}
		}
	})
}

// publish sends an input. Each send may be stored more than once.
func (w *world) publish(store *journal.Store, subject string, body any) {
	must(store.Publish(context.Background(), subject, nil, encode(body)))
}

// create creates an instance, or finds that the id is taken.
func (w *world) create(store *journal.Store, a act) {
	_, err := store.Append(context.Background(), workflows, a.instance.CreateSubject(), 0, encode(protocol.Create{
		V: protocol.Version, Input: fmt.Sprint("create ", w.clients), Workflow: a.instance.Workflow, ID: a.instance.ID, Created: w.now,
	}))
	if err != nil && !errors.Is(err, journal.ErrConflict) {
		panic(err)
	}
}
