package runner

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

var (
	pause     = protocol.Control{Action: protocol.ActionPause}
	resume    = protocol.Control{Action: protocol.ActionResume}
	terminate = protocol.Control{Action: protocol.ActionTerminate}
	restart   = protocol.Control{Action: protocol.ActionRestart}
	remove    = protocol.Control{Action: protocol.ActionDelete}
	compact   = protocol.Control{Action: protocol.ActionCompact}
)

// TestPauseLetsBodiesFinish: what runs is finished and recorded, nothing else begins, and nothing is done twice.
func TestPauseLetsBodiesFinish(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.listening()
	r.serve(runner)
	i := r.create(at("branches", "a"))
	r.gate("a").await(t)
	r.until(i, "runs on all branches", func(s protocol.Status) bool { return len(s.Steps) == 3 })
	c := r.control(i, pause)
	r.reaches(i, pausing)
	r.yields(runner, i, c)
	r.send(i, "go") // for the other branch, which must not go on now
	r.quiesce(protocol.ConsumerWakes(0), 1)
	close(r.gate("a short").open)
	r.until(i, "has recorded the short one", func(protocol.Status) bool { return r.count(i, protocol.EntryStepCompleted) == 1 })
	r.reaches(i, pausing)
	close(r.gate("a").open)
	s := r.reaches(i, paused)
	if n := r.count(i, protocol.EntryStepCompleted); n != 2 || len(s.Steps) != 3 {
		t.Errorf("%d steps are completed, want those that ran: %+v", n, s.Steps)
	}
	r.quiesce(protocol.ConsumerControls(0), 0)
	r.control(i, resume)
	r.reaches(i, complete)
	if len(r.gate("a").arrived) != 0 {
		t.Error("the body ran again")
	}
	for _, run := range r.status(i).Runs {
		if run.Lost {
			t.Errorf("a run counts as lost: %+v", run)
		}
	}
}

// TestWhilePausing: what comes while bodies finish is obeyed together with the pause.
func TestWhilePausing(t *testing.T) {
	t.Parallel()
	shared := setup(t)
	runner := shared.listening()
	shared.serve(runner)
	for _, row := range []struct {
		name    string
		then    protocol.Control
		stopped bool
		end     protocol.State
	}{{"resumed", resume, false, complete}, {"terminated", terminate, true, terminated}, {"restarted", restart, true, running}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := shared.on(t)
			i, g := r.create(at("works", row.name)), r.gate(row.name)
			g.await(t)
			c := r.control(i, pause)
			r.reaches(i, pausing)
			r.yields(runner, i, c)
			sent := r.control(i, row.then)
			if row.stopped {
				g.wasStopped(t)
			} else {
				r.reaches(i, running)
				close(g.open)
			}
			s := r.until(i, "has settled both", func(s protocol.Status) bool { return s.State == row.end && s.Mark >= sent })
			if n := r.count(i, protocol.EntryPaused); n != 1 {
				t.Errorf("%d pauses are recorded: %+v", n, s)
			}
			if row.then.Action == protocol.ActionRestart {
				g.await(t)
			}
			if len(g.arrived) != 0 || r.count(i, protocol.EntryReleased) != 1 {
				t.Errorf("%d bodies ran again, the log is %+v", len(g.arrived), r.entries(i))
			}
		})
	}
}

// TestShutdownWhilePausing: bodies have no more time than at any shutdown.
func TestShutdownWhilePausing(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.listening(func(c *Config) { c.Grace = 600 * time.Millisecond })
	stop := r.serve(runner)
	i := r.create(at("works", "a"))
	r.gate("a").await(t)
	r.yields(runner, i, r.control(i, pause))
	r.reaches(i, pausing)
	stop()
	r.gate("a").wasStopped(t)
	r.serve(r.runner())
	r.reaches(i, paused)
	r.control(i, resume)
	if a := r.gate("a").await(t); a.Number != 2 {
		t.Errorf("attempt %d runs, want the second", a.Number)
	}
	if r.status(i).Runs[0].Lost {
		t.Error("the run that was given back counts as lost")
	}
}

