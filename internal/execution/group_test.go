package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// team is a group of parts. What its Wait returns is noted, and the error does not end the code.
type team struct {
	mu   sync.Mutex
	errs []string
}

func (c *team) of(parts ...part) part {
	return func(ctx context.Context) error {
		err := group(parts...)(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.errs = append(c.errs, fmt.Sprint(err))
		return nil
	}
}

// seen is what the runs saw, which must be the same.
func (c *team) seen(t *testing.T, runs int, want string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errs) != runs || slices.ContainsFunc(c.errs, func(err string) bool { return err != want }) {
		t.Errorf("the errors are %q, want %q in %d runs", c.errs, want, runs)
	}
}

func failWith(text string) part { return func(context.Context) error { return errors.New(text) } }

// inRun is a part that is one thing in the first run and another later.
func inRun(first, later part) part {
	n := 0
	return func(ctx context.Context) error {
		if n++; n == 1 {
			return first(ctx)
		}
		return later(ctx)
	}
}

// still waits until no goroutine of an execution computes but so many.
func (r *rig) still(x *Execution, but int) {
	r.t.Helper()
	natstest.Eventually(r.t, natstest.Patience, "the others wait or have returned", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		n := 0
		for _, l := range x.lanes {
			if !l.still() {
				n++
			}
		}
		return n <= but
	})
}

// parks runs code until it parks, and returns what it waits for.
func (r *rig) parks(code func(ctx context.Context) (json.RawMessage, error)) []protocol.Wait {
	r.t.Helper()
	x := r.again(Settings{}, code)
	defer x.Drop(ErrSuperseded)
	return r.event(x, Parked).Park.Waits
}

// TestGivenUpWait: a wait that a failing group has given up takes no event that comes later, however slowly the error comes in
// a later run.
func TestGivenUpWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c team
	goOn := make(chan struct{})
	code := all(c.of(eventOf("given up", "go"), seq(event("fail"), inRun(step(), holdUp(goOn)), fail)), eventOf("next", "go"), nap("end"))
	r.parks(code)
	r.send("fail")
	if waits := r.parks(code); len(waits) != 1 || waits[0].Name != "next" {
		t.Fatalf("it waits for %+v", waits)
	}
	r.send("go")
	second := r.again(Settings{Idle: time.Hour}, code)
	r.still(second, 1)
	second.Refresh()
	close(goOn)
	if e := r.event(second, Parked); len(e.Park.Waits) != 1 || e.Park.Waits[0].Name != "end" {
		t.Errorf("it waits for %+v", e.Park.Waits)
	}
	c.seen(t, 2, errOn.Error())
	for _, e := range r.entries() {
		if e.Kind == protocol.EntryReceived && e.Step.Name == "given up" {
			t.Errorf("the wait that was given up took event %d", e.Input)
		}
	}
	steps := r.history().Status().Steps
	if i := slices.IndexFunc(steps, func(s protocol.StepStatus) bool { return s.Name == "given up" }); i < 0 || steps[i].State != "canceled" {
		t.Errorf("the steps are %+v", steps)
	}
}

// TestFirstErrorStays: of two errors of a group, a later run returns the one that the first run did, whichever comes first
// then, also if the runner dies as soon as that is stored.
func TestFirstErrorStays(t *testing.T) {
	t.Parallel()
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprint("dies: ", dies), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var c team
			first, second := make(chan struct{}), make(chan struct{})
			code := all(c.of(
				seq(event("a"), inRun(holdUp(first), step()), failWith("error a")),
				seq(event("b"), inRun(step(), holdUp(second)), failWith("error b")),
			), step("after"), nap("end"))
			r.parks(code)
			r.send("a")
			r.send("b")
			settings := Settings{Idle: time.Hour}
			if dies {
				settings.Stored = func(entries []protocol.Entry) bool {
					return slices.ContainsFunc(entries, func(e protocol.Entry) bool { return e.Kind == protocol.EntryGroupFailed })
				}
			}
			x := r.again(settings, code)
			natstest.Eventually(t, natstest.Patience, "one function has returned", func() bool {
				x.mu.Lock()
				defer x.mu.Unlock()
				return len(x.lanes) == 2
			})
			close(first)
			if dies {
				r.event(x, Dropped)
			} else {
				r.event(x, Parked)
				x.Drop(ErrSuperseded)
			}
			x = r.again(Settings{Idle: time.Hour}, code)
			r.still(x, 1)
			close(second)
			r.event(x, Parked)
			c.seen(t, len(c.errs), "error b")
		})
	}
}

