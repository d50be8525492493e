package execution

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/protocol"
)

var errOn = errors.New("on purpose")

type part func(ctx context.Context) error

func step(names ...string) part {
	return func(ctx context.Context) error {
		for _, name := range names {
			if err := do(ctx, name, nothing); err != nil {
				return err
			}
		}
		return nil
	}
}

// memory is how long a wait may be that does not park. That of the nap called short is, and that of others is not.
const memory = 30 * time.Minute

func nap(name string) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		end := time.Hour
		if name == "short" {
			end = memory / 2
		}
		return s.Sleep(ctx, name, func(now time.Time) time.Time { return now.Add(end) })
	}
}

// group runs parts as branches.
func group(parts ...part) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		g := s.Group(ctx)
		for _, p := range parts {
			g.Go(p)
		}
		return g.Wait()
	}
}

// bare runs parts in goroutines of which the engine knows nothing, each when the one before has returned or waits.
func bare(parts ...part) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		var g errgroup.Group
		for _, p := range parts {
			before, over := s.waiting(), make(chan struct{})
			g.Go(func() error { defer close(over); return p(ctx) })
			s.awaitWait(over, before)
		}
		return g.Wait()
	}
}

func fail(context.Context) error { return errOn }

func caught(p part) part {
	return func(ctx context.Context) error { _ = p(ctx); return nil }
}

func value(ctx context.Context) error {
	s, err := From(ctx)
	if err != nil {
		return err
	}
	_, err = s.Value("now", func() json.RawMessage { return json.RawMessage("1") })
	return err
}

// brief gives up what it calls after a moment.
func brief(p part) part {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		_ = p(ctx)
		return nil
	}
}

// forgets begins a branch for which it does not wait, and returns when that waits.
func forgets(p part) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		begun, over := make(chan *Scope, 1), make(chan struct{})
		s.Group(ctx).Go(func(ctx context.Context) error {
			defer close(over)
			branch, err := From(ctx)
			if err != nil {
				return err
			}
			begun <- branch
			return p(ctx)
		})
		(<-begun).awaitWait(over, 0)
		return do(ctx, "forgotten", nothing)
	}
}

// waiting is how many calls of the branch wait.
func (s *Scope) waiting() int {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	return s.lane.waiting
}

