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

// diary is what the compensations of a test say about themselves.
type diary struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (d *diary) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) want(t *testing.T, lines ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.lines, lines) {
		t.Errorf("it was undone as\n%s\nwant\n%s", strings.Join(d.lines, "\n"), strings.Join(lines, "\n"))
	}
	d.lines = nil
}

// booked is a step that returns its name, and whose compensation says what it was told.
func (d *diary) booked(name string) part {
	return d.booking(name, func(context.Context) (json.RawMessage, error) { return json.RawMessage(`"` + name + `"`), nil }, nil)
}

func (d *diary) booking(name string, body Body, undo func(ctx context.Context) error) part {
	return func(ctx context.Context) error {
		config := protocol.DefaultStep()
		config.Retries = 0
		config.Rollback = &protocol.StepConfig{Retries: 1, Delay: protocol.Duration(time.Millisecond), Backoff: "constant", LostRuns: 3}
		return d.step(ctx, name, config, body, undo)
	}
}

func (d *diary) step(ctx context.Context, name string, config protocol.StepConfig, body Body, undo func(ctx context.Context) error) error {
	s, err := From(ctx)
	if err != nil {
		return err
	}
	code := Code{Body: body, Undo: &Undo{Body: func(ctx context.Context, of Undone) error {
		line := fmt.Sprintf("undo %s", of.Result)
		if of.Failure != nil {
			line = fmt.Sprintf("undo %s after %s", name, of.Failure.Name)
		}
		d.say("%s because of %s", line, of.Cause.Message)
		if undo == nil {
			return nil
		}
		return undo(ctx)
	}}}
	got, err := s.Do(ctx, name, config, code)
	switch {
	case err != nil:
		return err
	case got.Error != nil:
		return got.Error
	}
	return nil
}

// from lists the kinds of the entries from the first of a kind on, with the names of steps, but for starts: whether one
// is there is a matter of what else was stored.
func (r *rig) from(kind protocol.EntryKind) string {
	r.t.Helper()
	var all []string
	for _, e := range r.entries() {
		if len(all) == 0 && e.Kind != kind || e.Kind == protocol.EntryStarted {
			continue
		}
		word := string(e.Kind)
		if e.Step != nil {
			word += " " + e.Step.Name
		}
		all = append(all, word)
	}
	return strings.Join(all, ", ")
}

func undone(t *testing.T, e Event, state protocol.State, outcome, failure string) {
	t.Helper()
	d := e.Done
	if d.State != state || d.Error == nil || d.Rollback == nil || d.Rollback.Outcome != outcome {
		t.Fatalf("announced is %s: %v, rollback %+v", d.State, d.Error, d.Rollback)
	}
	if got := d.Rollback.Error; failure == "" && got != nil || failure != "" && (got == nil || !strings.Contains(got.Message, failure)) {
		t.Errorf("the rollback ended with %v, want %q", got, failure)
	}
}

func TestRollBackInReverseOrder(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	x := r.start(Settings{}, all(d.booked("flight"), step("none"), d.booked("hotel"), caught(d.booking("car", func(context.Context) (json.RawMessage, error) {
		return nil, errOn
	}, nil)), fail))
	undone(t, r.event(x, Finished), protocol.StateErrored, "complete", "")
	d.want(t, "undo car after Error because of on purpose", `undo "hotel" because of on purpose`, `undo "flight" because of on purpose`)
	if got, want := r.from(protocol.EntryRollingBack), "rolling-back, step-completed car, step-completed hotel, step-completed flight, rolled-back, failed"; got != want {
		t.Errorf("the log has %s, want %s", got, want)
	}
	if h := r.history(); h.State() != protocol.StateErrored || h.Rollback == nil || h.Rollback.Outcome != "complete" {
		t.Errorf("folded, it is %s, with %+v", h.State(), h.Rollback)
	}
}

