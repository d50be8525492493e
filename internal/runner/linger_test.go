package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// lingering makes a runner that keeps what is parked in memory until the test ends, and counts the runs of the code.
func (r *rig) lingering(name string, code Code, change ...func(*Config)) (runner *Runner, runs *atomic.Int64) {
	r.t.Helper()
	runs = new(atomic.Int64)
	runner = r.runner(append(change, func(c *Config) {
		c.Linger = time.Hour
		c.Code[name] = func(ctx context.Context, create protocol.Create) (json.RawMessage, error) {
			runs.Add(1)
			return code(ctx, create)
		}
	})...)
	runner.settles = patience // however slow the machine is
	return runner, runs
}

// TestWaitsInMemory: what ends a park finds the execution in memory that has parked. However often an instance waits, its code
// is not run again, its log is not read, and of its events a few are: a wait costs the same after ten others and after ten thousand.
func TestWaitsInMemory(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner, runs := r.lingering("loop", loop)
	r.serve(runner)
	i := r.begun(at("loop", "a"), waiting)
	log, events := r.reads(i.LogSubject()), r.reads(i.EventSubject())
	const waits = 40
	for n := range waits {
		r.send(i, "go")
		tail := r.tail(i).sequence
		natstest.Eventually(t, patience, fmt.Sprint("it is parked again, the time ", n+1), func() bool {
			return r.count(i, protocol.EntryParked) == n+2
		})
		for _, from := range events() {
			if from+10 < tail {
				t.Errorf("events are read from %d on, the newest message was %d", from, tail)
			}
		}
	}
	if all := log(); len(all) > 0 || runs.Load() != 1 {
		t.Errorf("%d waits took %d runs and %d reads of the log, want one run that reads nothing", waits, runs.Load(), len(all))
	}
	holders := map[protocol.Wake]bool{}
	for _, l := range r.log(i) {
		holders[l.Holder] = true
	}
	s := r.status(i)
	if len(holders) != waits+1 || len(s.Steps) != 2*waits+1 {
		t.Errorf("%d waits were held under %d wakes and have recorded %d steps", waits, len(holders), len(s.Steps))
	}
	r.inOrder(i)
	r.quiesce(protocol.ConsumerWakes(0), 0)
	natstest.Eventually(t, patience, "all slots are free", func() bool { return len(runner.slots) == 0 })
}

// TestSleepsInMemory: a timer finds the execution, too, and so does the next one: each park has a timer of its own.
func TestSleepsInMemory(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner, runs := r.lingering("naps", func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
		s, err := execution.From(ctx)
		for n := 0; n < 3 && err == nil; n++ {
			err = s.Sleep(ctx, "nap", func(now time.Time) time.Time { return now.Add(100 * time.Millisecond) })
		}
		return nil, err
	})
	r.serve(runner)
	i := r.begun(at("naps", "a"), protocol.StateComplete)
	if n := r.count(i, protocol.EntryParked); runs.Load() != 1 || n == 0 || r.count(i, protocol.EntrySlept) != 3 {
		t.Errorf("%d runs, the log has %+v", runs.Load(), r.entries(i))
	}
}

// TestLongLivedStay: an instance that has called much stays in memory for longer than others, as far as there is room.
func TestLongLivedStay(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		calls int
		taken int64
		want  time.Duration
	}{
		{"short", worthStaying - 2, 0, time.Second},
		{"long", worthStaying + 2, 0, keepIdle},
		{"long, but there is no room", worthStaying + 2, staySize, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			runner := r.runner(func(c *Config) { c.Linger = time.Second })
			runner.staying.Store(row.taken)
			x := r.parkedAfter(runner, row.calls)
			stays, free := runner.stay(x)
			if stays != row.want {
				t.Errorf("it stays for %v, want %v", stays, row.want)
			}
			if took := runner.staying.Load() > row.taken; took != (row.want == keepIdle) {
				t.Errorf("it has %d bytes of what there is", runner.staying.Load())
			}
			if free(); runner.staying.Load() != row.taken {
				t.Error("it has not given back what it had")
			}
		})
	}
}

