package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestGroupRunsSideBySide(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const branches = 4
	var together sync.WaitGroup
	together.Add(branches)
	var results [branches]int
	b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		for i := range branches {
			g.Go(func(ctx context.Context) (err error) {
				results[i], err = Do(ctx, fmt.Sprint("branch ", i), func(context.Context) (int, error) {
					together.Done()
					together.Wait() // for ever, if one began only after another ended
					return i, nil
				})
				return err
			})
		}
		return nil, g.Wait()
	})
	if results != [branches]int{0, 1, 2, 3} {
		t.Errorf("results are %v", results)
	}
}

func TestGroupErrorEndsTheOthers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	working := make(chan struct{})
	var siblings [3]error
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			siblings[0] = Exec(ctx, "works", func(ctx context.Context) error {
				close(working)
				<-ctx.Done()
				return ctx.Err()
			})
			return siblings[0]
		})
		g.Go(func(ctx context.Context) error { siblings[1] = Sleep(ctx, "sleeps", time.Hour); return siblings[1] })
		g.Go(func(ctx context.Context) error {
			_, siblings[2] = WaitForEvent[int](ctx, "waits", "never")
			return siblings[2]
		})
		g.Go(func(ctx context.Context) error {
			return Exec(ctx, "fails", func(context.Context) error { <-working; return errFlaky }, Retries(0, 0, Constant))
		})
		return nil, g.Wait()
	}))
	b.create("w", "a", 1)
	if f := b.errored("w", "a"); f.Message != `step "fails": the service hiccups` {
		t.Errorf("failed with %q, want the first error", f.Message)
	}
	for i, err := range siblings {
		if step, ok := errors.AsType[*StepError](err); !ok || step.Step != "fails" {
			t.Errorf("sibling %d got %v, want the cause of its context", i, err)
		}
	}
	if n := b.kinds("w", "a"); n[protocol.EntryStepCompleted]+n[protocol.EntryAttemptFailed] != 0 {
		t.Errorf("the log has %v: what was broken off is no outcome", n)
	}
}

// TestGroupFailsForGood: whatever comes after a group has failed is for what the code waits for then, and every run sees the same.
func TestGroupFailsForGood(t *testing.T) {
	t.Parallel()
	b, seen := setup(t), &transcript{}
	definition := Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
		see := seen.begin()
		g := NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			_, err := WaitForEvent[int](ctx, "given up", "go")
			return err
		})
		g.Go(func(ctx context.Context) error {
			if _, err := WaitForEvent[int](ctx, "fail", "fail"); err != nil {
				return err
			}
			return errFlaky
		})
		see("%v", g.Wait())
		got, err := WaitForEvent[int](ctx, "next", "go")
		see("%d %v", got.Payload, err)
		return got.Payload, err
	})
	stop := b.serve(parks(), definition)
	b.create("w", "a", 1)
	b.awaitState("a", Waiting)
	b.send("w", "a", "fail", 1)
	b.reaches("w", "a", "waits for the next", func(s Status) bool {
		return s.State == Waiting && slices.ContainsFunc(s.Steps, func(s protocol.StepStatus) bool { return s.Name == "next" })
	})
	stop()
	b.serve(parks(), definition)
	b.send("w", "a", "go", 7)
	s := b.complete("w", "a")
	if i := slices.IndexFunc(s.Steps, func(s protocol.StepStatus) bool { return s.Name == "given up" }); string(s.Output) != "7" || s.Steps[i].State != "canceled" {
		t.Errorf("output %s, the steps are %s", s.Output, asText(s.Steps))
	}
	if last := seen.agree(t, 3); !slices.Equal(last, []string{errFlaky.Error(), "7 <nil>"}) {
		t.Errorf("seen: %q", last)
	}
}