// TestPausedTimeDoesNotCount: sleeps and timeouts end later by as long as the instance stood still.
func TestPausedTimeDoesNotCount(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner())
	i := r.begun(at("sleeps", "a"), waiting)
	all := r.entries(i)
	before := all[len(all)-1].Until
	r.control(i, pause)
	r.reaches(i, paused)
	r.control(i, resume)
	r.reaches(i, waiting)
	all = r.entries(i)
	shift := time.Duration(all[slices.IndexFunc(all, func(e protocol.Entry) bool { return e.Kind == protocol.EntryResumed })].Shift)
	if after := all[len(all)-1].Until; shift <= 0 || !after.Equal(before.Add(shift)) {
		t.Errorf("the sleep ends at %v, before the pause of %v it was %v", after, shift, before)
	}
}

// start runs an instance as a runner does that hears nothing.
func (r *rig) start(runner *Runner, i protocol.Instance) *execution.Execution {
	r.t.Helper()
	s, err := runner.look(r.t.Context(), i)
	if err != nil {
		r.t.Fatal(err)
	}
	history, err := runner.load(r.t.Context(), i, s)
	if err != nil {
		r.t.Fatal(err)
	}
	x := execution.Start(r.t.Context(), execution.Config{
		Settings: execution.Settings{Gather: time.Hour}, // it does not even tell that it began
		Store:    r.store, Instance: i, Runner: runner.ID, History: history, Log: runner.Log, NextID: runner.nextID,
		Wake:   protocol.Wake{Stream: i.Stream(), Sequence: s.created},
		Inputs: func(context.Context, uint64) ([]engine.Input, error) { return nil, nil },
	}, func(ctx context.Context) (json.RawMessage, error) {
		return runner.Code[i.Workflow](ctx, history.Create)
	})
	r.t.Cleanup(func() { x.Drop(execution.ErrSuperseded) })
	return x
}

// TestWhoeverIsSilentIsOverruled: a control does not wait for an executor that does not answer, and nothing of what that
// one does afterwards counts.
func TestWhoeverIsSilentIsOverruled(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i, silent := r.create(at("works", "a")), r.runner()
	wake := r.take(protocol.ConsumerWakes(0), 1)[0]
	r.pauseWakes() // the other must not get it again while this one has it
	x := r.start(silent, i)
	pokes, err := r.nc.SubscribeSync(protocol.PokeSubject("p"))
	if err != nil {
		t.Fatal(err)
	}
	r.serve(r.runner())
	r.gate("a").await(t)
	c := r.control(i, terminate)
	r.announced(i, "terminated", func(d protocol.Done) bool { return d.State == terminated })
	for _, asked := range []bool{true, false} { // first it is asked, then it is told
		m, err := pokes.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		var p protocol.Poke
		if err := json.Unmarshal(m.Data, &p); err != nil || p.Control != c || p.ID != i.ID || (m.Reply != "") != asked {
			t.Errorf("poke %s with reply %q (%v), want one about control %d", m.Data, m.Reply, err, c)
		}
	}
	close(r.gate("a").open)
	if e := <-x.Events(); e.Kind != execution.Dropped || !errors.Is(e.Err, execution.ErrSuperseded) {
		t.Errorf("event %d: %v, want that its append was refused", e.Kind, e.Err)
	}
	r.deliver(silent, wake)
	r.quiesce(protocol.ConsumerWakes(0), 0)
	if n := len(r.log(i)); n != 1 || r.count(i, protocol.EntryStepCompleted) != 0 {
		t.Errorf("the log holds %+v", r.log(i))
	}
}

// TestWhoeverStopsOverrulesNobody: a runner that is about to stop does not wait for an answer, and does not take that for
// silence.
func TestWhoeverStopsOverrulesNobody(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i, silent := r.create(at("works", "a")), r.runner()
	r.start(silent, i)
	r.gate("a").await(t)
	if _, err := r.nc.SubscribeSync(protocol.PokeSubject("p")); err != nil {
		t.Fatal(err)
	}
	r.control(i, terminate)
	stops := r.listening()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	stops.stopping = ctx
	r.deliver(stops, r.take(protocol.ConsumerControls(0), 1)[0])
	if s := r.status(i); s.State != queued { // it has not stored anything yet
		t.Errorf("the instance is %q, want %q", s.State, queued)
	}
}

