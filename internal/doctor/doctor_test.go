package doctor

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/protocol"
)

// damage is something that is wrong with a project.
type damage struct {
	kind Kind
	// harm brings it about, with nobody at work when it returns.
	harm func(*rig)
	// healed waits, with a runner at work, until all goes on by itself.
	healed func(*rig)
}

var wakes, controls = protocol.ConsumerWakes(0), protocol.ConsumerControls(0)

// parked starts an instance and leaves it parked, with nobody at work.
func (r *rig) parked(i protocol.Instance) {
	r.Helper()
	r.create(i)
	stop := r.serve()
	r.reaches(i, protocol.StateWaiting)
	r.quiesce()
	stop()
}

// finished starts an instance and leaves it finished, with nobody at work.
func (r *rig) finished(i protocol.Instance) {
	r.Helper()
	r.create(i)
	close(r.gate)
	stop := r.serve()
	r.reaches(i, protocol.StateComplete)
	r.quiesce()
	stop()
}

func (r *rig) timerOf(i protocol.Instance) string {
	r.Helper()
	m, err := r.store.Last(r.Context(), i.Stream(), i.LogSubject())
	if err != nil {
		r.Fatal(err)
	}
	return i.TimerSubject(m.Sequence)
}

const slotsStream = "KV_SLOTS_p"

var placeOfB = protocol.KVSubject("SLOTS_p", protocol.SlotWaitKey(at("one", "b")))

// queued leaves an instance that has the only slot of its workflow, and one that waits for it, with nobody at work.
func (r *rig) queued() {
	r.Helper()
	stop := r.serve()
	r.create(at("one", "a"))
	r.reaches(at("one", "a"), protocol.StateRunning)
	r.create(at("one", "b"))
	natstest.Eventually(r, patience, "the other is queued", func() bool { return r.has(slotsStream, placeOfB) })
	natstest.Eventually(r, patience, "its wake is acknowledged", func() bool {
		p, err := r.store.Progress(r.Context(), stream, wakes)
		return err == nil && p.Unacked == 1
	})
	stop()
}

func bothComplete(r *rig) {
	close(r.gate)
	r.reaches(at("one", "a"), protocol.StateComplete)
	r.reaches(at("one", "b"), protocol.StateComplete)
}