// TestRollBackWhereTheClockGoesBack: the order is that in which the steps began, whatever the clock of the machine does meanwhile; also
// for a runner that has only the log.
func TestRollBackWhereTheClockGoesBack(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	var asked atomic.Int64
	back := Settings{Hooks: Hooks{Now: func() time.Time { return at.Add(-time.Minute * time.Duration(asked.Add(1))) }}}
	x := r.start(back, all(d.booked("flight"), d.booked("hotel"), d.booked("car"), fail))
	undone(t, r.event(x, Finished), protocol.StateErrored, "complete", "")
	d.want(t, `undo "car" because of on purpose`, `undo "hotel" because of on purpose`, `undo "flight" because of on purpose`)
	var last time.Time
	for _, e := range r.entries() {
		if e.Started == nil || e.Step.Op != protocol.OpDo || e.Kind != protocol.EntryStepCompleted {
			continue
		}
		if !e.Started.After(last) {
			t.Errorf("the log says that %s began at %v, and the step before it at %v", e.Step.Name, e.Started, last)
		}
		last = *e.Started
	}
}

// TestRollingBackIsDurableFirst: before anything is undone, the log says so.
func TestRollingBackIsDurableFirst(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	x := r.start(Settings{}, all(d.booking("a", nothing, func(context.Context) error {
		if !r.has(protocol.EntryRollingBack, "") || r.history().State() != protocol.StateRollingBack {
			d.say("too early")
		}
		return nil
	}), fail))
	r.event(x, Finished)
	d.want(t, "undo  because of on purpose")
}

func TestNothingToRollBack(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	x := r.start(Settings{}, all(step("a"), fail))
	if e := r.event(x, Finished); e.Done.Rollback != nil || r.has(protocol.EntryRollingBack, "") {
		t.Errorf("the rollback is %+v", e.Done.Rollback)
	}
	r = newRig(t)
	x = r.start(Settings{}, all(d.booked("a")))
	if e := r.event(x, Finished); e.Done.State != protocol.StateComplete || e.Done.Rollback != nil || r.has(protocol.EntryRollingBack, "") {
		t.Errorf("announced is %+v", e.Done)
	}
	d.want(t)
}

func TestRollBackStopsAtTheFirstThatGivesUp(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	x := r.start(Settings{}, all(d.booked("a"), d.booking("b", nothing, func(context.Context) error { return errOn }), d.booked("c"), fail))
	undone(t, r.event(x, Finished), protocol.StateErrored, "failed", `the rollback stopped at step "b": on purpose`)
	d.want(t, `undo "c" because of on purpose`, "undo  because of on purpose", "undo  because of on purpose")
	want := "rolling-back, step-completed c, attempt-failed b, step-failed b, rolled-back, failed"
	if got := r.from(protocol.EntryRollingBack); got != want {
		t.Errorf("the log has %s, want %s", got, want)
	}
}

// TestRollBackParks: what waits long for its next attempt holds no memory.
func TestRollBackParks(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	var tries atomic.Int64
	code := all(d.booked("a"), func(ctx context.Context) error {
		config := protocol.DefaultStep()
		config.Rollback = &protocol.StepConfig{Retries: 1, Delay: protocol.Duration(200 * time.Millisecond)}
		return d.step(ctx, "b", config, nothing, func(context.Context) error {
			if tries.Add(1) == 1 {
				return errOn
			}
			return nil
		})
	}, step("plain"), fail)
	x := r.start(Settings{ShortWait: -time.Hour}, code) // it parks, also if the delay is over by then
	e := r.event(x, Parked)
	if len(e.Park.Waits) != 1 || e.Park.Waits[0].Op != protocol.OpRollback || e.Park.Until == nil {
		t.Fatalf("parked as %+v", e.Park)
	}
	if h := r.history(); h.State() != protocol.StateRollingBack {
		t.Errorf("the state is %s", h.State())
	}
	x.Drop(ErrSuperseded)
	undone(t, r.event(r.again(Settings{}, code), Finished), protocol.StateErrored, "complete", "")
	d.want(t, "undo  because of on purpose", "undo  because of on purpose", `undo "a" because of on purpose`)
}