// TestWhoeverPromisesTooMuchIsOverruled: one that answers and does not do it is not asked for ever, unless bodies may
// finish.
func TestWhoeverPromisesTooMuchIsOverruled(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.listening()
	promises, err := r.nc.Subscribe(protocol.PokeSubject("p"), func(m *nats.Msg) { _ = m.Respond(nil) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = promises.Unsubscribe() }()
	i := r.create(at("works", "a"))
	for _, row := range []struct {
		control    protocol.Control
		old, often bool
		state      protocol.State
	}{
		{pause, false, false, queued}, {pause, true, true, queued}, {terminate, false, true, queued}, {terminate, true, false, queued},
		{terminate, true, true, terminated},
	} {
		sent := r.control(i, row.control)
		h := r.take(protocol.ConsumerControls(0), 1)[0]
		for h.Wake.Sequence != sent { // an earlier one that was not obeyed comes again
			h = r.take(protocol.ConsumerControls(0), 1)[0]
		}
		if row.old {
			h.stored = time.Now().Add(-2 * askedAtMost)
		}
		if row.often {
			h.deliveries = askedOften + 1
		}
		r.deliver(runner, h)
		if s := r.status(i); s.State != row.state {
			t.Errorf("after %s (old: %v, asked often: %v) the instance is %q, want %q", row.control.Action, row.old, row.often, s.State, row.state)
		}
	}
}

// TestWhoeverWasOverruledStops: an executor that hears of a control that was obeyed without it stops at once.
func TestWhoeverWasOverruledStops(t *testing.T) {
	t.Parallel()
	shared := setup(t)
	shared.pauseWakes()
	shared.serve(shared.runner())
	for _, row := range []struct {
		name    string
		control protocol.Control
		state   protocol.State
	}{{"paused", pause, paused}, {"terminated", terminate, terminated}, {"deleted", remove, none}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := shared.on(t)
			i, deaf := r.create(at("works", row.name)), r.runner()
			x := r.start(deaf, i)
			r.gate(row.name).await(t)
			c := r.control(i, row.control)
			r.reaches(i, row.state)
			deaf.controlled(&nats.Msg{}, x, c)
			if e := <-x.Events(); e.Kind != execution.Dropped || !errors.Is(e.Err, execution.ErrSuperseded) {
				t.Errorf("event %d: %v, want that it was overruled", e.Kind, e.Err)
			}
			r.gate(row.name).wasStopped(t)
		})
	}
}

// TestControlIsOlderThanTheClaim: whoever was to obey a control has died together with whoever executed. The next one does
// not begin a body first.
func TestControlIsOlderThanTheClaim(t *testing.T) {
	t.Parallel()
	shared := setup(t)
	for _, row := range []struct {
		control protocol.Control
		state   protocol.State
	}{{pause, paused}, {terminate, terminated}, {resume, complete}} {
		t.Run(string(row.control.Action), func(t *testing.T) {
			r := shared.on(t)
			runner := r.runner()
			runner.stopping = t.Context()
			i := r.create(at("works", string(row.control.Action)))
			wake := r.take(protocol.ConsumerWakes(0), 1)[0]
			r.beginLog(i, protocol.Entry{Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpDo, Name: "work", Count: 1}, Attempt: 1})
			r.control(i, row.control)
			close(r.gate(i.ID).open)
			r.deliver(runner, wake)
			if s := r.status(i); s.State != row.state || (len(r.gate(i.ID).arrived) > 0) != (row.state == complete) {
				t.Errorf("the instance is %q, want %q; %d bodies ran", s.State, row.state, len(r.gate(i.ID).arrived))
			}
			r.deliver(runner, r.take(protocol.ConsumerControls(0), 1)[0])
			r.quiesce(protocol.ConsumerControls(0), 0)
			r.quiesce(protocol.ConsumerWakes(0), 0)
		})
	}
}