// awaitWait waits until more calls of the branch wait than before and none does anything else, or what calls is over.
func (s *Scope) awaitWait(over <-chan struct{}, before int) {
	for {
		s.x.mu.Lock()
		waits := s.lane.still() && s.lane.waiting > before
		s.x.mu.Unlock()
		if waits {
			return
		}
		select {
		case <-over:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func all(parts ...part) func(ctx context.Context) (json.RawMessage, error) {
	return func(ctx context.Context) (json.RawMessage, error) {
		for _, p := range parts {
			if err := p(ctx); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
}

// untilCanceled waits for the end of the branch's context, and only then calls.
func untilCanceled(p part) part {
	return func(ctx context.Context) error {
		<-ctx.Done()
		return p(ctx)
	}
}

func names(keys []protocol.Key) string {
	var all []string
	for _, k := range keys {
		all = append(all, k.Name)
	}
	return strings.Join(all, " ")
}

// TestDivergence runs other code over what the first left when it parked.
func TestDivergence(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		before, after []part
		missing       string // names of the recorded steps; empty: no divergence
		called        string // empty: it returned
		branch        string
	}{
		{"a step is gone", []part{step("a", "b"), nap("end")}, []part{step("a"), nap("end")}, "b", "end", ""},
		{"a step is new", []part{step("a", "b"), nap("end")}, []part{step("a", "new", "b"), nap("end")}, "b end", "new", ""},
		{"what it waits for is another", []part{step("a"), nap("end")}, []part{step("a"), nap("other")}, "end", "other", ""},
		{"two steps swapped", []part{step("a", "b"), nap("end")}, []part{step("b", "a"), nap("end")}, "a", "b", ""},
		{"it returns", []part{step("a", "b"), nap("end")}, []part{step("a")}, "b end", "", ""},
		{"it fails", []part{step("a", "b"), nap("end")}, []part{fail}, "a b end", "", ""},
		{"it panics", []part{step("a"), nap("end")}, []part{func(context.Context) error { panic("on purpose") }}, "a end", "", ""},
		{"a group is gone", []part{group(step("a", "b")), nap("end")}, []part{nap("end")}, "a b", "end", ""},
		{"a branch of a group returns", []part{group(step("a"), step("b", "c")), nap("end")},
			[]part{group(step("a"), step("b")), nap("end")}, "c", "", "1.2/"},
		{"a branch of a group calls another", []part{group(nap("a"), step("b", "c")), nap("end")},
			[]part{group(nap("a"), step("b", "d")), nap("end")}, "c", "d", "1.2/"},
		{"in goroutines", []part{bare(step("a", "b"), step("c")), nap("end")}, []part{bare(step("a"), step("c")), nap("end")}, "b", "c", ""},
		{"a race is gone", []part{race_("race", step("a"), nap("b")), nap("end")}, []part{step("a"), nap("end")}, "race", "end", ""},
		{"a step of the winner is gone", []part{race_("race", step("a", "b"), nap("c")), nap("end")},
			[]part{race_("race", step("a"), nap("c")), nap("end")}, "b", "", "1.1/"},
		{"a step of the winner is new", []part{race_("race", step("a"), nap("c")), nap("end")},
			[]part{race_("race", step("a", "new"), nap("c")), nap("end")}, "race", "new", "1.1/"},
		{"the winner calls another", []part{race_("race", step("a"), nap("c")), nap("end")},
			[]part{race_("race", step("new"), nap("c")), nap("end")}, "race", "new", "1.1/"},
		{"the winner is gone", []part{race_("race", nap("c"), step("a")), nap("end")},
			[]part{race_("race", nap("c")), nap("end")}, "race", "race", ""},
		{"a step of a branch that may win is gone", []part{race_("race", seq(step("a", "b"), nap("x")), nap("y"))},
			[]part{race_("race", seq(step("a"), nap("x")), nap("y"))}, "b", "x", "1.1/"},

		{name: "a step of a loser is gone", before: []part{race_("race", seq(step("a", "b"), nap("x")), event("go")), nap("end")},
			after: []part{race_("race", seq(step("a"), nap("x")), event("go")), nap("end")}},
		{name: "a step of a loser is new", before: []part{race_("race", seq(step("a"), nap("x")), event("go")), nap("end")},
			after: []part{race_("race", seq(step("a", "new"), nap("x")), event("go")), nap("end")}},
		{name: "a loser is gone", before: []part{race_("race", event("go"), nap("x")), nap("end")}, after: []part{race_("race", event("go")), nap("end")}},
		{name: "a loser is new", before: []part{race_("race", event("go"), nap("x")), nap("end")},
			after: []part{race_("race", event("go"), nap("x"), step("new")), nap("end")}},
		{name: "a loser had begun what it did not wait for", before: []part{race_("race", bare(nap("x"), nap("y")), event("go")), nap("end")},
			after: []part{race_("race", bare(nap("x"), nap("y")), event("go")), nap("end")}},
		{name: "the winner had begun what it did not wait for", before: []part{race_("race", forgets(seq(nap("x"), step("new"))), nap("y")), nap("end")},
			after: []part{race_("race", forgets(seq(nap("x"), step("new"))), nap("y")), nap("end")}},
		{name: "a race in a race that is not decided", before: []part{race_("outer", race_("inner", step("a"), nap("b")), event("go")), nap("end")},
			after: []part{race_("outer", race_("inner", step("a"), nap("b")), event("go")), nap("end")}},

		{name: "the same", before: []part{step("a", "b"), nap("end")}, after: []part{step("a", "b"), nap("end")}},
		{name: "a value is gone", before: []part{value, step("a"), nap("end")}, after: []part{step("a"), nap("end")}},
		{name: "a value is new", before: []part{step("a"), nap("end")}, after: []part{value, step("a"), nap("end")}},
		{name: "goroutines in another order", before: []part{bare(step("a", "b"), step("c", "d")), nap("end")},
			after: []part{bare(step("c", "d"), step("a", "b")), nap("end")}},
		{name: "a goroutine calls what is new before the other what is not", before: []part{bare(step("a"), nap("end"))},
			after: []part{bare(step("new"), step("a"), nap("end"))}},
		{name: "functions of a group in another order", before: []part{group(step("a", "b"), step("c", "d")), nap("end")},
			after: []part{group(step("c", "d"), step("a", "b")), nap("end")}},
		{name: "a canceled function of a group does not come as far",
			before: []part{caught(group(func(ctx context.Context) error { return errors.Join(step("a")(ctx), fail(ctx)) }, untilCanceled(fail), step("b"))), nap("end")},
			after:  []part{caught(group(func(ctx context.Context) error { return errors.Join(step("a")(ctx), fail(ctx)) }, untilCanceled(fail), untilCanceled(fail))), nap("end")}},
		{name: "a call was given up", before: []part{step("a"), brief(nap("short")), step("b"), nap("end")}, after: []part{step("a", "b"), nap("end")}},
		{name: "a call is given up again", before: []part{step("a"), brief(nap("short")), step("b"), nap("end")},
			after: []part{step("a"), brief(nap("short")), step("b"), nap("end")}},
		{name: "the last call was given up", before: []part{bare(step("a"), brief(nap("short"))), nap("end")}, after: []part{step("a"), nap("end")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.send("go")
			first := r.start(Settings{ShortWait: memory}, all(tt.before...))
			r.event(first, Parked)
			first.Drop(ErrSuperseded)
			if tt.missing == "" {
				r.event(r.again(Settings{ShortWait: memory}, all(tt.after...)), Parked) // with patience enough for a loaded machine
				return
			}
			r.event(r.again(Settings{ShortWait: memory, Hold: 100 * time.Millisecond}, all(tt.after...)), Held)
			entries := r.entries()
			held := entries[len(entries)-1]
			if held.Kind != protocol.EntryHeld || held.Divergence == nil || held.Error == nil {
				t.Fatalf("the log ends with %+v", held)
			}
			called := ""
			if held.Divergence.Called != nil {
				called = held.Divergence.Called.Name
			}
			if names(held.Divergence.Recorded) != tt.missing || called != tt.called || held.Divergence.Branch != tt.branch {
				t.Errorf("held for %q, called is %q on branch %q", held.Divergence.Recorded, called, held.Divergence.Branch)
			}
			for _, e := range entries {
				if e.Step != nil && strings.HasPrefix(e.Step.Name, "new") || e.Kind == protocol.EntryFailed {
					t.Errorf("recorded is %s %v", e.Kind, e.Step)
				}
			}
		})
	}
}

// TestHeldGoesOn: with what is recorded accepted, code goes on that contradicts it.
func TestHeldGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.start(Settings{}, all(step("a", "b"), nap("end")))
	r.event(first, Parked)
	first.Drop(ErrSuperseded)
	other := all(step("b", "new"))
	r.event(r.again(Settings{Hold: time.Millisecond}, other), Held)
	h := r.history()
	if h.State() != protocol.StateHeld {
		t.Fatalf("the state is %s", h.State())
	}
	r.append(h, 0, protocol.Entry{Kind: protocol.EntryResumed, Accept: true, Wake: &h.Holder})
	r.event(r.again(Settings{Hold: time.Hour}, other), Finished)
	if !r.has(protocol.EntryStepCompleted, "new") || slices.ContainsFunc(r.entries(), func(e protocol.Entry) bool { return e.Kind == protocol.EntryFailed }) {
		t.Errorf("the log has %+v", r.entries())
	}
}
