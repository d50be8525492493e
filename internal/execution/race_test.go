package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// contest is a race of parts. What comes of it is noted.
type contest struct {
	mu      sync.Mutex
	winners []int // of each run that has seen the end of the race
	errs    []error
}

func (c *contest) note(r *Race, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.winners = append(c.winners, r.Winner)
	}
	c.errs = append(c.errs, err)
}

// seen is what the runs saw, which must be the same.
func (c *contest) seen(t *testing.T, runs, winner int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.winners) != runs || slices.ContainsFunc(c.winners, func(w int) bool { return w != winner }) {
		t.Errorf("the winners are %v (%v), want %d in %d runs", c.winners, c.errs, winner, runs)
	}
}

func (c *contest) of(name string, parts ...part) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		var bodies []Body
		for i, p := range parts {
			bodies = append(bodies, func(ctx context.Context) (json.RawMessage, error) {
				return json.RawMessage(fmt.Sprint(i)), p(ctx)
			})
		}
		r, err := s.Race(ctx, name, false, bodies)
		c.note(r, err)
		if err == nil && r.Failure != nil {
			return r.Failure
		}
		return err
	}
}

func race_(name string, parts ...part) part { return new(contest).of(name, parts...) }

// event is a wait for an event of its own name, or of a type.
func event(name string) part { return eventOf(name, name) }

func eventOf(name, eventType string) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		_, failure, err := s.WaitForEvent(ctx, name, eventType, 0)
		if failure != nil {
			return failure
		}
		return err
	}
}

func seq(parts ...part) part {
	return func(ctx context.Context) error { _, err := all(parts...)(ctx); return err }
}

// holdUp blocks outside of the engine.
func holdUp(c <-chan struct{}) part { return func(context.Context) error { <-c; return nil } }

// announce closes a channel.
func announce(c chan struct{}) part { return func(context.Context) error { close(c); return nil } }

// relay makes two parts of which the second begins when the first has returned, in the first run.
func relay(a, b part) (first, second part) {
	over, once := make(chan struct{}), sync.Once{}
	return seq(a, func(context.Context) error { once.Do(func() { close(over) }); return nil }), seq(holdUp(over), b)
}

// send adds an event to what the stream holds.
func (r *rig) send(eventType string) engine.Input {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := uint64(len(r.inputs) + 1)
	in := engine.Input{Sequence: r.created + 1000*n, ID: fmt.Sprint("event ", n), Type: eventType, Payload: json.RawMessage("1")}
	r.inputs = append(r.inputs, in)
	return in
}

// raced are the outcomes of races that the log holds.
func (r *rig) raced() (all []protocol.Entry) {
	for _, e := range r.entries() {
		if e.Step != nil && e.Step.Op == protocol.OpRace && e.Kind != protocol.EntryStarted {
			all = append(all, e)
		}
	}
	return all
}

// later is a clock that is ahead.
func later(d time.Duration) Settings {
	return Settings{ShortWait: memory, Hooks: Hooks{Now: func() time.Time { return time.Now().Add(d) }}}
}

