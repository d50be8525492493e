package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// age is how old everything is that may be cleaned away, margin how much later than it has expired an instance is gone.
const (
	age    = 24 * time.Hour
	margin = time.Hour
)

// clean lets a janitor clean the stream once, in chunks of a few messages.
func (w *world) clean() {
	w.clients++
	name := fmt.Sprint("janitor ", w.clients)
	store := must(journal.OpenOn(newNetwork(w)))
	asked := 0
	c := &janitor.Cleaner{
		Store: store, Floors: w, Project: project, Log: slog.New(slog.DiscardHandler), Decide: w.fateOf,
		Settings: janitor.Settings{Age: age, Margin: margin, Chunk: 3 + w.IntN(30), Share: -1000, Tries: 60},
		NewID:    func() string { asked++; return fmt.Sprint(name, " asks ", asked) },
	}
	if !w.rules.AgedHorizon {
		c.Settings.Age = -1
	}
	w.cleaning++
	w.spawn(name, nil, func() {
		defer func() { w.cleaning-- }()
		r, err := c.Round(context.Background())
		heldUp, ok := errors.AsType[*janitor.HeldUpError](err)
		switch {
		case ok:
			w.crew.saw["held up: "+heldUp.Reason]++
			w.tell("gives up: %v", heldUp)
		case err != nil:
			panic(err)
		}
		if r.Purged > 0 {
			w.crew.saw["cleaned"]++
			w.crew.saw["carried"] += r.Carried
			w.crew.saw["dropped"] += r.Dropped
		}
		j := &forgetting{w: w, r: &runner{w: w, id: "janitor", store: store}}
		j.forget()
	})
}

// fateOf decides about an instance before its beginning is purged, by the rules that there are.
func (w *world) fateOf(f janitor.Facts, h janitor.Horizon) janitor.Fate {
	w.faulty = true // whoever begins behind a tombstone that goes may be refused, and begins again
	fate := janitor.Decide(f, h)
	if fate == janitor.Renew && !w.rules.CarryCreate {
		f.Create, f.Carried = h.Sequence+1, true
		fate = janitor.Decide(f, h)
	}
	if fate == janitor.Wait && !w.rules.VerifyCarried {
		fate = janitor.Leave
	}
	w.tell("finds that it is to %v an instance, up to %d: %+v", fate, h.Sequence, f)
	return fate
}

// AckFloor makes the world the Floors of its janitors.
func (w *world) AckFloor(_ context.Context, of, consumer string) (uint64, error) {
	floor := w.server.streams[of].last()
	filter := map[string]string{
		protocol.ConsumerWakes(0): protocol.InputSubjects(project, 0), protocol.ConsumerControls(0): protocol.ControlSubjects(project, 0),
		protocol.ConsumerDue: protocol.DueSubjects(project),
	}[consumer]
	for _, d := range w.deliveries {
		if d.wake.Stream == of && matches(filter, d.message.subject) && !d.acked && w.rules.AckFloor {
			floor = min(floor, d.wake.Sequence-1)
		}
	}
	return floor, nil
}

// forgetting looks for objects that nobody needs.
type forgetting struct {
	w *world
	r *runner // reads like one, but takes no wakes
}

// forget takes away the objects of snapshots that newer snapshots have superseded.
func (j *forgetting) forget() {
	needed := map[string]bool{}
	for _, i := range j.w.instances {
		newest := ""
		j.r.read(i.LogSubject(), 1, 0, func(m *journal.Message) {
			var a protocol.Append
			decode(m.Data, &a)
			if s := engine.SnapshotOf(&a); s != nil {
				if newest = ""; s.Object != nil {
					newest = s.Object.Name
				}
			}
		})
		needed[newest] = true
	}
	for name, o := range j.w.objects {
		if !needed[name] && j.w.now.Sub(o.put) >= age {
			j.w.crew.saw["object collected"]++
			delete(j.w.objects, name)
		}
	}
}
