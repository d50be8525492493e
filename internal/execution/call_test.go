package execution

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

var callee = protocol.Callee{Project: "q", Workflow: "w", ID: "child"}

// creates makes calls whose child is made by create.
func creates(create func() (uint64, error)) Call {
	return Call{
		Resolve: func(context.Context, protocol.Parent) (protocol.Callee, error) { return callee, nil },
		Create:  func(context.Context, protocol.Parent, protocol.Callee) (uint64, error) { return create() },
	}
}

// calls is code that makes one call.
func calls(c Call) part {
	return func(ctx context.Context) error {
		s, err := From(ctx)
		if err != nil {
			return err
		}
		a, err := s.Call(ctx, "call", c)
		if err == nil && a.Failure != nil {
			err = a.Failure
		}
		return err
	}
}

// told waits for a child that is told something.
func (r *rig) told(children <-chan engine.Call) engine.Call {
	r.t.Helper()
	select {
	case c := <-children:
		return c
	case <-time.After(natstest.Patience):
		r.t.Fatal("no child is told")
		return engine.Call{}
	}
}

// TestChildIsBegunOnce: a create is tried until it succeeds, after its intent is in the log, and never again once that
// says that the child is there.
func TestChildIsBegunOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var tries atomic.Int64
	code := all(step("before"), calls(creates(func() (uint64, error) {
		if !r.has(protocol.EntryStarted, "call") || !r.has(protocol.EntryStepCompleted, "before") {
			t.Error("the create was not in the log before")
		}
		if tries.Add(1) < 3 {
			return 0, errors.New("not now")
		}
		return 5, nil
	})))
	first := r.start(Settings{}, code)
	if e := r.event(first, Parked); len(e.Park.Waits) != 1 || e.Park.Waits[0].Op != protocol.OpCall || e.Park.Waits[0].Type == "" {
		t.Errorf("parked for %+v", e.Park.Waits)
	}
	first.Drop(ErrSuperseded)
	r.event(r.again(Settings{}, code), Parked)
	if n := tries.Load(); n != 3 {
		t.Errorf("the child was created in %d tries", n)
	}
	open := r.history().OpenCalls()
	if len(open) != 1 || open[0].Callee.Incarnation != 5 || open[0].Callee.ID != "child" {
		t.Errorf("open calls %+v", open)
	}
}

// TestDeletedBeforeItWasKnown: a run was lost when it had made the child, and the child was deleted since. It is not made
// again.
func TestDeletedBeforeItWasKnown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	x := r.start(Settings{}, all(calls(creates(func() (uint64, error) { return 0, errors.New("lost") }))))
	natstest.Eventually(t, natstest.Patience, "the intent is in the log", func() bool { return r.has(protocol.EntryStarted, "call") })
	x.Drop(ErrSuperseded)
	r.event(x, Dropped)
	sequence, err := r.store.Publish(t.Context(), r.instance.EventSubject(), nil, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.inputs = []engine.Input{{
		Sequence: sequence, ID: "answer", Type: protocol.CallType(r.created, 0, "call", 1), Payload: json.RawMessage(`{"state":"deleted"}`),
	}}
	var answer Answer
	x = r.again(Settings{}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err == nil {
			answer, err = s.Call(ctx, "call", creates(func() (uint64, error) {
				t.Error("the child was made again")
				return 6, nil
			}))
		}
		return nil, err
	})
	r.event(x, Finished)
	if answer.Done == nil || answer.Done.Error == nil {
		t.Errorf("the answer is %+v", answer)
	}
}

// TestStrayChild: a child that is made while its parent is taken away is told of by whoever made it.
func TestStrayChild(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	creating, goOn := make(chan struct{}), make(chan struct{})
	x := r.start(Settings{}, all(calls(creates(func() (uint64, error) {
		close(creating)
		<-goOn
		return 5, nil
	}))))
	<-creating
	x.Drop(ErrSuperseded)
	r.event(x, Dropped)
	close(goOn)
	if c := r.told(r.strays); c.Callee.Incarnation != 5 || c.Type != protocol.CallType(r.created, 0, "call", 1) {
		t.Errorf("told was %+v", c)
	}
}