// TestClosedGroup: what a function of a group calls after another has failed is not carried out, in no run, and counts for
// nothing.
func TestClosedGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c team
	goOn := make(chan struct{})
	told := func(ctx context.Context) error { <-ctx.Done(); return nil }
	code := all(c.of(
		seq(event("a"), inRun(told, step()), step("late"), nap("late")),
		seq(event("b"), inRun(step(), holdUp(goOn)), fail),
	), func(ctx context.Context) error {
		if got := own(ctx, t, "late"); got != `"own"` {
			t.Errorf("the step after the group got the result %s of another", got)
		}
		return nil
	}, nap("end"))
	r.parks(code)
	r.send("a")
	r.send("b")
	r.parks(code)
	x := r.again(Settings{Idle: time.Hour}, code)
	r.still(x, 1)
	close(goOn)
	r.event(x, Parked)
	c.seen(t, 2, errOn.Error())
	h := r.history()
	if s := h.Steps[protocol.Key{Op: protocol.OpDo, Name: "late", Count: 1}]; len(h.Steps) != 5 || s == nil || string(s.Result) != `"own"` {
		t.Errorf("recorded are %v", h.Order)
	}
}

// TestBodyOfAFailedGroup: the body of a step that runs while its group fails may still have an outcome, which is recorded and
// stays. One that has none is not tried again.
func TestBodyOfAFailedGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c team
	var bodies atomic.Int64
	body := func(name string, end func() (json.RawMessage, error)) part {
		return func(ctx context.Context) error {
			return do(ctx, name, func(ctx context.Context) (json.RawMessage, error) { bodies.Add(1); <-ctx.Done(); return end() })
		}
	}
	both := make(chan struct{})
	begun := func(context.Context) error { <-both; return nil }
	code := all(c.of(
		seq(body("booked", func() (json.RawMessage, error) { return json.RawMessage(`"seat 7"`), nil }), step("more")),
		body("broken off", func() (json.RawMessage, error) { return nil, errors.New("too late") }),
		seq(inRun(begun, step()), fail),
	), nap("end"))
	started := 0
	x := r.start(Settings{Grace: natstest.Patience, Hooks: Hooks{Stored: func(entries []protocol.Entry) bool {
		for _, e := range entries {
			if e.Kind == protocol.EntryStarted {
				if started++; started == 2 {
					close(both)
				}
			}
		}
		return false
	}}}, code)
	r.event(x, Parked)
	x.Drop(ErrSuperseded)
	for range 2 {
		r.parks(code)
	}
	c.seen(t, len(c.errs), errOn.Error())
	h := r.history()
	booked, broken := h.Steps[protocol.Key{Op: protocol.OpDo, Name: "booked", Count: 1}], h.Steps[protocol.Key{Op: protocol.OpDo, Name: "broken off", Count: 1}]
	if bodies.Load() != 2 || string(booked.Result) != `"seat 7"` || broken.Done || r.has(protocol.EntryStarted, "more") {
		t.Errorf("%d bodies ran; recorded are %+v and %+v", bodies.Load(), booked, broken)
	}
}

// TestFailedGroupAndItsCode: code by which the function that failed does more than it did, or is not there, contradicts the log.
func TestFailedGroupAndItsCode(t *testing.T) {
	t.Parallel()
	before := all(caught(group(nap("nap"), seq(step("a"), fail))), nap("end"))
	for _, tt := range []struct {
		name  string
		after part
		held  string
	}{
		{"the other goes on", group(seq(nap("nap"), step("new")), seq(step("a"), fail)), ""},
		{"it fails in another way", group(nap("nap"), seq(step("a"), failWith("other"))), ""},
		{"it does not fail", group(nap("nap"), step("a")), ""},
		{"it goes on", group(nap("nap"), step("a", "new")), `the log holds that a group failed, but the function by which it did called step "new" before it returned`},
		{"it is gone", seq(step("a"), group(nap("nap"))), "the log holds that a group failed, but the code has not got the function by which it did"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.parks(before)
			var err error
			after := all(func(ctx context.Context) error { err = tt.after(ctx); return nil }, nap("end"))
			x := r.again(Settings{Hold: 100 * time.Millisecond}, after)
			if tt.held == "" {
				r.event(x, Parked)
				if err == nil {
					t.Error("the group did not fail again")
				}
				return
			}
			if e := r.event(x, Held); !strings.Contains(e.Err.Error(), tt.held) || !strings.Contains(e.Err.Error(), "accept that the group has failed") {
				t.Errorf("held: %v", e.Err)
			}
			h := r.history()
			r.append(h, 0, protocol.Entry{Kind: protocol.EntryResumed, Accept: true, Wake: &h.Holder})
			r.event(r.again(Settings{Hold: time.Hour}, after), Parked)
			if err == nil {
				t.Error("accepted, the group did not fail again")
			}
		})
	}
}