func TestDamage(t *testing.T) {
	t.Parallel()
	i := at("works", "a")
	for name, x := range map[string]damage{
		"a create is acknowledged": {NoWake, func(r *rig) {
			r.create(i)
			r.ackByHand(stream, wakes)
		}, func(r *rig) {
			close(r.gate)
			r.reaches(i, protocol.StateComplete)
		}},
		"the wake of a run is acknowledged": {NoWake, func(r *rig) {
			created := r.create(i)
			r.log(i, protocol.Append{
				Incarnation: created, Holder: protocol.Wake{Stream: stream, Sequence: created},
				Entries: []protocol.Entry{{Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpDo, Name: "work", Count: 1}, Attempt: 1}},
			})
			r.ackByHand(stream, wakes)
		}, func(r *rig) {
			close(r.gate)
			r.reaches(i, protocol.StateComplete)
		}},
		"a timer is gone": {NoTimer, func(r *rig) {
			r.parked(at("sleeps", "a"))
			r.remove("TIMERS_p", r.timerOf(at("sleeps", "a")))
		}, func(r *rig) {
			natstest.Eventually(r, patience, "a timer is armed", func() bool { return r.has("TIMERS_p", r.timerOf(at("sleeps", "a"))) })
		}},
		"the wake of an event is acknowledged": {LostInput, func(r *rig) {
			r.parked(at("waits", "a"))
			r.publish(at("waits", "a").EventSubject(), protocol.Event{V: 1, Input: "in", Type: "go", Sent: time.Now()})
			r.ackByHand(stream, wakes)
		}, func(r *rig) { r.reaches(at("waits", "a"), protocol.StateComplete) }},
		"a nudge is acknowledged": {LostInput, func(r *rig) {
			r.parked(at("waits", "a"))
			r.publish(at("waits", "a").NudgeSubject(), protocol.Nudge{V: 1})
			r.ackByHand(stream, wakes)
		}, func(r *rig) { r.quiesce() }},
		"a control is acknowledged": {LostControl, func(r *rig) {
			r.parked(at("waits", "a"))
			r.control(at("waits", "a"), protocol.ActionPause, "program")
			r.ackByHand(stream, controls)
		}, func(r *rig) { r.reaches(at("waits", "a"), protocol.StatePaused) }},
		"an announcement is gone": {EndNotTold, func(r *rig) {
			r.finished(i)
			r.remove(stream, i.DoneSubject())
		}, func(r *rig) {
			natstest.Eventually(r, patience, "the end is announced", func() bool { return r.has(stream, i.DoneSubject()) })
		}},
		"a delete stops in the middle": {HalfDeleted, func(r *rig) {
			r.finished(i)
			m, err := r.store.Last(r.Context(), stream, i.CreateSubject())
			if err != nil {
				r.Fatal(err)
			}
			control := r.control(i, protocol.ActionDelete, "program")
			r.log(i, protocol.Append{
				Incarnation: m.Sequence, Holder: protocol.Wake{Stream: stream, Sequence: control}, Mark: control,
				Entries: []protocol.Entry{{Kind: protocol.EntryDeleted, Input: control}},
			})
			r.ackByHand(stream, controls)
		}, func(r *rig) {
			natstest.Eventually(r, patience, "the create is gone", func() bool { return !r.has(stream, i.CreateSubject()) })
		}},
		"a repair stops in the middle": {LeftPaused, func(r *rig) {
			r.parked(at("waits", "a"))
			r.control(at("waits", "a"), protocol.ActionPause, sourceKind)
			stop := r.serve()
			r.reaches(at("waits", "a"), protocol.StatePaused)
			r.quiesce()
			stop()
		}, func(r *rig) { r.reaches(at("waits", "a"), protocol.StateWaiting) }},
		"a create is carried for nothing": {EmptyCreate, func(r *rig) {
			r.publish(i.CreateSubject(), protocol.Create{V: 1, Input: "in", Workflow: "works", ID: "a", Created: time.Now(), Carried: 1})
			r.ackByHand(stream, wakes)
		}, func(r *rig) {
			natstest.Eventually(r, patience, "the create is gone", func() bool { return !r.has(stream, i.CreateSubject()) })
		}},
		"a timer that nobody waits for": {TimerWithoutWait, func(r *rig) {
			due := time.Now().Add(time.Hour)
			_, err := r.store.Publish(r.Context(), i.TimerSubject(7), map[string][]string{
				protocol.HeaderSchedule: {"@at " + due.UTC().Format(time.RFC3339Nano)}, protocol.HeaderScheduleTarget: {i.DueSubject(7)},
			}, r.json(protocol.Timer{V: 1, Workflow: "works", ID: "a", Incarnation: 5, Park: 7, Due: due}))
			if err != nil {
				r.Fatal(err)
			}
		}, func(r *rig) {
			natstest.Eventually(r, patience, "the timer is gone", func() bool { return !r.has("TIMERS_p", i.TimerSubject(7)) })
		}},
		"an answer is gone": {AnswerNotGiven, func(r *rig) {
			r.create(at("calls", "a"))
			stop := r.serve()
			r.reaches(at("calls", "a"), protocol.StateWaiting)
			r.reaches(i, protocol.StateRunning)
			natstest.Eventually(r, patience, "the wake of the caller is acknowledged", func() bool {
				p, err := r.store.Progress(r.Context(), stream, wakes)
				return err == nil && p.Unacked == 1
			})
			stop()
			m, err := r.store.Last(r.Context(), stream, i.CreateSubject())
			if err != nil {
				r.Fatal(err)
			}
			end := r.log(i, protocol.Append{
				Incarnation: m.Sequence, Holder: protocol.Wake{Stream: stream, Sequence: m.Sequence}, Entries: []protocol.Entry{{Kind: protocol.EntryCompleted}},
			})
			r.publish(i.DoneSubject(), protocol.Done{V: 1, Workflow: "works", ID: "a", Incarnation: m.Sequence, Log: end, State: protocol.StateComplete})
			r.ackByHand(stream, wakes)
		}, func(r *rig) { r.reaches(at("calls", "a"), protocol.StateComplete) }},
		"a place in a queue is gone": {NotQueued, func(r *rig) {
			r.queued()
			r.remove(slotsStream, placeOfB)
		}, bothComplete},
		"the holders of slots are forgotten": {IdleSlots, func(r *rig) {
			r.queued()
			r.remove(slotsStream, protocol.KVSubject("SLOTS_p", protocol.SlotHoldersKey("one")))
		}, bothComplete},
		"a slot is with an instance that is gone": {SlotWithoutOwner, func(r *rig) {
			r.queued()
			r.publish(protocol.KVSubject("SLOTS_p", protocol.SlotHoldersKey("one")), protocol.Slots{V: 1, ID: "by hand", Workflow: "one",
				Holders: []protocol.SlotHolder{{ID: "gone", Incarnation: 99, Log: 100, Since: time.Now()}}})
		}, bothComplete},
		"somebody is queued who is gone": {PlaceWithoutWait, func(r *rig) {
			gone := at("one", "gone")
			r.publish(protocol.KVSubject("SLOTS_p", protocol.SlotWaitKey(gone)), protocol.SlotWait{V: 1, ID: "gone", Incarnation: 99, Park: 100})
		}, func(r *rig) {
			r.create(at("one", "a"))
			close(r.gate)
			r.reaches(at("one", "a"), protocol.StateComplete)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x.run(setup(t))
		})
	}
}

