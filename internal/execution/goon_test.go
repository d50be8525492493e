package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// sends makes a wake: an event that is sent to the instance.
func (r *rig) sends(eventType string) protocol.Wake {
	r.t.Helper()
	sequence, err := r.store.Publish(r.t.Context(), r.instance.EventSubject(), nil, []byte("{}"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inputs = append(r.inputs, engine.Input{Sequence: sequence, ID: fmt.Sprint(sequence), Type: eventType})
	return protocol.Wake{Stream: r.stream, Sequence: sequence}
}

// waitsTwice waits for two events side by side, and then for one more.
func waitsTwice(runs, deferred *atomic.Int64) func(ctx context.Context) (json.RawMessage, error) {
	return func(ctx context.Context) (json.RawMessage, error) {
		runs.Add(1)
		defer deferred.Add(1)
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		g := s.Group(ctx)
		for _, name := range []string{"a", "b"} {
			g.Go(func(ctx context.Context) error {
				s, err := From(ctx)
				if err == nil {
					_, _, err = s.WaitForEvent(ctx, name, name, time.Hour)
				}
				if err == nil {
					err = do(ctx, "after "+name, nothing)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		_, _, err = s.WaitForEvent(ctx, "c", "c", time.Hour)
		return nil, err
	}
}

// TestGoesOnInMemory: each event that ends a park lets the code go on where it stands, under a claim that names the event. What
// came for later waits while it was parked is found by them.
func TestGoesOnInMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs, deferred atomic.Int64
	x := r.start(Settings{ShortWait: time.Nanosecond}, waitsTwice(&runs, &deferred))
	parked := r.event(x, Parked)
	r.sends("c") // ends no wait yet: its wake was acked
	b := r.sends("b")
	if taken, runs := x.GoOn(b, parked.Sequence); !taken || !runs {
		t.Fatalf("taken: %v, runs: %v", taken, runs)
	}
	parked = r.event(x, Parked)
	if !r.has(protocol.EntryStepCompleted, "after b") || len(parked.Park.Waits) != 1 || deferred.Load() != 0 {
		t.Errorf("after the first event it waits for %+v", parked.Park.Waits)
	}
	if taken, _ := x.GoOn(r.sends("a"), parked.Sequence); !taken {
		t.Error("the second event is not taken")
	}
	r.event(x, Finished)
	claims := 0
	for _, e := range r.entries() {
		if e.Kind == protocol.EntryClaimed {
			claims++
		}
	}
	if runs.Load() != 1 || deferred.Load() != 1 || claims != 2 {
		t.Errorf("%d runs, %d deferred, %d claims; want 1, 1, 2", runs.Load(), deferred.Load(), claims)
	}
}

// TestGoesOnAfterASleep: an event that came while nothing waited for it is found by the next wait, although inputs were read before. A
// wake that ends nothing leads to another park.
func TestGoesOnAfterASleep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var late atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	x := r.start(Settings{ShortWait: time.Nanosecond, Hooks: Hooks{Now: now}}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err == nil {
			_, _, err = s.WaitForEvent(ctx, "a", "a", time.Hour)
		}
		if err == nil {
			err = s.Sleep(ctx, "nap", func(now time.Time) time.Time { return now.Add(time.Hour) })
		}
		if err == nil {
			_, _, err = s.WaitForEvent(ctx, "b", "b", time.Hour)
		}
		return nil, err
	})
	parked := r.event(x, Parked)
	x.GoOn(r.sends("a"), parked.Sequence)
	parked = r.event(x, Parked)
	x.GoOn(r.sends("b"), parked.Sequence)
	parked = r.event(x, Parked)
	late.Store(int64(time.Hour))
	x.GoOn(protocol.Wake{Stream: "TIMERS", Sequence: 1}, parked.Sequence)
	r.event(x, Finished)
}

// TestGoesOnOnce: a wake that an execution is not parked for is not taken, and one that comes too late ends it.
func TestGoesOnOnce(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		first func(r *rig, x *Execution, park uint64)
		park  int // which one the wake is for, from the newest
		taken bool
		ends  error
	}{
		{"of an older park", func(*rig, *Execution, uint64) {}, -1, false, nil},
		{"at shutdown", func(r *rig, x *Execution, _ uint64) { x.Release(r.t.Context(), time.Second) }, 0, false, nil},
		{"overtaken", func(r *rig, _ *Execution, park uint64) { r.overtake(park) }, 0, true, ErrSuperseded},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var runs, deferred atomic.Int64
			x := r.start(Settings{ShortWait: time.Nanosecond}, waitsTwice(&runs, &deferred))
			parked := r.event(x, Parked)
			row.first(r, x, parked.Sequence)
			taken, goesOn := x.GoOn(r.sends("a"), parked.Sequence+uint64(row.park))
			if taken != row.taken || goesOn {
				t.Errorf("taken: %v, goes on: %v", taken, goesOn)
			}
			if row.ends != nil {
				if e := r.event(x, Dropped); !errors.Is(e.Err, row.ends) {
					t.Errorf("dropped for %v", e.Err)
				}
			}
			if r.has(protocol.EntryReceived, "") {
				t.Error("the event was taken")
			}
		})
	}
}

// TestStandsToAPark tells apart the execution that is parked there, one that is not any more, and one of which that is open for too long.
func TestStandsToAPark(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs, deferred atomic.Int64
	x := r.start(Settings{ShortWait: time.Nanosecond}, waitsTwice(&runs, &deferred))
	park := r.event(x, Parked).Sequence
	stands := func(what string, incarnation, park uint64, patience time.Duration, want Position) {
		t.Helper()
		if got := x.Stands(incarnation, park, patience); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	stands("at the park", r.created, park, time.Hour, AtPark)
	stands("of another instance", r.created-1, park, time.Hour, Elsewhere)
	stands("at a later park", r.created, park+1, time.Hour, Elsewhere)
	x.mu.Lock()
	x.phase = parking
	x.mu.Unlock()
	stands("about to be parked", r.created, park, time.Nanosecond, Elsewhere)
	x.mu.Lock()
	x.phase = parked
	x.mu.Unlock()
	x.GoOn(r.sends("a"), park)
	stands("gone on", r.created, park, time.Hour, Beyond)
	x.Drop(ErrReleased)
	stands("over", r.created, park, time.Hour, Elsewhere)
}

// overtake appends what another runner would.
func (r *rig) overtake(after uint64) {
	r.t.Helper()
	body, err := json.Marshal(protocol.Append{
		V: 1, ID: "other", Incarnation: r.created, Holder: protocol.Wake{Stream: r.stream, Sequence: after}, Time: time.Now(),
		Entries: []protocol.Entry{{Kind: protocol.EntryReleased}},
	})
	if err == nil {
		_, err = r.store.Append(r.t.Context(), r.stream, r.instance.LogSubject(), after, body)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}
