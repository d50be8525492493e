package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

var errFull = errors.New("the train is full")

type booking struct{ Seat int }

// undone notes what compensations were told.
type undone struct {
	mu  sync.Mutex // guards all
	all []string
}

func (u *undone) note(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all = append(u.all, fmt.Sprintf(format, args...))
}

func (u *undone) want(t *testing.T, want ...string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Equal(u.all, want) {
		t.Errorf("compensated was\n%s\nwant\n%s", strings.Join(u.all, "\n"), strings.Join(want, "\n"))
	}
}

// book is a step that reserves a seat, and gives it back.
func (u *undone) book(ctx context.Context, name string, seat int, options ...StepOption) (booking, error) {
	return Do(ctx, name, func(context.Context) (booking, error) { return booking{seat}, nil },
		Compensate(func(ctx context.Context, b booking, cause error) error {
			u.note("%s: seat %d because %v", Step(ctx).Step, b.Seat, cause)
			return nil
		}, options...))
}

// TestRollback is one instance with every kind of step: its compensations get what they were promised.
func TestRollback(t *testing.T) {
	t.Parallel()
	b, u := setup(t), &undone{}
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		_, err := u.book(ctx, "out", 7)
		err = errors.Join(err, Exec(ctx, "pay", func(context.Context) error { return nil },
			Compensate(func(ctx context.Context, _ struct{}, cause error) error {
				failure, ok := errors.AsType[*Failure](cause)
				u.note("pay: %v %v, %q", ok, failure.Name, Info(ctx).ID)
				return nil
			})))
		_, failed := Do(ctx, "back", func(context.Context) (booking, error) { return booking{9}, NonRetryable(errFull) },
			Compensate(func(_ context.Context, b booking, cause error) error {
				own, ok := errors.AsType[*StepError](cause)
				u.note("back: %v, %d, %v: %v", ok, b.Seat, own.Step, own.Name)
				return nil
			}))
		return nil, errors.Join(err, failed)
	}))
	b.create("w", "a", 1)
	s := b.finished("w", "a")
	if s.State != protocol.StateErrored || s.Rollback == nil || s.Rollback.Outcome != "complete" || s.Rollback.Error != nil {
		t.Errorf("it is %s, its rollback is %+v", s.State, s.Rollback)
	}
	u.want(t, "back: true, 0, back: NonRetryableError", `pay: true Error, "a"`, `out: seat 7 because step "back": the train is full`)
	var ops []string
	for _, step := range s.Steps {
		ops = append(ops, fmt.Sprint(step.Op, " ", step.Name, " ", step.State))
	}
	want := []string{"do out completed", "do pay completed", "do back failed", "rollback back completed", "rollback pay completed", "rollback out completed"}
	if !slices.Equal(ops, want) {
		t.Errorf("the status shows %v, want %v", ops, want)
	}
	m, err := b.store.Last(t.Context(), b.instance("w", "a").Stream(), b.instance("w", "a").DoneSubject())
	var done protocol.Done
	if err != nil || json.Unmarshal(m.Data, &done) != nil || done.Rollback == nil || done.Rollback.Outcome != "complete" {
		t.Errorf("announced is %+v, %v", done, err)
	}
}

// TestRollbackByItsOwnOptions: a compensation is tried as its options say, and the first that gives up stops the others.
func TestRollbackByItsOwnOptions(t *testing.T) {
	t.Parallel()
	b, u := setup(t), &undone{}
	attempts := func(name string, last error, options ...StepOption) func(context.Context) error {
		return func(ctx context.Context) error {
			return Exec(ctx, name, func(context.Context) error { return nil }, Compensate(func(ctx context.Context, _ struct{}, _ error) error {
				u.note("%s %d of %d", name, Step(ctx).Number, Step(ctx).MaxAttempts)
				return last
			}, options...))
		}
	}
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		return nil, errors.Join(
			attempts("first", nil)(ctx),
			attempts("second", errFull, Retries(1, 0, Constant))(ctx),
			attempts("third", nil, Retries(0, 0, Constant))(ctx),
			attempts("fourth", nil, Timeout(time.Minute))(ctx),
			errFull,
		)
	}))
	b.create("w", "a", 1)
	s := b.finished("w", "a")
	if s.Rollback == nil || s.Rollback.Outcome != "failed" || s.Rollback.Error == nil || !strings.Contains(s.Rollback.Error.Message, `step "second": the train is full`) {
		t.Errorf("the rollback is %+v", s.Rollback)
	}
	if s.Error == nil || s.Error.Message != errFull.Error() {
		t.Errorf("the instance failed with %v", s.Error)
	}
	u.want(t, "fourth 1 of 6", "third 1 of 1", "second 1 of 2", "second 2 of 2")
}

func TestCompensationsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one := Compensate(func(context.Context, int, error) error { return nil })
	tests := []struct {
		name    string
		options []StepOption
		want    string
	}{
		{"of another type", []StepOption{Compensate(func(context.Context, string, error) error { return nil })},
			"Compensate is for a result of type string, allowed is the type of the step's result, int"},
		{"of the type of no result", []StepOption{Compensate(func(context.Context, struct{}, error) error { return nil })}, "for a result of type struct {}"},
		{"none", []StepOption{Compensate[int](nil)}, "Compensate is nil, allowed is a function"},
		{"two", []StepOption{one, one}, "Compensate is given twice"},
		{"with one of its own", []StepOption{Compensate(func(context.Context, int, error) error { return nil }, one)}, "given for a compensation"},
		{"with a bad option", []StepOption{Compensate(func(context.Context, int, error) error { return nil }, Timeout(-1))}, "its compensation: invalid option: Timeout"},
	}
	output := make(chan error, len(tests))
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		for _, tt := range tests {
			_, err := Do(ctx, tt.name, func(context.Context) (int, error) { return 1, nil }, tt.options...)
			output <- err
		}
		return nil, nil
	}))
	b.create("w", "a", 1)
	if s := b.complete("w", "a"); len(s.Steps) != 0 {
		t.Errorf("%d steps were stored", len(s.Steps))
	}
	for _, tt := range tests {
		if err := <-output; !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: the error is %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestNoStepsInCompensations: they get an error that says so, and it can be handled.
func TestNoStepsInCompensations(t *testing.T) {
	t.Parallel()
	b := setup(t)
	errs := make(chan error, 3)
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		err := Exec(ctx, "a", func(context.Context) error { return nil }, Compensate(func(ctx context.Context, _ struct{}, _ error) error {
			errs <- Exec(ctx, "b", func(context.Context) error { return nil })
			errs <- Sleep(ctx, "c", time.Hour)
			g := NewGroup(ctx)
			g.Go(func(context.Context) error { return nil })
			errs <- g.Wait()
			return nil
		}))
		return nil, errors.Join(err, errFull)
	}))
	b.create("w", "a", 1)
	if s := b.finished("w", "a"); s.Rollback == nil || s.Rollback.Outcome != "complete" {
		t.Errorf("the rollback is %+v", s.Rollback)
	}
	for range 3 {
		if err := <-errs; !errors.Is(err, ErrUndoing) {
			t.Errorf("the error is %v", err)
		}
	}
}