// run finds the damage, has two doctors repair it at once, and lets everything go on.
func (x damage) run(r *rig) {
	x.harm(r)
	found, report := r.examine()
	if !slices.Equal(kinds(found), []Kind{x.kind}) || report.Left() != 1 || found[0].Problem == "" || found[0].Remedy == "" {
		r.Fatalf("found %+v, %+v; want one %s", found, report, x.kind)
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			found, report := r.examine(repair)
			if report.Left() != 0 {
				r.Errorf("not repaired: %+v", found)
			}
			for _, f := range found {
				r.Logf("%s: %s", f.Kind, f.Repaired)
			}
		})
	}
	both.Wait()
	r.serve()
	x.healed(r)
	r.quiesce()
	if found, _ := r.examine(); len(found) > 0 {
		r.Errorf("after the repair: %+v", found)
	}
}

// TestUndecided: as long as a wake is held, nobody can tell of those after it which are acknowledged.
func TestUndecided(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve()
	r.create(at("works", "long"))
	r.reaches(at("works", "long"), protocol.StateRunning)
	r.create(at("works", "longer"))
	r.reaches(at("works", "longer"), protocol.StateRunning)
	r.create(at("waits", "parked"))
	r.reaches(at("waits", "parked"), protocol.StateWaiting)
	r.awaitUnacked(at("waits", "parked"), 2) // of those that run
	if found, report := r.examine(); len(found) > 0 || report.Undecided != 1 || report.Instances != 3 {
		t.Errorf("found %+v, %+v; want nothing, and that of one of three nobody can tell", found, report)
	}
	close(r.gate)
	r.reaches(at("works", "longer"), protocol.StateComplete)
}

func TestWakes(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		mark mark
		want map[uint64]wakeState
	}{
		"all acknowledged": {mark{floor: 9, delivered: 9}, map[uint64]wakeState{9: settled, 10: open}},
		"one is open":      {mark{floor: 4, delivered: 9, first: 5, alone: true}, map[uint64]wakeState{4: settled, 5: open, 6: settled, 10: open}},
		"some are open":    {mark{floor: 4, delivered: 9, first: 6}, map[uint64]wakeState{4: settled, 6: open, 7: unknown, 9: unknown, 10: open}},
	} {
		for sequence, want := range x.want {
			if got := x.mark.state(sequence); got != want {
				t.Errorf("%s: wake %d is %s, want %s", name, sequence, got, want)
			}
		}
	}
}

// TestDebt: what is owed is read from the whole log.
func TestDebt(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i := at("waits", "a")
	r.parked(i)
	reader := runner.Reader{Store: r.store, Project: "p", Shards: 1}
	debt := func() runner.Debt {
		t.Helper()
		d, err := reader.Debt(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	r.publish(i.EventSubject(), protocol.Event{V: 1, Input: "other", Type: "other", Sent: time.Now()})
	r.control(i, protocol.ActionResume, "program")
	if d := debt(); d.Event || d.Control != 0 {
		t.Errorf("debt is %+v, want none: nobody waits for the event, and the control is in vain", d)
	}
	r.publish(i.EventSubject(), protocol.Event{V: 1, Input: "in", Type: "go", Sent: time.Now()})
	pause := r.control(i, protocol.ActionPause, "program")
	if d := debt(); !d.Event || d.Control != pause {
		t.Errorf("debt is %+v, want the event and control %d", d, pause)
	}
}