// TestRaceAcrossParks: a race of an event and a time parks, and has the same winner in every run, whatever comes later.
func TestRaceAcrossParks(t *testing.T) {
	t.Parallel()
	for winner, name := range []string{"the event", "the time"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var c contest
			code := all(c.of("race", event("go"), nap("an hour")), step("after"), eventOf("next", "go"), nap("end"))
			first := r.start(Settings{}, code)
			if e := r.event(first, Parked); len(e.Park.Waits) != 2 {
				t.Fatalf("it parks for %+v, want both branches", e.Park.Waits)
			}
			first.Drop(ErrSuperseded)
			settings := Settings{}
			if winner == 0 {
				r.send("go")
			} else {
				settings = later(2 * time.Hour)
				settings.ShortWait = time.Second
			}
			second := r.again(settings, code)
			r.event(second, Parked)
			second.Drop(ErrSuperseded)
			r.send("go") // for the next wait, whoever has won
			third := r.again(later(2*time.Hour), code)
			if e := r.event(third, Parked); len(e.Park.Waits) != 1 || e.Park.Waits[0].Name != "end" {
				t.Errorf("it waits for %+v, want the end", e.Park.Waits)
			}
			c.seen(t, 2, winner)
			if all := r.raced(); len(all) != 1 || *all[0].Winner != winner || len(all[0].GivenUp) != 1 || string(all[0].Result) != fmt.Sprint(winner) {
				t.Errorf("the log has %+v", all)
			}
			h := r.history()
			lost := h.Steps[r.raced()[0].GivenUp[0]]
			if st := h.Status().Steps; !lost.Lost || lost.Done || !slices.ContainsFunc(st, func(s protocol.StepStatus) bool { return s.Key == lost.Key && s.State == "canceled" }) {
				t.Errorf("what lost is %+v, the status %+v", lost, st)
			}
		})
	}
}

// TestWinnerIsFirstInTheLog: the runner dies when the outcome of one branch is stored, and nothing that says that it was
// first. By the time that another takes over, the other branch has one, too.
func TestWinnerIsFirstInTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c contest
	held := make(chan struct{})
	defer close(held)
	slow := holdUp(held)
	code := func(after part) func(context.Context) (json.RawMessage, error) {
		return all(c.of("race", nap("an hour"), seq(event("go"), after)), step("after"))
	}
	r.send("go")
	dies := Settings{ShortWait: memory, Hooks: Hooks{Stored: func(entries []protocol.Entry) bool {
		return slices.ContainsFunc(entries, func(e protocol.Entry) bool { return e.Kind == protocol.EntryReceived })
	}}}
	if e := r.event(r.start(dies, code(slow)), Dropped); !errors.Is(e.Err, ErrDied) {
		t.Fatal(e.Err)
	}
	if len(r.raced()) != 0 {
		t.Fatal("the race is decided")
	}
	r.event(r.again(later(2*time.Hour), code(step())), Finished)
	c.seen(t, 1, 1)
}

// TestWinnerIsStored: it is durable before anything that follows, and then nothing changes it.
func TestWinnerIsStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c contest
	var before atomic.Bool
	code := all(c.of("race", event("go"), nap("short")), func(ctx context.Context) error {
		return do(ctx, "after", func(context.Context) (json.RawMessage, error) {
			if len(r.raced()) == 0 {
				before.Store(true)
			}
			return nil, nil
		})
	})
	r.send("go")
	dies := Settings{Hooks: Hooks{Stored: func(entries []protocol.Entry) bool {
		return slices.ContainsFunc(entries, func(e protocol.Entry) bool { return e.Step != nil && e.Step.Name == "race" && e.Winner != nil })
	}}}
	if e := r.event(r.start(dies, code), Dropped); !errors.Is(e.Err, ErrDied) {
		t.Fatal(e.Err)
	}
	r.event(r.again(later(2*time.Hour), code), Finished)
	if w := c.winners; before.Load() || !slices.Equal(w[max(0, len(w)-1):], []int{0}) || len(r.raced()) != 1 {
		t.Errorf("winners %v, the step after began before the winner was stored: %v", w, before.Load())
	}
}

// TestReleaseDecidesNoRace: functions whose goroutines end because the runner gives the instance back have not returned.
func TestReleaseDecidesNoRace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c contest
	body, finish, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	code := func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		g := s.Group(ctx)
		g.Go(func(ctx context.Context) error {
			return do(ctx, "long", func(context.Context) (json.RawMessage, error) { close(body); <-finish; return nil, nil })
		})
		g.Go(c.of("race", seq(holdUp(goOn), event("go")), seq(holdUp(goOn), event("stop"))))
		return nil, g.Wait()
	}
	branches := func(x *Execution, n int) {
		natstest.Eventually(t, natstest.Patience, fmt.Sprint(n, " branches run"), func() bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			return len(x.lanes) == n
		})
	}
	x := r.start(Settings{Idle: time.Hour}, code)
	<-body
	branches(x, 5)
	released := make(chan struct{})
	go func() { defer close(released); x.Release(t.Context(), time.Second) }()
	r.reaches(x, releasing)
	close(goOn)
	branches(x, 2)
	close(finish)
	<-released
	if e := r.event(x, Dropped); !errors.Is(e.Err, ErrReleased) || len(r.raced()) != 0 {
		t.Errorf("dropped for %v, and the log holds %+v", e.Err, r.raced())
	}
	r.send("go")
	r.event(r.again(Settings{}, code), Finished)
	c.seen(t, 1, 0)
}