// TestCreateGoesOnAfterARelease: a runner that shuts down while the child cannot be made leaves that to the next one.
func TestCreateGoesOnAfterARelease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tried := make(chan struct{}, 100)
	x := r.start(Settings{}, all(calls(creates(func() (uint64, error) {
		tried <- struct{}{}
		return 0, errors.New("not now")
	}))))
	<-tried
	x.Release(t.Context(), time.Second)
	if e := r.event(x, Dropped); !errors.Is(e.Err, ErrReleased) {
		t.Fatalf("dropped for %v", e.Err)
	}
	if !r.has(protocol.EntryReleased, "") || r.has(protocol.EntryStepFailed, "") {
		t.Errorf("the log has %+v", r.entries())
	}
	r.event(r.again(Settings{}, all(calls(creates(func() (uint64, error) { return 5, nil })))), Parked)
}

// TestGivenUpCalls: a call whose context has ended fails for good, whether it had begun or not. A child that there is
// is told before the code goes on.
func TestGivenUpCalls(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		began bool
	}{{"before it began", false}, {"while it waited", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			made := 0
			code := func(ended bool) func(context.Context) (json.RawMessage, error) {
				return all(func(ctx context.Context) error {
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					if ended && !tt.began {
						cancel()
					}
					err := calls(creates(func() (uint64, error) {
						made++
						if ended {
							time.AfterFunc(20*time.Millisecond, cancel) // it waits by then, or is about to
						}
						return 5, nil
					}))(ctx)
					f, ok := errors.AsType[*protocol.Failure](err)
					if !ok || f.Name != protocol.FailureCanceled {
						return errors.New("it was not given up")
					}
					return nil
				}, nap("end"))
			}
			first := r.start(Settings{}, code(true))
			if r.event(first, Parked); !r.has(protocol.EntryStepFailed, "call") {
				r.event(first, Revived) // it had parked before
				r.event(first, Parked)
			}
			first.Drop(ErrSuperseded)
			if tt.began {
				if c := r.told(r.ended); c.Callee.Incarnation != 5 {
					t.Errorf("told was %+v", c)
				}
			}
			if len(r.ended) != 0 || made != 0 != tt.began {
				t.Errorf("%d more were told, %d made", len(r.ended), made)
			}
			// A run in which the context does not end comes to the same.
			r.event(r.again(Settings{}, code(false)), Parked)
			if h := r.history(); len(h.Untold) != 0 || len(h.Orphans()) != 0 {
				t.Errorf("untold %+v", h.Untold)
			}
		})
	}
}

// TestGivenUpCallsComeLate: in a replay, the error of a call that was given up does not overtake what ended its context.
func TestGivenUpCallsComeLate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fails, first := make(chan struct{}), make(chan error, 2)
	code := all(func(ctx context.Context) error {
		err := group(calls(creates(func() (uint64, error) { close(fails); return 5, nil })), func(ctx context.Context) error {
			<-fails
			<-time.After(10 * time.Millisecond) // time enough for the other branch to be first
			return errors.Join(step("a", "b", "c", "d")(ctx), errOn)
		})(ctx)
		first <- err
		return nil
	}, nap("end"))
	r.event(r.start(Settings{}, code), Parked)
	if !r.has(protocol.EntryStepFailed, "call") {
		t.Fatalf("the log has %+v", r.entries())
	}
	for range 3 {
		x := r.again(Settings{}, code)
		r.event(x, Parked)
		x.Drop(ErrSuperseded)
		if err := <-first; !errors.Is(err, errOn) {
			t.Fatalf("the group ended with %v", err)
		}
	}
}