// TestNestedGroupsFail runs groups within groups and races that fail through deaths at every message that they store: each
// returns the same in every run, and the code ends in the same way.
func TestNestedGroupsFail(t *testing.T) {
	t.Parallel()
	for name, shape := range map[string]func(c *team) part{
		"a group in a group": func(c *team) part {
			return c.of(seq(group(nap("a"), seq(step("b"), failWith("inner")))), seq(nap("c"), step("d")))
		},
		"the inner one is given up": func(c *team) part {
			return c.of(group(nap("a"), seq(step("b"), event("go"), step("c"))), seq(event("fail"), failWith("outer")))
		},
		"a group in a race": func(c *team) part {
			return race_("race", seq(c.of(event("never"), seq(event("fail"), failWith("in a race"))), step("b")), nap("c"))
		},
		"a race in a group": func(c *team) part {
			return c.of(race_("race", nap("a"), event("never")), seq(step("b"), event("fail"), failWith("beside a race")))
		},
		"one group after another": func(c *team) part {
			return seq(caught(group(nap("a"), failWith("first"))), step("a"), c.of(event("never"), seq(step("b"), failWith("second"))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for death, died := 0, true; died; death++ {
				if death > 30 {
					t.Fatal("it does not end")
				}
				var c team
				died = livesInGroups(t, &c, shape(&c), death) || death == 0
			}
		})
	}
}

// livesInGroups runs a part to its end. Its runner dies when it has stored a message; 0: never.
func livesInGroups(t *testing.T, c *team, p part, death int) (died bool) {
	r := newRig(t)
	after := func(ctx context.Context) error {
		for _, name := range []string{"c", "d"} {
			if result := own(ctx, t, name); result != `"own"` {
				t.Errorf("step %q after the group got the result %s of another", name, result)
			}
		}
		return nil
	}
	code := all(p, after, nap("end"))
	r.send("fail")
	stored := 0
	settings := Settings{ShortWait: -time.Hour, Hooks: Hooks{Stored: func([]protocol.Entry) bool { stored++; return stored == death }}}
	x := r.start(settings, code)
	for ended := false; !ended; {
		select {
		case e := <-x.Events():
			switch {
			case e.Kind == Parked && len(e.Park.Waits) == 1 && e.Park.Waits[0].Name == "end":
				ended = true
			case e.Kind == Dropped && errors.Is(e.Err, ErrDied):
				died = true
				x = r.again(settings, code)
			default:
				t.Fatalf("event %d: %v", e.Kind, e.Err)
			}
		case <-time.After(natstest.Patience):
			t.Fatal("no event")
		}
	}
	for range 2 { // and once more, over all of it
		x.Drop(ErrSuperseded)
		r.send("go")
		x = r.again(Settings{}, code)
		if e := r.event(x, Parked); e.Park.Waits[0].Name != "end" {
			t.Fatalf("replayed, it waits for %+v", e.Park.Waits)
		}
	}
	x.Drop(ErrSuperseded)
	c.seen(t, len(c.errs), c.errs[0])
	failed := map[protocol.Key]int{}
	for _, e := range r.entries() {
		if e.Kind == protocol.EntryGroupFailed {
			if failed[*e.Step]++; failed[*e.Step] > 1 {
				t.Errorf("%v failed twice", e.Step)
			}
		}
	}
	return died
}

// TestRestartInAFailedGroup: after a restart from the step by which a group failed, what it had given up goes on.
func TestRestartInAFailedGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	code := all(caught(group(nap("nap"), seq(event("a"), event("b"), fail))), nap("end"))
	for _, next := range []string{"a", "b", "c"} {
		r.parks(code)
		r.send(next)
	}
	h := r.history()
	until := h.Steps[protocol.Key{Op: protocol.OpSleep, Name: "nap", Count: 1}].Until
	r.append(h, 1, protocol.Entry{Kind: protocol.EntryRestarted, From: &protocol.Key{Op: protocol.OpEvent, Name: "b", Count: 1}, Wake: &h.Holder})
	x := r.again(Settings{}, all(group(nap("nap"), seq(event("a"), event("d")))))
	e := r.event(x, Parked)
	i := slices.IndexFunc(e.Park.Waits, func(w protocol.Wait) bool { return w.Name == "nap" })
	if len(e.Park.Waits) != 2 || i < 0 || until == nil || !e.Park.Waits[i].Until.Equal(*until) {
		t.Errorf("it waits for %+v, want the nap until %v and the event", e.Park.Waits, until)
	}
	if h := r.history(); slices.ContainsFunc(h.Order, func(k protocol.Key) bool { return k.Op == protocol.OpGroup }) {
		t.Errorf("the group has failed still: %v", h.Order)
	}
}