// TestWithheld: an event is not given to one branch while another has something to go on with. If that one returns, the
// event goes to the next wait; if it waits again, to the branch.
func TestWithheld(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		then   part
		winner int
	}{{"it returns", step(), 1}, {"it waits again", nap("another hour"), 0}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var c contest
			over, goOn := make(chan struct{}), make(chan struct{})
			code := all(c.of("race", event("go"), seq(step("quick"), announce(over), holdUp(goOn), tt.then)), eventOf("next", "go"))
			x := r.start(Settings{Idle: time.Hour}, code)
			<-over
			r.send("go")
			x.Refresh()
			if r.has(protocol.EntryReceived, "go") {
				t.Error("the event is given to a branch that another may beat")
			}
			close(goOn)
			if tt.winner == 0 {
				r.reaches(x, parked)
				x.Drop(ErrSuperseded)
				r.send("go")
				x = r.again(Settings{}, all(c.of("race", event("go"), seq(step("quick"), tt.then)), eventOf("next", "go")))
			}
			r.event(x, Finished)
			c.seen(t, len(c.winners), tt.winner)
			received := slices.Collect(func(yield func(string) bool) {
				for _, e := range r.entries() {
					if e.Kind == protocol.EntryReceived && !yield(fmt.Sprint(e.Step.Name, " ", e.InputID)) {
						return
					}
				}
			})
			if want := []string{"next event 1"}; tt.winner == 1 && !slices.Equal(received, want) {
				t.Errorf("received: %v, want %v", received, want)
			} else if want := []string{"go event 1", "next event 2"}; tt.winner == 0 && !slices.Equal(received, want) {
				t.Errorf("received: %v, want %v", received, want)
			}
		})
	}
}

// TestWithheldFromWhoWasBeaten: a function that only waits for a body that was told to stop is about to return, and no event is
// given to another meanwhile.
func TestWithheldFromWhoWasBeaten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c contest
	begun, told, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	hangs := func(ctx context.Context) error {
		return do(ctx, "hangs", func(ctx context.Context) (json.RawMessage, error) {
			close(begun)
			<-ctx.Done()
			close(told)
			<-goOn
			return nil, nil
		})
	}
	code := all(c.of("race", race_("inner", hangs, holdUp(begun)), event("go")), eventOf("next", "go"))
	x := r.start(Settings{Idle: time.Hour, Grace: time.Hour}, code)
	<-told
	natstest.Eventually(t, natstest.Patience, "the other waits", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		_, waits := x.m.Waiting()
		return waits
	})
	r.send("go")
	x.Refresh()
	if r.has(protocol.EntryReceived, "go") {
		t.Error("the event is given to a function that was beaten")
	}
	close(goOn)
	r.event(x, Finished)
	c.seen(t, 1, 0)
	if !r.has(protocol.EntryReceived, "next") {
		t.Errorf("the log has %+v", r.entries())
	}
}

// TestBlockedBranch: a branch that is blocked outside of the engine holds the others up for a moment only.
func TestBlockedBranch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c contest
	r.send("go")
	code := all(c.of("race", event("go"), func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }))
	r.event(r.start(Settings{Idle: 50 * time.Millisecond}, code), Finished)
	c.seen(t, 1, 0)
}