// TestControlsOutOfOrder: the newer control is delivered first. Both are obeyed, in their order.
func TestControlsOutOfOrder(t *testing.T) {
	t.Parallel()
	shared := setup(t)
	for _, row := range []struct {
		name          string
		first, second protocol.Control
		end           protocol.State
	}{
		{"pause and resume", pause, resume, waiting},
		{"resume and pause", resume, pause, paused},
		{"restart and terminate", restart, terminate, terminated},
		{"terminate and restart", terminate, restart, waiting},
		{"terminate and delete", terminate, remove, none},
		{"delete and restart", remove, restart, none},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := shared.on(t)
			runner := r.runner()
			runner.stopping = t.Context()
			i := r.create(at("waits", plain(row.name)))
			r.deliver(runner, r.take(protocol.ConsumerWakes(0), 1)[0])
			r.control(i, row.first)
			r.control(i, row.second)
			both := r.take(protocol.ConsumerControls(0), 2)
			r.deliver(runner, both[1])
			r.deliver(runner, both[0])
			r.deliver(runner, again(both[1]))
			r.deliver(runner, again(both[0]))
			if s := r.status(i); s.State != row.end {
				t.Errorf("the instance is %q, want %q", s.State, row.end)
			}
			r.quiesce(protocol.ConsumerControls(0), 0)
			r.quiesce(protocol.ConsumerWakes(0), 0)
		})
	}
}

// TestRestartFromAStep keeps what was recorded before the step. What runs again has other effects than before.
func TestRestartFromAStep(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner())
	i := r.create(at("works", "a"))
	first := r.gate("a").await(t)
	close(r.gate("a").open)
	r.announced(i, "complete", func(d protocol.Done) bool { return d.State == complete })
	from := func(name string) protocol.Control {
		return protocol.Control{Action: protocol.ActionRestart, From: &protocol.Key{Op: protocol.OpDo, Name: name, Count: 1}}
	}
	c := r.control(i, from("after"))
	r.announced(i, "complete again", func(d protocol.Done) bool { return d.State == complete && d.Epoch == 1 && d.Mark == c })
	if len(r.gate("a").arrived) != 0 {
		t.Error("the step before ran again")
	}
	c = r.control(i, from("work"))
	second := r.gate("a").await(t)
	r.announced(i, "complete once more", func(d protocol.Done) bool { return d.State == complete && d.Epoch == 2 && d.Mark == c })
	if first.IdempotencyKey == second.IdempotencyKey || second.Number != 1 || first.Fence >= second.Fence {
		t.Errorf("the body was told %+v, then %+v", first, second)
	}
	c = r.control(i, from("nothing has this name"))
	d := r.announced(i, "to be final", func(d protocol.Done) bool { return d.Mark == c })
	if d.Epoch != 2 || r.count(i, protocol.EntryRestarted) != 2 {
		t.Errorf("a restart from a step that is not there led to %+v", d)
	}
}

// TestRestartForgetsEvents that no wait has taken. Those that come after it count.
func TestRestartForgetsEvents(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i := r.create(at("waits", "a"))
	r.send(i, "go")
	r.control(i, restart)
	r.serve(r.runner())
	r.until(i, "waits again", func(s protocol.Status) bool { return s.State == waiting && s.Epoch == 1 })
	r.send(i, "go")
	r.reaches(i, complete)
}

// TestDelete takes an instance away that is executed, and creates another of its id. Whoever still executes the old one
// leaves no trace in the new.
func TestDelete(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i := r.create(at("works", "a"))
	r.take(protocol.ConsumerWakes(0), 1)
	unbegun := r.start(r.runner(), i)
	r.serve(r.runner())
	r.gate("a").await(t)
	r.send(i, "go")
	r.control(i, remove)
	r.announced(i, "deleted", func(d protocol.Done) bool { return d.State == protocol.StateDeleted })
	natstest.Eventually(t, patience, "the id is free", func() bool {
		_, err := r.store.Last(t.Context(), i.Stream(), i.CreateSubject())
		return errors.Is(err, journal.ErrNotFound)
	})
	tombstone := r.tail(i)
	r.create(i)
	close(r.gate("a").open)
	if e := <-unbegun.Events(); e.Kind != execution.Dropped || !errors.Is(e.Err, execution.ErrSuperseded) {
		t.Errorf("event %d: %v, want that its append to an empty log was refused", e.Kind, e.Err)
	}
	r.reaches(i, complete)
	for _, l := range r.log(i)[1:] {
		if l.Incarnation == tombstone.Incarnation || l.sequence < tombstone.sequence {
			t.Errorf("the new log holds %+v of the old instance", l)
		}
	}
	d := r.announced(i, "complete", func(d protocol.Done) bool { return d.State == complete })
	if d.Incarnation <= tombstone.sequence {
		t.Errorf("announced is %+v", d)
	}
	r.quiesce(protocol.ConsumerWakes(0), 0)
}

