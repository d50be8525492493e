package execution

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

var programs = flag.Int("programs", 40, "how many random programs are checked against their own histories")

// writer writes a random program. The same seed gives the same program, but for the step that is dropped.
type writer struct {
	r    *rand.Rand
	n    int
	calm bool // nothing fails, and nothing is given up
	drop string
	// names are the steps, in order of their writing.
	names []string
}

func newWriter(seed uint64, calm bool, drop string) *writer {
	return &writer{r: rand.New(rand.NewPCG(seed, 17)), calm: calm, drop: drop}
}

func (w *writer) name() string {
	w.n++
	return fmt.Sprint("s", w.n)
}

func (w *writer) step() part {
	name := w.name()
	w.names = append(w.names, name)
	if name == w.drop {
		return func(context.Context) error { return nil }
	}
	return step(name)
}

// program is what a workflow function does. It ends at a nap.
func (w *writer) program() []part {
	return append(w.parts(2), nap("end"))
}

func (w *writer) parts(depth int) []part {
	var all []part
	for range 1 + w.r.IntN(4) {
		all = append(all, w.part(depth))
	}
	return all
}

func (w *writer) part(depth int) part {
	kinds := 5
	if !w.calm {
		kinds = 14
	}
	switch w.r.IntN(kinds) {
	case 0:
		return blink(w.name())
	case 1:
		return value
	case 2:
		if depth > 0 {
			var branches []part
			for range 2 + w.r.IntN(2) {
				branches = append(branches, inTurn(w.parts(depth-1)...))
			}
			return group(branches...)
		}
	case 5: // a function of a group fails, whatever the others are at
		if depth > 0 {
			return caught(group(inTurn(w.step(), fail), inTurn(w.parts(depth-1)...), inTurn(w.parts(0)...)))
		}
	case 6: // … and the others look at their context
		if depth > 0 {
			return caught(group(inTurn(w.step(), blink(w.name()), fail), inTurn(w.step(), blink(w.name()), ended, w.step()), untilCanceled(w.step())))
		}
	case 7:
		return brief(doze(w.name(), memory/2))
	case 8:
		return caught(failing(w.name()))
	case 9: // goroutines that nobody counts
		if depth > 0 {
			return bare(inTurn(w.parts(0)...), inTurn(w.step(), w.step()))
		}
	case 10: // it is left early, for an error that is recorded
		return caught(inTurn(w.step(), failing(w.name()), w.step()))
	case 11:
		return deferred(w.step(), w.name())
	case 12: // a race with a clear winner
		if depth > 0 {
			return derby(w.name(), inTurn(w.step(), doze(w.name(), memory/2), w.step()), inTurn(w.parts(0)...), doze(w.name(), memory/2))
		}
	case 13: // and one that anybody may win
		if depth > 0 {
			return caught(derby(w.name(), inTurn(w.parts(depth-1)...), inTurn(w.step(), fail), blink(w.name())))
		}
	}
	return w.step()
}

func inTurn(parts ...part) part {
	return func(ctx context.Context) error {
		for _, p := range parts {
			if err := p(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// derby is a race of parts.
func derby(name string, parts ...part) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		var bodies []Body
		for _, p := range parts {
			bodies = append(bodies, func(ctx context.Context) (json.RawMessage, error) { return nil, p(ctx) })
		}
		race, err := s.Race(ctx, name, false, bodies)
		if err == nil && race.Failure != nil {
			return race.Failure
		}
		return err
	}
}

// blink sleeps for a moment.
func blink(name string) part { return doze(name, time.Millisecond) }

func doze(name string, d time.Duration) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		return s.Sleep(ctx, name, func(now time.Time) time.Time { return now.Add(d) })
	}
}

// ended returns early if the context has ended.
func ended(ctx context.Context) error { return context.Cause(ctx) }

// failing is a step that fails for good.
func failing(name string) part {
	return func(ctx context.Context) error {
		return do(ctx, name, func(context.Context) (json.RawMessage, error) { return nil, errOn })
	}
}