// TestLosingBody: its context ends, and what it returns counts for nothing, in no run.
func TestLosingBody(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c contest
	var bodies atomic.Int64
	var got atomic.Value
	atWork := make(chan struct{})
	works := func(ctx context.Context) error {
		err := do(ctx, "works", func(ctx context.Context) (json.RawMessage, error) {
			if bodies.Add(1) == 1 {
				close(atWork)
				<-ctx.Done()
				got.Store(context.Cause(ctx))
			}
			return json.RawMessage(`"late"`), nil
		})
		if !errors.Is(err, ErrLost) {
			t.Errorf("the step that lost returned %v", err)
		}
		return do(ctx, "never", nothing)
	}
	begun := func(context.Context) error { // both branches are at work
		<-atWork
		return nil
	}
	again := func(ctx context.Context) error { // the name is used again
		return do(ctx, "works", func(context.Context) (json.RawMessage, error) { bodies.Add(1); return json.RawMessage(`"again"`), nil })
	}
	code := all(c.of("race", works, seq(begun, event("go"))), again, nap("end"))
	r.send("go")
	first := r.start(Settings{}, code)
	r.event(first, Parked)
	first.Drop(ErrSuperseded)
	for range 2 {
		x := r.again(Settings{}, code)
		r.event(x, Parked)
		x.Drop(ErrSuperseded)
	}
	c.seen(t, 3, 1)
	if bodies.Load() != 2 || got.Load() != ErrLost {
		t.Errorf("%d bodies ran, want 2; the context of the one that lost ended with %v", bodies.Load(), got.Load())
	}
	h := r.history()
	for count, want := range map[int]string{1: "", 2: `"again"`} {
		if s := h.Steps[protocol.Key{Op: protocol.OpDo, Name: "works", Count: count}]; s == nil || string(s.Result) != want {
			t.Errorf("use %d of the name is %+v, want the result %q", count, s, want)
		}
	}
	if r.has(protocol.EntryStarted, "never") || len(h.Steps) != 5 {
		t.Errorf("recorded are %v", h.Order)
	}
	if e := h.ClaimEntry(h.Holder); len(e.Blamed) != 0 {
		t.Errorf("a lost run is charged to %v", e.Blamed)
	}
}

// TestLosingCall: the child of a call that lost is told to end, also if the runner dies before it can do that.
func TestLosingCall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var c contest
	var made atomic.Int64
	code := all(c.of("race", calls(creates(func() (uint64, error) { made.Add(1); return 77, nil })), event("go")), step("after"), nap("end"))
	first := r.start(Settings{}, code)
	r.event(first, Parked)
	first.Drop(ErrSuperseded)
	h, in := r.history(), r.send("go")
	call, wait := protocol.Key{Op: protocol.OpCall, Name: "call", Count: 1}, protocol.Key{Op: protocol.OpEvent, Name: "go", Count: 1}
	race := protocol.Key{Op: protocol.OpRace, Name: "race", Count: 1}
	r.append(h, 0, h.ClaimEntry(h.Holder), protocol.Entry{Kind: protocol.EntryReceived, Step: &wait, Type: "go", Input: in.Sequence, InputID: in.ID},
		protocol.Entry{Kind: protocol.EntryStepCompleted, Step: &race, Result: json.RawMessage("1"), Winner: new(1), GivenUp: []protocol.Key{call}})
	third := r.again(Settings{}, code)
	if call := r.told(r.ended); call.Callee.Incarnation != 77 {
		t.Errorf("told is %+v", call)
	}
	r.event(third, Parked)
	third.Drop(ErrSuperseded)
	for len(r.ended) > 0 {
		<-r.ended
	}
	r.event(r.again(Settings{}, code), Parked)
	if made.Load() != 1 || len(r.ended) > 0 {
		t.Errorf("%d children are made; those that know are told again: %d", made.Load(), len(r.ended))
	}
	if w := c.winners; w[len(w)-1] != 1 || len(r.raced()) != 1 {
		t.Errorf("the winners are %v", w)
	}
}

