package integration

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// kind is what some of the instances of a mixed storm are.
type kind struct {
	name   string
	script script
	// rare ones are of the workflow that few may run of at a time.
	rare bool
	// during is what is done to the instance meanwhile. It returns the one whose end is waited for.
	during func(w *world, i *handle) (*handle, error)
	check  func(t testing.TB, tr *trail, s script)
}

const tenths = 100 * time.Millisecond

// kinds has one of everything that touches order or fencing.
func kinds() []kind {
	moment := 5 * tenths
	child := ops(do("x"), slow("y", tenths))
	// What is steered does not end before that.
	work := ops(do("a"), slow("b", 2*tenths), sleep("nap", 2*tenths), slow("c", 2*tenths), wait("end", "end"))
	undoing := ops(undone("a", 0), undone("b", 2*tenths), undone("c", 2*tenths))
	return []kind{
		{"works", weather()[0], false, createdTwice, completes},
		{"gets events", ops(wait("first", "e"), slow("b", tenths), wait("second", "e"), do("c")), false, sentTwice, completes},
		{"has branches", weather()[3], false, func(w *world, i *handle) (*handle, error) {
			pause(w.t.Context(), rand.N(moment))
			return i, i.SendEvent(w.t.Context(), "answer", "yes")
		}, completes},
		{"races", ops(do("a"), race("first", inTurn(wait("event", "e"), do("b")), inTurn(sleep("tick", 5*tenths), do("c"))),
			wait("after", "e"), do("d")), false, func(w *world, i *handle) (*handle, error) {
			pause(w.t.Context(), rand.N(10*tenths))
			first := i.SendEvent(w.t.Context(), "e", "first")
			pause(w.t.Context(), rand.N(2*tenths))
			return i, errors.Join(first, late(i.SendEvent(w.t.Context(), "e", "second")))
		}, completes},
		{"is undone", ops(append(undoing.Ops, op{Fail: "as it should"})...), false, nil, undoes},
		{"is terminated", ops(append(undoing.Ops, wait("end", "end"))...), false, func(w *world, i *handle) (*handle, error) {
			pause(w.t.Context(), rand.N(moment))
			return i, i.Terminate(w.t.Context(), workflow.RollbackFirst())
		}, undoes},
		{"calls", ops(do("before"), op{Call: "call", Script: &child}, do("after")), false, nil, completes},
		{"is paused", work, false, func(w *world, i *handle) (*handle, error) {
			pause(w.t.Context(), rand.N(moment))
			err := i.Pause(w.t.Context())
			pause(w.t.Context(), rand.N(moment))
			return i, errors.Join(err, i.Resume(w.t.Context()), ends(w, i))
		}, completes},
		{"is restarted", work, false, func(w *world, i *handle) (*handle, error) {
			pause(w.t.Context(), rand.N(moment))
			err := i.Restart(w.t.Context(), workflow.FromStep(workflow.StepDo, "b", 1))
			if errors.Is(err, workflow.ErrUnknownStep) {
				err = i.Restart(w.t.Context())
			}
			return i, errors.Join(err, ends(w, i))
		}, completes},
		{"is replaced", work, false, func(w *world, i *handle) (*handle, error) {
			pause(w.t.Context(), rand.N(moment))
			if err := i.Delete(w.t.Context()); err != nil {
				return nil, err
			}
			i, err := w.scripts().Create(w.t.Context(), work, workflow.ID(i.ID()))
			if err != nil {
				return nil, err
			}
			return i, ends(w, i)
		}, completes},
		{"is large", ops(big("a"), wait("answer", "answer"), big("b")), false, compacted, completes},
		{"is one of few", ops(slow("a", 5*tenths), sleep("nap", tenths), slow("b", 5*tenths)), true, nil, completes},
		{"is one of few, and steered", ops(slow("a", 3*tenths), wait("end", "end"), slow("b", tenths)), true, steered, mayBeTerminated},
	}
}

// ends lets an instance end that waits for that.
func ends(w *world, i *handle) error { return i.SendEvent(w.t.Context(), "end", "now") }

// late is nil for an error that says that the instance has ended before.
func late(err error) error {
	if errors.Is(err, workflow.ErrFinished) {
		return nil
	}
	return err
}

func createdTwice(w *world, i *handle) (*handle, error) {
	_, err := w.scripts().Create(w.t.Context(), ops(do("of another")), workflow.ID(i.ID()))
	if !errors.Is(err, workflow.ErrExists) {
		return nil, fmt.Errorf("created twice: %w", err)
	}
	return i, nil
}