// TestRollBackAfterACrash: the code is gone over, without an effect, to find out how to go on.
func TestRollBackAfterACrash(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	began, c := make(chan struct{}, 2), make(chan struct{})
	hasC := sync.OnceFunc(func() { close(c) })
	var runs atomic.Int64
	code := func(last part) func(ctx context.Context) (json.RawMessage, error) {
		return all(d.booked("a"), value, d.booking("b", nothing, func(ctx context.Context) error {
			began <- struct{}{}
			if runs.Add(1) == 1 {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		}), caught(group(d.booking("c", func(context.Context) (json.RawMessage, error) {
			hasC()
			return json.RawMessage(`"c"`), nil
		}, nil), func(ctx context.Context) error {
			<-c // else the failure may keep it from beginning
			return errors.Join(d.booked("d")(ctx), fail(ctx))
		})), last)
	}
	x := r.start(Settings{}, code(fail))
	<-began
	before := len(d.lines)
	x.Drop(ErrSuperseded)
	d.mu.Lock()
	d.lines = nil
	d.mu.Unlock()
	if before != 3 {
		t.Fatalf("before the crash %d compensations began, want 3", before)
	}
	never := func(context.Context) error { t.Error("the code acts while it is gone over"); return nil }
	again := r.again(Settings{}, code(func(ctx context.Context) error {
		return all2(ctx, fail, func(ctx context.Context) error {
			return do(ctx, "more", func(ctx context.Context) (json.RawMessage, error) { return nil, never(ctx) })
		})
	}))
	undone(t, r.event(again, Finished), protocol.StateErrored, "complete", "")
	d.want(t, "undo  because of on purpose", `undo "a" because of on purpose`)
	if n := strings.Count(r.from(protocol.EntryRollingBack), "rolling-back"); n != 1 {
		t.Errorf("it is rolled back %d times", n)
	}
}

func all2(ctx context.Context, parts ...part) error {
	_, err := all(parts...)(ctx)
	return err
}

// TestRollBackOfWhatWaits: an instance is terminated with a rollback while its code waits. The code is gone over up to
// there: what it has not recorded does not happen.
func TestRollBackOfWhatWaits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		code    func(d *diary) []part
		outcome string
		failure string
		undone  []string
	}{
		{"a sleep", func(d *diary) []part { return []part{d.booked("a"), nap("nap"), d.booked("never")} }, "complete", "", []string{`undo "a"`}},
		{"in a group", func(d *diary) []part {
			return []part{d.booked("a"), group(nap("nap"), func(ctx context.Context) error { return errors.Join(d.booked("b")(ctx), nap("other")(ctx)) })}
		}, "complete", "", []string{`undo "b"`, `undo "a"`}},
		{"in goroutines", func(d *diary) []part {
			return []part{d.booked("a"), bare(func(ctx context.Context) error { return errors.Join(d.booked("b")(ctx), nap("nap")(ctx)) })}
		}, "complete", "", []string{`undo "b"`, `undo "a"`}},
		{"after what was given up", func(d *diary) []part { return []part{brief(nap("short")), d.booked("a"), nap("nap")} }, "complete", "", []string{`undo "a"`}},
		{"a race", func(d *diary) []part { return []part{race_("race", seq(d.booked("a"), nap("x")), nap("y"))} }, "complete", "", []string{`undo "a"`}},
		{"a branch that lost a race", func(d *diary) []part {
			first, second := relay(d.booked("a"), event("go"))
			return []part{race_("race", seq(first, nap("x"), d.booked("never")), second), d.booked("b"), nap("nap")}
		}, "complete", "", []string{`undo "b"`, `undo "a"`}},
		{"a race that lost a race", func(d *diary) []part {
			first, second := relay(d.booked("a"), event("go"))
			return []part{race_("outer", race_("inner", seq(first, nap("x")), nap("y")), second), d.booked("b"), nap("nap")}
		}, "complete", "", []string{`undo "b"`, `undo "a"`}},
		{"a step that lost a race", func(d *diary) []part {
			begun, once := make(chan struct{}), sync.Once{}
			body := func(ctx context.Context) (json.RawMessage, error) {
				once.Do(func() { close(begun) })
				<-ctx.Done()
				return json.RawMessage(`"late"`), nil
			}
			return []part{race_("race", d.booking("a", body, nil), seq(holdUp(begun), event("go"))), nap("nap")}
		}, "complete", "", []string{"undo a after InterruptedError"}},
		{"nothing to undo", func(*diary) []part { return []part{step("a"), nap("nap")} }, "complete", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, d := newRig(t), &diary{}
			code := all(tt.code(d)...)
			r.send("go")
			x := r.start(Settings{ShortWait: memory}, code)
			r.event(x, Parked)
			x.Drop(ErrSuperseded)
			h := r.history()
			r.append(h, 0, protocol.Entry{Kind: protocol.EntryRollingBack, Terminate: true, Input: h.Tail, Wake: &h.Holder,
				Error: &protocol.Failure{Name: protocol.FailureTerminated, Message: "told to", Terminal: true}})
			undone(t, r.event(r.again(Settings{ShortWait: memory}, code), Finished), protocol.StateTerminated, tt.outcome, tt.failure)
			for i := range tt.undone {
				tt.undone[i] += " because of told to"
			}
			d.want(t, tt.undone...)
			if got := r.from(protocol.EntryRollingBack); !strings.HasSuffix(got, "rolled-back, terminated") || strings.Contains(got, "never") {
				t.Errorf("the log has %s", got)
			}
		})
	}
}