// TestNestedRaces runs races within others through deaths at every message that they store: each race has one winner, and
// what the code does is the same in the end.
func TestNestedRaces(t *testing.T) {
	t.Parallel()
	shapes := map[string]func(c *contest) part{
		"a race in a race": func(c *contest) part {
			return c.of("outer", seq(race_("inner", event("go"), nap("a")), step("b"), nap("c")), seq(step("d"), eventOf("second", "go")))
		},
		"a group in a race": func(c *contest) part {
			return c.of("outer", group(step("a"), nap("b"), step("c")), seq(group(step("d"), event("go")), step("e")))
		},
		"races in a group": func(c *contest) part {
			return group(c.of("one", event("go"), nap("a")), race_("two", seq(step("b"), eventOf("second", "go")), nap("c")))
		},
		"a race that loses": func(c *contest) part {
			return c.of("outer", race_("inner", seq(step("a"), nap("a")), seq(step("b"), nap("b"))), seq(step("c"), event("go")))
		},
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want string
			for death := 0; ; death++ {
				if death > 30 {
					t.Fatal("it does not end")
				}
				winner, died := lives(t, shape, death)
				if death == 0 {
					want = winner
				}
				if winner != want {
					t.Errorf("with a death at message %d the winner is %s, want %s", death, winner, want)
				}
				if death > 0 && !died {
					return
				}
			}
		})
	}
}

// lives runs a shape to its end. Its runner dies when it has stored a message; 0: never.
func lives(t *testing.T, shape func(c *contest) part, death int) (winner string, died bool) {
	r := newRig(t)
	var c contest
	// The names that lose are used again, so that a call that is counted in one run and not in another is seen.
	after := func(ctx context.Context) error {
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			if result := own(ctx, t, name); result != `"own"` {
				t.Errorf("step %q after the race got the result %s of another", name, result)
			}
		}
		return nil
	}
	code := all(shape(&c), after, nap("end"))
	r.send("go")
	r.send("go")
	stored := 0
	settings := Settings{ShortWait: -time.Hour, Hooks: Hooks{Stored: func([]protocol.Entry) bool { stored++; return stored == death }}}
	x := r.start(settings, code)
	for {
		var e Event
		select {
		case e = <-x.Events():
		case <-time.After(natstest.Patience):
			t.Fatalf("no event")
		}
		if e.Kind == Parked {
			if waits := e.Park.Waits; len(waits) == 1 && waits[0].Name == "end" {
				break
			}
			t.Fatalf("it waits for %+v", e.Park.Waits)
		}
		if e.Kind != Dropped || !errors.Is(e.Err, ErrDied) {
			t.Fatalf("event %d: %v", e.Kind, e.Err)
		}
		died = true
		x = r.again(settings, code)
	}
	x.Drop(ErrSuperseded)
	for range 2 { // and once more, over all of it
		x = r.again(Settings{}, code)
		if e := r.event(x, Parked); e.Park.Waits[0].Name != "end" {
			t.Fatalf("replayed, it waits for %+v", e.Park.Waits)
		}
		x.Drop(ErrSuperseded)
	}
	c.seen(t, len(c.winners), c.winners[0])
	outcomes := map[protocol.Key]int{}
	for _, e := range r.raced() {
		if outcomes[*e.Step]++; outcomes[*e.Step] > 1 {
			t.Errorf("%v was decided twice", e.Step)
		}
	}
	return fmt.Sprint(c.winners[0]), died
}

// own runs a step and returns what it gets.
func own(ctx context.Context, t *testing.T, name string) string {
	s, err := From(ctx)
	if err != nil {
		t.Error(err)
		return ""
	}
	step, err := s.Do(ctx, name, protocol.StepConfig{LostRuns: 9}, Code{Body: func(context.Context) (json.RawMessage, error) {
		return json.RawMessage(`"own"`), nil
	}})
	if err != nil {
		t.Error(err)
		return ""
	}
	return string(step.Result)
}