// TestGroupLimit: what waits for room is not begun. So the instance parks with as many waits as branches may run.
func TestGroupLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var bodies atomic.Int64
	b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		g.SetLimit(2)
		for i := range 6 {
			g.Go(func(ctx context.Context) error {
				err := Exec(ctx, fmt.Sprint("step ", i), func(context.Context) error { bodies.Add(1); return nil })
				return errors.Join(err, Sleep(ctx, fmt.Sprint("nap ", i), 50*time.Millisecond))
			})
		}
		return nil, g.Wait()
	})
	var waits []int // of each park
	for _, e := range b.entries("w", "a") {
		if e.Kind == protocol.EntryParked {
			waits = append(waits, len(e.Waits))
		}
	}
	if bodies.Load() != 6 || len(waits) == 0 || waits[0] != 2 || slices.Max(waits) != 2 {
		t.Errorf("%d bodies ran, the parks had %v waits; want 6, and at most 2", bodies.Load(), waits)
	}
}

// TestNoParkWhileABranchWorks has one branch wait while the body of another runs.
func TestNoParkWhileABranchWorks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	working, goOn := make(chan struct{}), make(chan struct{})
	b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			_, first := WaitForEvent[int](ctx, "first", "go")
			_, second := WaitForEvent[int](ctx, "second", "go")
			return errors.Join(first, second)
		})
		g.Go(func(ctx context.Context) error {
			return Exec(ctx, "work", func(context.Context) error { close(working); <-goOn; return nil })
		})
		return nil, g.Wait()
	}))
	b.create("w", "a", 1)
	<-working
	// What nothing waits for is stored after longer than it takes to park.
	natstest.Eventually(t, natstest.Patience, "the start is stored", func() bool { return b.kinds("w", "a")[protocol.EntryStarted] == 1 })
	b.send("w", "a", "go", 1)
	natstest.Eventually(t, natstest.Patience, "the first wait is over", func() bool { return b.kinds("w", "a")[protocol.EntryReceived] == 1 })
	if n := b.kinds("w", "a"); n[protocol.EntryParked] != 0 {
		t.Errorf("parked while a body runs: %v", n)
	}
	close(goOn)
	b.reaches("w", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	b.send("w", "a", "go", 1)
	b.complete("w", "a")
	if n := b.kinds("w", "a"); n[protocol.EntryParked] != 1 || n[protocol.EntryStepCompleted] != 1 {
		t.Errorf("the log has %v", n)
	}
}

// TestEventIsSeenWhileABodyRuns would wait for ever if the event were read only when the body has ended.
func TestEventIsSeenWhileABodyRuns(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		settings execution.Settings
		deaf     bool
	}{
		{"by a poke", execution.Settings{Refresh: time.Hour}, false},
		{"by looking now and then, if the poke is lost", execution.Settings{Refresh: 50 * time.Millisecond}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			working, answered := make(chan struct{}), make(chan struct{})
			b.serve(row.settings, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
				g := NewGroup(ctx)
				g.Go(func(ctx context.Context) error {
					return Exec(ctx, "work", func(context.Context) error { close(working); <-answered; return nil })
				})
				g.Go(func(ctx context.Context) error {
					if _, err := WaitForEvent[int](ctx, "answer", "answer"); err != nil {
						return err
					}
					return Exec(ctx, "react", func(context.Context) error { close(answered); return nil })
				})
				return nil, g.Wait()
			}))
			b.create("w", "a", 1)
			<-working
			b.reaches("w", "a", "waits in memory", func(s protocol.Status) bool { return len(s.Steps) == 2 })
			if row.deaf { // no runner gets the event as a wake, so that nobody pokes
				if err := b.js.DeleteConsumer(t.Context(), protocol.WorkflowsStream("p", 0), protocol.ConsumerWakes(0)); err != nil {
					t.Fatal(err)
				}
			}
			b.send("w", "a", "answer", 1)
			b.complete("w", "a")
			if n := b.kinds("w", "a"); n[protocol.EntryParked] != 0 {
				t.Errorf("the log has %v, want no park", n)
			}
		})
	}
}