// sentTwice sends two events, and each of them again.
func sentTwice(w *world, i *handle) (*handle, error) {
	var err error
	for _, id := range []string{"1", "1", "2", "2", "1"} {
		pause(w.t.Context(), rand.N(2*tenths))
		err = errors.Join(err, late(i.SendEvent(w.t.Context(), "e", id, workflow.EventID("event "+id))))
	}
	return i, err
}

// steered stops an instance, whether it has a slot, is queued for one or waits, and lets most of them go on.
func steered(w *world, i *handle) (*handle, error) {
	ctx := w.t.Context()
	pause(ctx, rand.N(10*tenths))
	switch rand.IntN(3) {
	case 0:
		return i, i.Terminate(ctx)
	case 1:
		return i, errors.Join(i.Restart(ctx), ends(w, i))
	}
	err := i.Pause(ctx)
	pause(ctx, rand.N(10*tenths))
	return i, errors.Join(err, i.Resume(ctx), ends(w, i))
}

func mayBeTerminated(t testing.TB, tr *trail, s script) {
	t.Helper()
	if tr.count(protocol.EntryTerminated) == 0 {
		completes(t, tr, s)
	}
}

// compacted asks for a snapshot at any time, and sends a large event.
func compacted(w *world, i *handle) (*handle, error) {
	for range 2 {
		pause(w.t.Context(), rand.N(5*tenths))
		w.control(i.ID(), protocol.Control{V: protocol.Version, Input: uuid.NewString(), Action: protocol.ActionCompact, Sent: time.Now().UTC()})
	}
	return i, i.SendEvent(w.t.Context(), "answer", "yes")
}

func completes(t testing.TB, tr *trail, s script) {
	t.Helper()
	if last := tr.entries()[len(tr.entries())-1].Kind; last != protocol.EntryCompleted {
		t.Errorf("%s ended with %s", tr.id, last)
		return
	}
	tr.checkOutput(t, s, tr.output(t))
}

// undoes: the steps that had begun are undone, each once, the one that began last first, and no step begins after that.
func undoes(t testing.TB, tr *trail, s script) {
	t.Helper()
	var begun, undone []string
	rolling, outcome := false, ""
	for _, e := range tr.entries() {
		switch {
		case e.Kind == protocol.EntryRollingBack:
			rolling = true
		case e.Kind == protocol.EntryRolledBack && e.Error == nil:
			outcome = "complete"
		case e.Step == nil:
		case e.Step.Op == protocol.OpRollback && e.Kind == protocol.EntryStepCompleted:
			undone = append(undone, e.Step.Name)
		case e.Step.Op == protocol.OpDo && rolling:
			t.Errorf("%s: %s of %v although it is rolled back", tr.id, e.Kind, e.Step)
		case e.Step.Op == protocol.OpDo && !slices.Contains(begun, e.Step.Name):
			begun = append(begun, e.Step.Name)
		}
	}
	if !rolling { // it was told to when it had ended
		completes(t, tr, s)
		return
	}
	slices.Reverse(begun)
	if !slices.Equal(begun, undone) || outcome != "complete" {
		t.Errorf("%s: undone were %q, want %q; the outcome is %q", tr.id, undone, begun, outcome)
	}
}

// checkLimit goes through the stream: at no moment more instances of a workflow execute than its limit. It returns how
// many did at most. One executes from a claim, or its first entry, to where it rests; it has its slot for longer than that.
func checkLimit(t testing.TB, trails map[string]*trail, name string, limit int) (most int) {
	t.Helper()
	type moment struct {
		id string
		logged
	}
	var all []moment
	for id, tr := range trails {
		for _, l := range tr.log {
			if tr.workflow == name {
				all = append(all, moment{id, l})
			}
		}
	}
	slices.SortFunc(all, func(a, b moment) int { return cmp.Or(a.stored.Compare(b.stored), cmp.Compare(a.sequence, b.sequence)) })
	executing := map[string]bool{}
	for _, m := range all {
		if m.steers() || m.queues() {
			delete(executing, m.id)
			continue
		}
		executing[m.id] = true
		if most = max(most, len(executing)); len(executing) > limit {
			t.Errorf("at %d %d instances execute, at most %d may: %q", m.sequence, len(executing), limit, slices.Sorted(maps.Keys(executing)))
		}
		if m.rests() != "" {
			delete(executing, m.id)
		}
	}
	return most
}