// TestContextsOfTheCode: a wait, or a step, that the code has given up by ending its context stays given up, with the same error,
// although the context ends later in a replay, or not at all.
func TestContextsOfTheCode(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context) error {
		return do(ctx, "step", func(ctx context.Context) (json.RawMessage, error) { <-ctx.Done(); return nil, ctx.Err() })
	}
	for _, tt := range []struct {
		name        string
		first, then part
	}{{"a wait", eventOf("given up", "go"), eventOf("given up", "go")}, {"a sleep", nap("short"), nap("short")}, {"a body", hangs, step("step")}} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", deadline: ", late), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				var mu sync.Mutex
				var errs []error
				run := func(ends bool, p part) func(context.Context) (json.RawMessage, error) {
					return all(func(ctx context.Context) error {
						own, cancel := context.WithCancel(ctx)
						if late && ends {
							own, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
						} else if ends {
							time.AfterFunc(50*time.Millisecond, cancel)
						}
						defer cancel()
						err := p(own)
						mu.Lock()
						defer mu.Unlock()
						errs = append(errs, err)
						return nil
					}, eventOf("next", "go"), nap("end"))
				}
				x := r.start(Settings{ShortWait: memory, Idle: time.Hour}, run(true, tt.first))
				waits := r.event(x, Parked).Park.Waits
				if len(waits) == 1 && waits[0].Name == "given up" { // it parks for an event, and goes on when the context ends
					r.event(x, Revived)
					waits = r.event(x, Parked).Park.Waits
				}
				if len(waits) != 1 || waits[0].Name != "next" {
					t.Fatalf("it waits for %+v", waits)
				}
				x.Drop(ErrSuperseded)
				r.send("go")
				for _, ends := range []bool{false, true} {
					x = r.again(Settings{ShortWait: memory}, run(ends, tt.then))
					if waits := r.event(x, Parked).Park.Waits; len(waits) != 1 || waits[0].Name != "end" {
						t.Errorf("it waits for %+v", waits)
					}
					x.Drop(ErrSuperseded)
				}
				want := context.Canceled
				if late {
					want = context.DeadlineExceeded
				}
				for _, err := range errs {
					if !errors.Is(err, want) {
						t.Errorf("the errors are %v, want %v in each run", errs, want)
					}
				}
			})
		}
	}
}

// TestContextEndsSooner: a wait, or a step, whose context has ended before it is called is given up for good, too,
// also if an earlier run has begun it.
func TestContextEndsSooner(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]part{
		"a wait": eventOf("given up", "go"), "a sleep": nap("short"),
		"a body": func(ctx context.Context) error {
			return do(ctx, "step", func(ctx context.Context) (json.RawMessage, error) { <-ctx.Done(); return nil, ctx.Err() })
		},
	} {
		for _, begun := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", begun before: ", begun), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				var err error
				run := func(ended bool) func(context.Context) (json.RawMessage, error) {
					return all(func(ctx context.Context) error {
						own, cancel := context.WithCancel(ctx)
						defer cancel()
						if ended {
							cancel()
						}
						err = p(own)
						return nil
					}, eventOf("next", "go"), nap("end"))
				}
				if begun {
					x := r.start(Settings{ShortWait: memory}, run(false))
					natstest.Eventually(t, natstest.Patience, "it has begun", func() bool { return len(r.entries()) > 0 })
					x.Drop(ErrSuperseded)
				}
				x := r.again(Settings{ShortWait: memory}, run(true))
				if waits := r.event(x, Parked).Park.Waits; len(waits) != 1 || waits[0].Name != "next" {
					t.Fatalf("it waits for %+v", waits)
				}
				x.Drop(ErrSuperseded)
				r.send("go")
				x = r.again(Settings{ShortWait: memory}, run(false))
				if waits := r.event(x, Parked).Park.Waits; len(waits) != 1 || waits[0].Name != "end" {
					t.Errorf("it waits for %+v", waits)
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the error is %v", err)
				}
			})
		}
	}
}
