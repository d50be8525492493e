package janitor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// life is one instance of every kind, in the middle of its life.
type life struct {
	waits, paused, sleeps, works, queued, calls, child, done, failing *workflow.Instance[string]
}

// live brings instances to where they are when the log is cleaned.
func (y *yard) live() *life {
	y.t.Helper()
	l := &life{
		waits: create(y, "waits", "waits", "a"), paused: create(y, "waits", "paused", "b"),
		calls: create(y, "calls", "calls", "c"), done: create(y, "quick", "done", "d"), failing: create(y, "waits", "restarted", "e"),
	}
	y.send(l.waits, "second") // before its wait
	y.reaches(l.paused, workflow.Waiting)
	if err := l.paused.Pause(y.t.Context()); err != nil {
		y.t.Fatal(err)
	}
	y.reaches(l.paused, workflow.Paused)
	y.send(l.failing, "first")
	for _, i := range []*workflow.Instance[string]{l.waits, l.calls} {
		y.reaches(i, workflow.Waiting)
	}
	natstest.Eventually(y.t, natstest.Patience, "the second wait began", func() bool {
		s, err := l.failing.Status(y.t.Context())
		return err == nil && len(s.Steps) == 3 && s.State == workflow.Waiting
	})
	l.child = y.get("waits", "c-child")
	y.reaches(l.child, workflow.Waiting)
	y.result(l.done, "d!")
	l.works, l.queued = create(y, "works", "works", "w"), create(y, "works", "queued", "q")
	other := create(y, "works", "other", "o") // the limit is 2
	for _, i := range []*workflow.Instance[string]{l.works, other, l.queued} {
		y.reaches(i, workflow.Waiting)
	}
	for _, i := range []*workflow.Instance[string]{l.works, other} {
		y.send(i, "begin")
	}
	<-y.gate("w").arrived
	<-y.gate("o").arrived
	y.send(l.queued, "begin")
	y.reaches(l.queued, workflow.Queued)
	l.sleeps = create(y, "sleeps", "sleeps", 3*time.Second) // for as long as it takes to carry it, mostly
	y.settled(2)
	return l
}

func (y *yard) get(name, id string) *workflow.Instance[string] {
	y.t.Helper()
	var i *workflow.Instance[string]
	natstest.Eventually(y.t, natstest.Patience, id+" is there", func() bool {
		var err error
		i, err = workflow.Bind[string, string](name).In(y.project).Get(y.t.Context(), id)
		return err == nil
	})
	return i
}

// goOn lets instances come to their ends, and checks that nothing is missing.
func (y *yard) goOn(l *life) {
	y.t.Helper()
	y.send(l.waits, "first")
	y.result(l.waits, "a first second")
	if err := l.paused.Resume(y.t.Context()); err != nil {
		y.t.Error(err)
	}
	for _, event := range []string{"first", "second"} {
		y.send(l.paused, event)
		y.send(l.child, event)
	}
	y.result(l.paused, "b first second")
	y.result(l.calls, "c first second")
	y.result(l.sleeps, "woke")
	y.result(l.done, "d!")
	if err := l.failing.Restart(y.t.Context(), workflow.FromStep(workflow.StepDo, "say first", 1)); err != nil {
		y.t.Error(err)
	}
	natstest.Eventually(y.t, natstest.Patience, "it waits again", func() bool {
		s, err := l.failing.Status(y.t.Context())
		return err == nil && s.Epoch == 1 && s.State == workflow.Waiting
	})
	y.send(l.failing, "second")
	y.result(l.failing, "e first second")
	for _, name := range []string{"w", "o", "q"} {
		close(y.gate(name).open)
	}
	y.result(l.works, "w")
	y.result(l.queued, "q")
	if n := len(y.gate("w").arrived); n > 0 {
		y.t.Errorf("a body ran %d times more", n)
	}
	for _, i := range []*workflow.Instance[string]{l.waits, l.paused, l.calls, l.child, l.sleeps, l.works, l.queued} {
		s, err := i.Status(y.t.Context())
		if err != nil {
			y.t.Error(err)
		}
		for _, run := range s.Runs {
			if run.Lost {
				y.t.Errorf("%s lost a run: %+v", i.ID(), run)
			}
		}
	}
}

// seen is what users see of an instance that must not change by cleaning.
func (y *yard) seen(i *workflow.Instance[string]) workflow.Status {
	y.t.Helper()
	s, err := i.Status(y.t.Context())
	if err != nil {
		y.t.Fatalf("%s: %v", i.ID(), err)
	}
	s.Log, s.Mark = 0, 0
	return s
}

// TestCarry: what is needed goes on after its beginning was cleaned away, whatever it was doing, and looks the same.
func TestCarry(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, y *yard, moved func()) {
		y.serve()
		l := y.live()
		all := []*workflow.Instance[string]{l.waits, l.paused, l.sleeps, l.works, l.queued, l.calls, l.child, l.done, l.failing}
		var before []workflow.Status
		for _, i := range all {
			before = append(before, y.seen(i))
		}
		moved()
		check := func(carried int) { // who sleeps may have woken
			t.Helper()
			for n, i := range all {
				if after := y.seen(i); i != l.sleeps && normal(before[n]) != normal(after) {
					t.Errorf("%s was\n%+v\nand is\n%+v", i.ID(), before[n], after)
				}
			}
			if carried < len(all) {
				t.Errorf("of %d instances %d were carried", len(all), carried)
			}
			if _, err := workflow.Bind[string, string]("quick").In(y.project).Create(t.Context(), "x", workflow.ID("done")); !errors.Is(err, workflow.ErrExists) {
				t.Errorf("the id of a finished instance is given away: %v", err)
			}
		}
		check(y.clean(y.cleaner(), y.floor()).Carried)
		moved()
		y.goOn(l)
		for n, i := range all {
			before[n] = y.seen(i)
		}
		y.settled()
		check(y.clean(y.cleaner(), y.stored()).Carried)
		for _, i := range all { // nothing of it is in memory
			s := y.seen(i)
			var want string
			if err := json.Unmarshal(s.Output, &want); err != nil {
				t.Error(err)
			}
			y.result(i, want)
		}
	})
}

// normal is what people see of an instance: cleaning must not change it.
func normal(s workflow.Status) string {
	var steps []string
	for _, step := range s.Steps {
		steps = append(steps, fmt.Sprint(step.Key, step.State, string(step.Output), step.Error, len(step.Attempts), step.Callee, step.Type))
	}
	return fmt.Sprint(s.State, string(s.Output), s.Error, s.Created.UnixNano(), string(s.Params), steps, len(s.Runs), s.Epoch, s.Incarnation, s.Parent)
}

// floor is the sequence before the oldest wake that somebody holds.
func (y *yard) floor() uint64 {
	y.t.Helper()
	return y.consumer(protocol.ConsumerWakes(0)).AckFloor.Stream
}