// fate creates an instance of a kind, does to it what its kind says, and waits for its end.
func (w *world) fate(k kind, id string) error {
	ctx := w.t.Context()
	bound := w.scripts()
	if k.rare {
		bound = workflow.Bind[script, []string](rareWorkflow).In(w.project)
	}
	i, err := bound.Create(ctx, k.script, workflow.ID(id))
	if err == nil && k.during != nil {
		i, err = k.during(w, i)
	}
	if err == nil {
		_, err = i.Result(ctx)
	}
	if _, ended := errors.AsType[*workflow.InstanceError](err); ended && k.name != "works" {
		err = nil // how it ended is looked at later
	}
	if err != nil {
		return fmt.Errorf("%s, which %s: %w", id, k.name, err)
	}
	return nil
}

// TestMixedStorm kills runners and moves the leader of a cluster while instances of every kind run, and holds all that is
// stored of them against the rules. Not parallel: it takes the machine.
func TestMixedStorm(t *testing.T) {
	const each, limit = 10, 2
	w := newWorld(t, threeServers(t), "mixed")
	w.calls, w.limit = w, limit
	runners := []*process{w.runner(setup{}), w.runner(setup{}), w.runner(setup{})}
	over := max(6*time.Second, *soak) // fewer of a kind may not meet a fault
	all := kinds()
	instances := max(each, int(over.Seconds())) * len(all)
	var group errgroup.Group
	began := time.Now()
	for n := range instances {
		group.Go(func() error {
			pause(t.Context(), time.Until(began.Add(over*time.Duration(n)/time.Duration(instances))))
			return w.fate(all[n%len(all)], fmt.Sprint(n))
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	examined := w.underDoctors()
	kills, moves := w.breakUntil(ended, runners, began.Add(over))
	w.quiesce()
	examined()
	trails := w.trails()
	seen := map[protocol.EntryKind]int{}
	lost, queued, large, snapshots := 0, 0, 0, 0
	for id, tr := range trails {
		snapshots += len(slices.DeleteFunc(slices.Clone(tr.log), func(l logged) bool { return !l.stands() }))
		tr.audit(t)
		lost += tr.lost()
		for _, l := range tr.log {
			if l.queues() {
				queued++
			}
			for _, e := range l.Entries {
				seen[e.Kind]++
				if e.Object != nil {
					large++
				}
			}
		}
		var n int
		if _, err := fmt.Sscanf(id, "%d", &n); err == nil && fmt.Sprint(n) == id {
			k := all[n%len(all)]
			k.check(t, tr, k.script)
		}
	}
	if children := instances / len(all); len(trails) != instances+children {
		t.Errorf("there are %d instances, want %d and %d children", len(trails), instances, children)
	}
	most := checkLimit(t, trails, rareWorkflow, limit)
	t.Logf("%d instances in %v through %d kills and %d moves: %d lost runs, %d times queued, %d large values, %d snapshots, %d at most of the %d; %v",
		len(trails), time.Since(began).Round(time.Millisecond), kills, moves, lost, queued, large, snapshots, most, limit, seen)
	for what, n := range map[string]int{
		"kills": kills, "moves": moves, "lost runs": lost, "queued": queued, "large values": large, "at most": most - limit + 1,
		"paused": seen[protocol.EntryPaused], "resumed": seen[protocol.EntryResumed], "restarted": seen[protocol.EntryRestarted],
		"terminated": seen[protocol.EntryTerminated], "rolled back": seen[protocol.EntryRolledBack], "snapshots": snapshots,
	} {
		if n == 0 {
			t.Errorf("nothing of this happened: %s", what)
		}
	}
}

// breakUntil kills a runner or moves the leader about every second until all instances have ended; seldom once all are
// there, so that a slow machine comes to the end.
func (w *world) breakUntil(ended <-chan error, runners []*process, created time.Time) (kills, moves int) {
	w.t.Helper()
	every := time.Second
	deadline := time.After(time.Until(created) + patience)
	for {
		select {
		case err := <-ended:
			if err != nil {
				w.t.Error(err)
			}
			return kills, moves
		case <-deadline:
			for _, tr := range w.trails() {
				if len(tr.done) == 0 {
					tr.show(w.t)
				}
			}
			for _, c := range append(w.consumers(protocol.ConsumerControls), w.consumers(protocol.ConsumerWakes)...) {
				w.t.Logf("%s: delivered up to %d, acked up to %d, %d not acked, %d again, %d to come, %d wait, led by %+v", c.Name,
					c.Delivered.Stream, c.AckFloor.Stream, c.NumAckPending, c.NumRedelivered, c.NumPending, c.NumWaiting, c.Cluster)
			}
			w.t.Fatal("not all instances end")
		case <-time.After(rand.N(2 * every)):
		}
		if time.Now().After(created) {
			every += every / 2
		}
		if (kills+moves)%3 == 2 {
			w.disturb()
			moves++
		} else {
			killOne(w, runners)
			kills++
		}
	}
}