// TestReturnWhileBranchesRun lets the workflow return under the feet of busy branches. Nothing may follow its end.
func TestReturnWhileBranchesRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const instances = 50
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (string, error) {
		g := NewGroup(ctx)
		for i := range 4 {
			g.Go(func(ctx context.Context) error {
				for {
					if err := Exec(ctx, fmt.Sprint("busy ", i), func(context.Context) error { return nil }); err != nil {
						return err
					}
				}
			})
		}
		for i := range 5 {
			if err := Exec(ctx, fmt.Sprint("step ", i), func(context.Context) error { return nil }); err != nil {
				return "", err
			}
		}
		return "enough", nil
	}))
	for i := range instances {
		b.create("w", fmt.Sprint(i), 1)
	}
	for i := range instances {
		id := fmt.Sprint(i)
		if s := b.complete("w", id); string(s.Output) != `"enough"` {
			t.Errorf("output %s", s.Output)
		}
		entries := b.entries("w", id)
		if last := entries[len(entries)-1]; last.Kind != protocol.EntryCompleted || b.kinds("w", id)[protocol.EntryCompleted] != 1 {
			t.Errorf("the log ends with %s", last.Kind)
		}
	}
}

// TestReturnEndsBodies has a body that goes on until its context ends.
func TestReturnEndsBodies(t *testing.T) {
	t.Parallel()
	b := setup(t)
	working, ended := make(chan struct{}), make(chan error, 1)
	b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			return Exec(ctx, "endless", func(ctx context.Context) error {
				close(working)
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return ctx.Err()
			})
		})
		<-working
		return nil, nil
	})
	if err := <-ended; !errors.Is(err, execution.ErrEnded) {
		t.Errorf("the body's context ended because of %v", err)
	}
}

func TestNestedGroups(t *testing.T) {
	t.Parallel()
	b := setup(t)
	output := b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		var sum atomic.Int64
		step := func(ctx context.Context, name string) error {
			n, err := Do(ctx, name, func(context.Context) (int64, error) { return 1, nil })
			sum.Add(n)
			return errors.Join(err, Sleep(ctx, name, nap))
		}
		for range 2 { // one group after the other may use the same names
			g := NewGroup(ctx)
			for i := range 2 {
				g.Go(func(ctx context.Context) error {
					inner := NewGroup(ctx)
					for j := range 2 {
						inner.Go(func(ctx context.Context) error { return step(ctx, fmt.Sprint(i, j)) })
					}
					return inner.Wait()
				})
			}
			if err := g.Wait(); err != nil {
				return nil, err
			}
		}
		return sum.Load(), step(ctx, "00")
	})
	if output != "8" {
		t.Errorf("output %s, want 8", output)
	}
	if n := b.kinds("w", "a"); n[protocol.EntryStepCompleted] != 9 {
		t.Errorf("the log has %v, want 9 steps", n)
	}
}

// TestRevive has a goroutine that nobody counted call in after the park, while the execution lingers or later.
func TestRevive(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		linger  time.Duration
		revived bool
	}{{"while it lingers", time.Hour, true}, {"too late", time.Nanosecond, false}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.linger = row.linger
			parked, given := make(chan struct{}), make(chan struct{})
			up := sync.OnceFunc(func() { close(given) })
			var bodies atomic.Int64
			b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
				result := make(chan int, 1)
				context.AfterFunc(ctx, up)
				go func() {
					<-parked
					n, _ := Do(ctx, "late", func(context.Context) (int, error) { return int(bodies.Add(1)), nil })
					result <- n
				}()
				if _, err := WaitForEvent[int](ctx, "go", "go"); err != nil {
					return 0, err
				}
				return <-result, nil
			}))
			b.create("w", "a", 1)
			b.reaches("w", "a", "is parked", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
			if !row.revived { // memory is given up a moment after the park
				<-given
			}
			close(parked)
			if row.revived {
				b.reaches("w", "a", "has done the step and waits again", func(s protocol.Status) bool {
					return s.State == protocol.StateWaiting && len(s.Steps) == 2 && s.Steps[1].State == "completed"
				})
			}
			b.send("w", "a", "go", 1)
			if s := b.complete("w", "a"); string(s.Output) != "1" || bodies.Load() != 1 {
				t.Errorf("output %s after %d bodies, want 1 and 1", s.Output, bodies.Load())
			}
			if n := b.kinds("w", "a"); row.revived != (n[protocol.EntryParked] == 2) || n[protocol.EntryStepCompleted] != 1 {
				t.Errorf("the log has %v", n)
			}
		})
	}
}
