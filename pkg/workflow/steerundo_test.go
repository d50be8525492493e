package workflow

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// steer stores a control.
func (b *bench) steer(id string, c protocol.Control) {
	b.t.Helper()
	c.V, c.Input, c.Sent = protocol.Version, uuid.NewString(), time.Now().UTC()
	b.put(b.instance("w", id).ControlSubject(), c)
}

func (b *bench) awaitState(id string, want State) Status {
	b.t.Helper()
	return b.reaches("w", id, "is "+string(want), func(s Status) bool { return s.State == want })
}

// TestTerminateWithRollback undoes the steps of an instance, whatever it is doing, and ends it.
func TestTerminateWithRollback(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		at   string // what the instance does when it has booked
		then protocol.Action
	}{{"in a body", "body", ""}, {"waiting", "event", ""}, {"paused", "event", protocol.ActionPause}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b, u, reached := setup(t), &undone{}, make(chan struct{}, 10)
			b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
				if _, err := u.book(ctx, "out", 7); err != nil {
					return nil, err
				}
				if _, err := u.book(ctx, "back", 8); err != nil {
					return nil, err
				}
				if row.at == "body" {
					return nil, Exec(ctx, "long", func(ctx context.Context) error {
						reached <- struct{}{}
						<-ctx.Done()
						return ctx.Err()
					})
				}
				_, err := WaitForEvent[string](ctx, "answer", "go")
				return nil, err
			}))
			b.create("w", "a", 1)
			if row.at == "body" {
				<-reached
			} else {
				b.awaitState("a", Waiting)
			}
			if row.then != "" {
				b.steer("a", protocol.Control{Action: row.then})
				b.awaitState("a", Paused)
			}
			b.steer("a", protocol.Control{Action: protocol.ActionTerminate, Rollback: true})
			s := b.finished("w", "a")
			if s.State != Terminated || s.Error == nil || s.Error.Name != protocol.FailureTerminated {
				t.Errorf("it is %s with %v", s.State, s.Error)
			}
			if s.Rollback == nil || s.Rollback.Outcome != "complete" || s.Expires == nil {
				t.Errorf("its rollback is %+v, it expires %v", s.Rollback, s.Expires)
			}
			u.want(t, "back: seat 8 because the instance was terminated", "out: seat 7 because the instance was terminated")
			if n := b.kinds("w", "a")[protocol.EntryStepFailed]; n != 0 {
				t.Errorf("%d steps have failed", n)
			}
		})
	}
}

// TestSteerWhileRollingBack: an instance that undoes its steps can be paused, and ended before it is done.
func TestSteerWhileRollingBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		control  protocol.Action
		stopped  bool
		rollback string
		want     []string
	}{
		{"paused and resumed", protocol.ActionPause, false, "complete", []string{"back", "out"}},
		{"terminated", protocol.ActionTerminate, true, "", []string{"back"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b, u := setup(t), &undone{}
			b.hearing = natstest.Patience // however slow the machine is, who executes is heard
			begun, finish, stopped := make(chan struct{}, 10), make(chan struct{}), make(chan struct{}, 10)
			undo := func(ctx context.Context, _ int, _ error) error {
				u.note("%s", Step(ctx).Step)
				if Step(ctx).Step != "back" {
					return nil
				}
				begun <- struct{}{}
				select {
				case <-finish:
					return nil
				case <-ctx.Done():
					stopped <- struct{}{}
					return ctx.Err()
				}
			}
			book := func(context.Context) (int, error) { return 1, nil }
			b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
				for _, name := range []string{"out", "back"} {
					if _, err := Do(ctx, name, book, Compensate(undo)); err != nil {
						return nil, err
					}
				}
				return nil, errFull
			}))
			b.create("w", "a", 1)
			<-begun
			b.awaitState("a", RollingBack)
			b.steer("a", protocol.Control{Action: row.control})
			if row.stopped {
				<-stopped
			} else {
				b.awaitState("a", WaitingForPause)
				natstest.Eventually(t, natstest.Patience, "the pause is asked for", func() bool {
					c, err := b.js.Consumer(t.Context(), protocol.WorkflowsStream("p", 0), protocol.ConsumerControls(0))
					return err == nil && c.CachedInfo().Delivered.Consumer >= 3 // it was answered twice
				})
				close(finish)
				b.awaitState("a", Paused)
				b.steer("a", protocol.Control{Action: protocol.ActionResume})
			}
			s := b.finished("w", "a")
			u.want(t, row.want...)
			if row.rollback != "" && (s.State != Errored || s.Rollback == nil || s.Rollback.Outcome != row.rollback) {
				t.Errorf("it is %s, its rollback is %+v", s.State, s.Rollback)
			}
			if row.rollback == "" && (s.State != Terminated || s.Rollback != nil) {
				t.Errorf("it is %s, its rollback is %+v", s.State, s.Rollback)
			}
		})
	}
}