// TestDeleteIsFinished by whoever gets the control again, wherever it was broken off.
func TestDeleteIsFinished(t *testing.T) {
	t.Parallel()
	shared := setup(t)
	for _, row := range []struct {
		name  string
		purge func(i protocol.Instance) []string
		again bool
	}{
		{"after the entry", func(protocol.Instance) []string { return nil }, false},
		{"after the inputs", func(i protocol.Instance) []string { return []string{i.InputsSubject()} }, false},
		{"before the controls", func(i protocol.Instance) []string {
			return []string{i.InputsSubject(), i.DoneSubject(), i.LogSubject()}
		}, false},
		{"after the inputs, and the id was used again", func(i protocol.Instance) []string { return []string{i.InputsSubject()} }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := shared.on(t)
			runner := r.runner()
			runner.stopping = t.Context()
			i := r.create(at("waits", plain(row.name)))
			r.deliver(runner, r.take(protocol.ConsumerWakes(0), 1)[0])
			c := r.control(i, remove)
			h := r.take(protocol.ConsumerControls(0), 1)[0]
			last := r.tail(i)
			r.publish(i.DoneSubject(), protocol.Done{V: 1, State: complete, Incarnation: last.Incarnation})
			tombstone := r.appendAs(i, protocol.Wake{Stream: i.Stream(), Sequence: c}, c, protocol.Entry{
				Kind: protocol.EntryDeleted, Error: &protocol.Failure{Name: protocol.FailureDeleted},
			})
			for _, subject := range row.purge(i) {
				if err := r.store.Purge(t.Context(), i.Stream(), subject, tombstone); err != nil {
					t.Fatal(err)
				}
			}
			if row.again {
				r.create(i)
			}
			r.deliver(runner, h)
			if log := r.log(i); len(log) != 1 || log[0].sequence != tombstone {
				t.Errorf("the log holds %+v, want the tombstone %d", log, tombstone)
			}
			for _, subject := range []string{i.DoneSubject(), i.ControlSubject()} {
				if m, err := r.store.NextFromLeader(t.Context(), i.Stream(), subject, 1); err == nil && m.Sequence < tombstone {
					t.Errorf("%s still holds %d", subject, m.Sequence)
				}
			}
			if exists := r.status(i).State != none; exists != row.again {
				t.Errorf("there is an instance: %v", exists)
			}
			r.quiesce(protocol.ConsumerControls(0), 0)
		})
	}
}

// TestCompact: a snapshot changes nothing that can be seen, and stops nobody.
func TestCompact(t *testing.T) {
	t.Parallel()
	shared := setup(t)
	shared.serve(shared.runner())
	for from, then := range map[string]protocol.State{"waiting": waiting, "paused": paused, "in a body": running, "finished": complete} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			r := shared.on(t)
			i := begin[from](r, plain(from))
			before := r.until(i, "has begun", func(s protocol.Status) bool { return len(s.Runs) > 0 })
			mark := r.tail(i).Mark
			r.control(i, compact)
			natstest.Eventually(t, patience, "there is a snapshot", func() bool { return r.count(i, protocol.EntrySnapshot) == 1 })
			after := r.status(i)
			if after.State != then || len(after.Steps) != len(before.Steps) || len(after.Runs) != len(before.Runs) || r.tail(i).Mark != mark {
				t.Errorf("the instance was\n%+v\nand is\n%+v", before, after)
			}
			if from == "finished" {
				r.announced(i, "once more", func(d protocol.Done) bool { return d.Mark > mark })
				if all := r.done(i); all[len(all)-1].Log != all[0].Log {
					t.Errorf("the end is announced as another one: %+v", all)
				}
				return
			}
			if from == "paused" {
				r.control(i, resume)
				r.reaches(i, waiting)
			}
			r.send(i, "go")
			close(r.gate(plain(from)).open)
			for _, run := range r.reaches(i, complete).Runs {
				if run.Lost {
					t.Errorf("a run was lost: %+v", run)
				}
			}
			if n := len(r.gate(plain(from)).arrived); n > 0 {
				t.Errorf("the body ran %d times more", n)
			}
		})
	}
}