// TestRollBackWhileABranchIsElsewhere: one that is blocked outside of the engine holds up nothing when the code is gone over
// for what it says about undoing.
func TestRollBackWhileABranchIsElsewhere(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	code := all(d.booked("a"), group(nap("long"), untilCanceled(step("never"))))
	x := r.start(Settings{}, code)
	natstest.Eventually(t, natstest.Patience, "it sleeps", func() bool { return r.has(protocol.EntryWaiting, "long") })
	x.Drop(ErrSuperseded)
	h := r.history()
	r.append(h, 0, protocol.Entry{Kind: protocol.EntryRollingBack, Terminate: true, Input: h.Tail, Wake: &h.Holder,
		Error: &protocol.Failure{Name: protocol.FailureTerminated, Message: "told to", Terminal: true}})
	undone(t, r.event(r.again(Settings{}, code), Finished), protocol.StateTerminated, "complete", "")
	d.want(t, `undo "a" because of told to`)
	if f := check(t, time.Second, r, r.prefixes()[1](), []part{func(ctx context.Context) error { _, err := code(ctx); return err }}); f != nil {
		t.Errorf("gone over, it shows %+v", f)
	}
}

// TestRollBackIsHeld: code that does not know any more how to undo what it did holds the instance in the middle of that.
// With the fix the rollback goes on; accepted, the steps are left alone of which the code says nothing.
func TestRollBackIsHeld(t *testing.T) {
	t.Parallel()
	fixed := func(d *diary) []part { return []part{d.booked("a"), d.booked("b"), nap("nap")} }
	for _, tt := range []struct {
		name    string
		code    func(d *diary) []part
		missing string // names of the steps without a compensation
		left    []string
	}{
		{"no compensation", func(*diary) []part { return []part{step("a", "b"), nap("nap")} }, "b a", nil},
		{"no call", func(*diary) []part { return []part{nap("nap")} }, "b a", nil},
		{"it fails before", func(*diary) []part { return []part{fail} }, "b a", nil},
		{"one of them", func(d *diary) []part { return []part{d.booked("a"), step("b"), nap("nap")} }, "b", []string{`undo "a" because of told to`}},
		{"the other", func(d *diary) []part { return []part{step("a"), d.booked("b"), nap("nap")} }, "a", []string{`undo "b" because of told to`}},
	} {
		for _, accept := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, accepted %v", tt.name, accept), func(t *testing.T) {
				t.Parallel()
				r, d := newRig(t), &diary{}
				x := r.start(Settings{}, all(fixed(d)...))
				r.event(x, Parked)
				x.Drop(ErrSuperseded)
				h := r.history()
				r.append(h, 0, protocol.Entry{Kind: protocol.EntryRollingBack, Terminate: true, Input: h.Tail, Wake: &h.Holder,
					Error: &protocol.Failure{Name: protocol.FailureTerminated, Message: "told to", Terminal: true}})
				settings := Settings{Hold: 10 * time.Millisecond}
				r.event(r.again(settings, all(tt.code(d)...)), Held)
				h = r.history()
				if h.State() != protocol.StateHeld || h.Rollback != nil || names(h.Held.Divergence.Recorded) != tt.missing ||
					h.Held.Divergence.Recorded[0].Op != protocol.OpRollback {
					t.Fatalf("it is %s, and misses %+v", h.State(), h.Held)
				}
				r.append(h, 0, protocol.Entry{Kind: protocol.EntryResumed, Accept: accept, Wake: &h.Holder})
				code, want := fixed(d), []string{`undo "b" because of told to`, `undo "a" because of told to`}
				if accept {
					code, want = tt.code(d), tt.left
				}
				undone(t, r.event(r.again(settings, all(code...)), Finished), protocol.StateTerminated, "complete", "")
				d.want(t, want...)
			})
		}
	}
}