// deferred calls a step in a deferred function.
func deferred(p part, name string) part {
	return func(ctx context.Context) (err error) {
		defer func() { err = step(name)(ctx) }()
		return p(ctx)
	}
}

// another is a rig for another instance on the same server.
func (r *rig) another(id string) *rig {
	r.t.Helper()
	other := &rig{t: r.t, store: r.store, stream: r.stream, instance: r.instance, ended: r.ended, strays: r.strays}
	other.instance.ID = id
	var err error
	if other.created, err = r.store.Append(r.t.Context(), r.stream, other.instance.CreateSubject(), 0, []byte("{}")); err != nil {
		r.t.Fatal(err)
	}
	return other
}

// prefixes are the histories that the log has been, oldest first.
func (r *rig) prefixes() (all []func() *engine.History) {
	r.t.Helper()
	page, more, err := r.store.Page(r.t.Context(), r.stream, r.instance.LogSubject(), 1, 500)
	if err != nil || more {
		r.t.Fatalf("more than a page: %v, %v", more, err)
	}
	for n := range len(page) + 1 {
		all = append(all, func() *engine.History {
			h := engine.NewHistory(r.stream, r.created, protocol.Create{})
			for _, m := range page[:n] {
				var a protocol.Append
				if err := json.Unmarshal(m.Data, &a); err != nil {
					r.t.Fatal(err)
				}
				if err := h.Apply(m.Sequence, &a); err != nil {
					r.t.Fatal(err)
				}
			}
			return h
		})
	}
	return all
}

func check(t *testing.T, hold time.Duration, r *rig, h *engine.History, code []part) *Finding {
	t.Helper()
	f, err := Check(t.Context(), Settings{Hold: hold, Idle: hold / 4}, h, r.instance, all(code...))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestCodeAgreesWithItself: whatever a program did, and wherever it was cut off, the same program can go on with it.
func TestCodeAgreesWithItself(t *testing.T) {
	t.Parallel()
	shared := newRig(t)
	for seed := range uint64(*programs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := shared.another(fmt.Sprint("a", seed))
			r.t = t
			x := r.start(Settings{ShortWait: memory, Idle: 50 * time.Millisecond}, all(newWriter(seed, false, "").program()...))
			r.event(x, Parked)
			for n, history := range r.prefixes() {
				f := check(t, 200*time.Millisecond, r, history(), newWriter(seed, false, "").program())
				if f != nil { // a busy machine?
					f = check(t, 5*time.Second, r, history(), newWriter(seed, false, "").program())
				}
				if f != nil {
					t.Errorf("after %d messages: %s", n, engine.Contradiction(*f.Divergence, f.Failure))
				}
			}
		})
	}
}

// TestMissingStepsAreFound: a program that lacks a step that had ended is found, wherever it was cut off since, and what it
// lacks is named.
func TestMissingStepsAreFound(t *testing.T) {
	t.Parallel()
	shared := newRig(t)
	for seed := range uint64(*programs / 2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := shared.another(fmt.Sprint("b", seed))
			r.t = t
			w := newWriter(seed, true, "")
			x := r.start(Settings{ShortWait: memory, Idle: 50 * time.Millisecond}, all(w.program()...))
			r.event(x, Parked)
			for i, drop := range w.names {
				histories := r.prefixes()
				h := histories[len(histories)-1-i%2]() // with the park, and without
				s := h.Steps[protocol.Key{Op: protocol.OpDo, Name: drop, Count: 1}]
				if s == nil || !s.Done {
					continue
				}
				f := check(t, 30*time.Millisecond, r, h, newWriter(seed, true, drop).program())
				if f == nil || f.Divergence == nil || !slices.Contains(strings.Fields(names(f.Divergence.Recorded)), drop) {
					t.Errorf("without %s nothing is found, or another: %+v", drop, f)
				}
			}
		})
	}
}