// TestCompactExpired: what has expired and cannot be cleaned away yet is brought over the horizon like what has not.
func TestCompactExpired(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner())
	i := r.createWith(at("quick", "a"), protocol.Create{Retention: &protocol.Retention{Success: protocol.Duration(time.Nanosecond)}})
	r.announced(i, "as complete", func(d protocol.Done) bool { return d.State == complete })
	r.control(i, compact)
	natstest.Eventually(t, patience, "there is a snapshot", func() bool { return r.count(i, protocol.EntrySnapshot) == 1 })
	r.control(i, restart)
	r.quiesce(protocol.ConsumerControls(0), 0)
	if n := r.count(i, protocol.EntryRestarted); n != 0 {
		t.Error("what has expired was restarted")
	}
}

// TestKept: every end says until when the instance is kept. After that nobody finds it.
func TestKept(t *testing.T) {
	t.Parallel()
	shared := setup(t)
	shared.serve(shared.runner(func(c *Config) {
		c.Retention = map[string]protocol.Retention{"fails": {Success: protocol.Duration(time.Hour), Error: protocol.Duration(2 * time.Hour)}}
	}))
	own := &protocol.Retention{Success: protocol.Duration(time.Minute), Error: protocol.Duration(time.Nanosecond)}
	for _, row := range []struct {
		name, workflow string
		own            *protocol.Retention
		terminate      bool
		want           time.Duration
	}{
		{"complete", "quick", nil, false, 30 * 24 * time.Hour},
		{"complete, as it says", "quick", own, false, time.Minute},
		{"errored, as its workflow says", "fails", nil, false, 2 * time.Hour},
		{"errored, as it says", "fails", own, false, time.Nanosecond},
		{"terminated", "waits", nil, true, 30 * 24 * time.Hour},
		{"terminated, as it says", "waits", own, true, time.Nanosecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := shared.on(t)
			i := r.createWith(at(row.workflow, plain(row.name)), protocol.Create{Retention: row.own})
			if row.terminate {
				r.reaches(i, waiting)
				r.control(i, terminate)
			}
			d := r.announced(i, "to have ended", func(d protocol.Done) bool { return true })
			end := r.tail(i).Entries
			if d.Expires == nil || !d.Expires.Equal(*end[len(end)-1].Expires) {
				t.Fatalf("announced is %+v, the log ends with %+v", d, end[len(end)-1])
			}
			if kept := d.Expires.Sub(d.Finished); kept > row.want || kept < row.want-time.Minute {
				t.Errorf("it is kept for %v, want %v", kept, row.want)
			}
			if found := r.status(i).State != none; found != (row.want > time.Second) {
				t.Errorf("it is found: %v", found)
			}
		})
	}
}

// TestWhatIsNoControl holds up nothing, unless a newer version may understand it.
func TestWhatIsNoControl(t *testing.T) {
	t.Parallel()
	r := setup(t)
	stop := r.serve(r.runner())
	i := r.begun(at("waits", "a"), waiting)
	for _, body := range []string{
		"", "no JSON", `[]`, `{"v":1,"action":"dance"}`, `{"v":1,"action":"pause","incarnation":999}`, `{"v":1,"action":["pause"]}`,
		`{"v":1,"action":"pause","input":"` + strings.Repeat("x", maxInputID+1) + `"}`,
	} {
		if _, err := r.store.Publish(t.Context(), i.ControlSubject(), nil, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	r.quiesce(protocol.ConsumerControls(0), 0)
	r.reaches(i, waiting)
	byHand := func(action string, state protocol.State) { // without an id, each counts
		if _, err := r.store.Publish(t.Context(), i.ControlSubject(), nil, []byte(`{"v":1,"action":"`+action+`"}`)); err != nil {
			t.Fatal(err)
		}
		r.reaches(i, state)
	}
	byHand("pause", paused)
	byHand("resume", waiting)
	byHand("pause", paused)
	byHand("resume", waiting)
	stop()
	r.publish(i.ControlSubject(), map[string]any{"v": protocol.Version + 1, "action": "pause"})
	r.deliver(r.runner(), &held{
		Wake:     engine.Wake{Wake: protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: r.control(i, terminate)}, Kind: engine.WakeControl},
		instance: i,
	})
	if s := r.status(i); s.State != waiting {
		t.Errorf("the instance is %q: something overtook what it does not understand", s.State)
	}
}