// TestRollBackWaitsForBodies: those that run are told to stop, and what they say then counts.
func TestRollBackWaitsForBodies(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	late, stuck := make(chan struct{}), make(chan struct{})
	x := r.start(Settings{Grace: natstest.Patience}, all(func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		one, two := s.Group(ctx), s.Group(ctx)
		one.Go(d.booking("late", func(ctx context.Context) (json.RawMessage, error) {
			close(late)
			<-ctx.Done()
			return json.RawMessage(`"late"`), nil
		}, nil))
		<-late
		two.Go(d.booking("stopped", func(ctx context.Context) (json.RawMessage, error) {
			close(stuck)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}, nil))
		<-stuck
		return nil
	}, fail))
	undone(t, r.event(x, Finished), protocol.StateErrored, "complete", "")
	d.want(t, "undo stopped after InterruptedError because of on purpose", `undo "late" because of on purpose`)
}

// TestRollBackIsReleased: a runner that shuts down lets the compensation that runs finish, and begins no other.
func TestRollBackIsReleased(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	began, finish := make(chan struct{}), make(chan struct{})
	code := all(d.booked("a"), d.booking("b", nothing, func(context.Context) error { close(began); <-finish; return nil }), fail)
	x := r.start(Settings{}, code)
	<-began
	released := make(chan struct{})
	go func() { defer close(released); x.Release(t.Context(), time.Second) }()
	r.reaches(x, releasing)
	close(finish)
	<-released
	if e := r.event(x, Dropped); !errors.Is(e.Err, ErrReleased) {
		t.Errorf("dropped for %v", e.Err)
	}
	d.want(t, "undo  because of on purpose")
	if got, want := r.from(protocol.EntryRollingBack), "rolling-back, step-completed b, released"; got != want {
		t.Errorf("the log has %s, want %s", got, want)
	}
	undone(t, r.event(r.again(Settings{}, code), Finished), protocol.StateErrored, "complete", "")
	d.want(t, `undo "a" because of on purpose`)
}

// TestCompensationsAreStepsOfTheirOwn: with keys and attempts, and without steps within.
func TestCompensationsAreStepsOfTheirOwn(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	keys := map[string]bool{}
	body := func(ctx context.Context) (json.RawMessage, error) {
		keys[AttemptFrom(ctx).IdempotencyKey] = true
		return nil, nil
	}
	x := r.start(Settings{}, all(d.booking("a", body, func(ctx context.Context) error {
		a := AttemptFrom(ctx)
		keys[a.IdempotencyKey] = true
		if err := do(ctx, "within", nothing); !errors.Is(err, ErrUndoing) {
			d.say("a step within gives %v", err)
		}
		if a.Op != protocol.OpRollback || a.Name != "a" || a.Number < 2 {
			return errOn
		}
		return nil
	}), fail))
	undone(t, r.event(x, Finished), protocol.StateErrored, "complete", "")
	d.want(t, "undo  because of on purpose", "undo  because of on purpose")
	if len(keys) != 2 {
		t.Errorf("the keys are %v, want one of the step and one of its compensation", keys)
	}
}

// TestLeftOversEnd: a goroutine that calls in while the instance is rolled back is over.
func TestLeftOversEnd(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), &diary{}
	undoing, gone := make(chan struct{}), make(chan struct{})
	x := r.start(Settings{}, all(d.booking("a", nothing, func(context.Context) error { close(undoing); <-gone; return nil }), func(ctx context.Context) error {
		go func() {
			defer close(gone)
			<-undoing
			_ = do(ctx, "late", nothing)
			d.say("a left-over goes on")
		}()
		return errOn
	}))
	undone(t, r.event(x, Finished), protocol.StateErrored, "complete", "")
	d.want(t, "undo  because of on purpose")
	if r.has(protocol.EntryStarted, "late") || r.has(protocol.EntryStepCompleted, "late") {
		t.Error("a left-over is recorded")
	}
}