// parkedAfter executes an instance that is parked after a number of calls.
func (r *rig) parkedAfter(runner *Runner, calls int) *active {
	r.t.Helper()
	i := r.create(at("calls", "a"))
	history := engine.NewHistory(i.Stream(), r.created(i), protocol.Create{})
	x := execution.Start(r.t.Context(), execution.Config{
		Settings: runner.Settings, Store: r.store, Instance: i, Runner: runner.ID, History: history, Wake: history.Holder,
		Log: runner.Log, NextID: runner.nextID,
	}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := execution.From(ctx)
		for range calls - 1 {
			if err == nil {
				_, err = s.Value("n", func() json.RawMessage { return json.RawMessage("1") })
			}
		}
		if err == nil {
			err = s.Sleep(ctx, "nap", func(now time.Time) time.Time { return now.Add(time.Hour) })
		}
		return nil, err
	})
	r.t.Cleanup(func() { x.Drop(execution.ErrReleased) })
	if e := <-x.Events(); e.Kind != execution.Parked {
		r.t.Fatalf("event %d: %v", e.Kind, e.Err)
	}
	return follow(x)
}

// TestInMemoryWithASlot: an execution that waits in memory has no slot of its workflow. It goes on when it has one again: at
// once if one is free, and else as an instance that was never executed here, when its turn comes.
func TestInMemoryWithASlot(t *testing.T) {
	t.Parallel()
	r := setup(t)
	code := func(ctx context.Context, c protocol.Create) (json.RawMessage, error) {
		if c.ID == "works" {
			return nil, do(ctx, "work", r.gate(c.ID).body)
		}
		return loop(ctx, c)
	}
	runner, runs := r.lingering("w", code, func(c *Config) { c.Concurrency = map[string]int{"w": 1} })
	r.serve(runner)
	i := r.begun(at("w", "waits"), waiting)
	r.loops(i, 10)
	if runs.Load() != 1 {
		t.Errorf("%d runs, want one that goes on", runs.Load())
	}
	works := r.create(at("w", "works"))
	r.gate("works").await(t)
	parks := r.count(i, protocol.EntryParked)
	r.send(i, "go")
	r.reaches(i, protocol.StateQueued)
	close(r.gate("works").open)
	r.reaches(works, protocol.StateComplete)
	natstest.Eventually(t, patience, "it went around once more", func() bool { return r.count(i, protocol.EntryParked) == parks+2 })
	if runs.Load() != 3 {
		t.Errorf("%d runs, want three: two of the instance that waits", runs.Load())
	}
	r.quiesce(protocol.ConsumerWakes(0), 0)
}

// TestSteeredInMemory: what is in memory is of an older park once a control was obeyed, and does not go on any more.
func TestSteeredInMemory(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner, runs := r.lingering("loop", loop)
	r.serve(runner)
	i := r.begun(at("loop", "a"), waiting)
	r.loops(i, 8)
	r.control(i, pause)
	r.reaches(i, paused)
	r.send(i, "go")
	r.quiesce(protocol.ConsumerWakes(0), 0)
	parks := r.count(i, protocol.EntryParked)
	r.control(i, resume)
	natstest.Eventually(t, patience, "it went around once more", func() bool { return r.count(i, protocol.EntryParked) > parks })
	r.loops(i, len(r.log(i))+6)
	if runs.Load() != 2 {
		t.Errorf("%d runs, want one before the control and one after it", runs.Load())
	}
	r.control(i, terminate)
	r.reaches(i, protocol.StateTerminated)
}

// TestTwoKeepItInMemory: of two runners that have the instance in memory only the one goes on that has parked it last.
func TestTwoKeepItInMemory(t *testing.T) {
	t.Parallel()
	r := setup(t)
	for range 2 {
		runner, _ := r.lingering("loop", loop)
		r.serve(runner)
	}
	i := r.begun(at("loop", "a"), waiting)
	r.loops(i, 60)
	r.inOrder(i)
}

// inOrder checks what loop has done: its steps are one after the other, each once.
func (r *rig) inOrder(i protocol.Instance) {
	r.t.Helper()
	n := 0
	for _, e := range r.entries(i) {
		if e.Kind == protocol.EntryStepCompleted {
			if n++; string(e.Result) != fmt.Sprint(n-1) || e.Step.Count != n {
				r.t.Errorf("step %d is %v and has returned %s", n, *e.Step, e.Result)
			}
		}
	}
	if n == 0 {
		r.t.Error("no step is recorded")
	}
}

// created is the sequence of the create of an instance.
func (r *rig) created(i protocol.Instance) uint64 {
	r.t.Helper()
	m, err := r.store.Last(r.t.Context(), i.Stream(), i.CreateSubject())
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Sequence
}
