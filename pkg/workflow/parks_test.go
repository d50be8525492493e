package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// TestGroupParksWithAllBranches looks at what follows Wait: it must see all results or not run at all.
func TestGroupParksWithAllBranches(t *testing.T) {
	t.Parallel()
	after := 0
	env := workflowtest.New(t, workflow.Define("Group", func(ctx context.Context, _ workflow.Event[int]) ([]int, error) {
		results := make([]int, 3)
		g := workflow.NewGroup(ctx)
		for i := range results {
			g.Go(func(ctx context.Context) (err error) {
				if err := workflow.Sleep(ctx, fmt.Sprint("nap ", i), time.Duration(i+1)*day); err != nil {
					return err
				}
				results[i], err = workflow.Do(ctx, fmt.Sprint("step ", i), func(context.Context) (int, error) { return i + 1, nil })
				return err
			})
		}
		err := g.Wait()
		after++
		return results, err
	}))
	run := workflowtest.Start[[]int](env, "Group", 0)
	if s := run.Status(); s.State != workflow.Waiting || len(s.Steps) != 3 {
		t.Errorf("it is %s with %+v, want it to wait for all three branches", s.State, s.Steps)
	}
	if results, err := run.Result(); !slices.Equal(results, []int{1, 2, 3}) || err != nil || after != 1 {
		t.Errorf("results %v, %v; the code after Wait ran %d times", results, err, after)
	}
	if s := run.Status(); len(s.Runs) != 4 || len(s.Steps) != 6 {
		t.Errorf("%d runs and %d steps, want a park for each nap, and six steps", len(s.Runs), len(s.Steps))
	}
}

func TestErrgroupWorksToo(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, workflow.Define("Group", func(ctx context.Context, _ workflow.Event[int]) ([]int, error) {
		results := make([]int, 3)
		g, ctx := errgroup.WithContext(ctx)
		for i := range results {
			g.Go(func() (err error) {
				if err := workflow.Sleep(ctx, fmt.Sprint("nap ", i), day); err != nil {
					return err
				}
				results[i], err = workflow.Do(ctx, fmt.Sprint("step ", i), func(context.Context) (int, error) { return i + 1, nil })
				return err
			})
		}
		return results, g.Wait()
	}))
	if results, err := workflowtest.Start[[]int](env, "Group", 0).Result(); !slices.Equal(results, []int{1, 2, 3}) || err != nil {
		t.Errorf("results %v, %v: half of them", results, err)
	}
}

// TestDeferredFunctionsRunAtEveryPark counts the runs of what code defers: one at each park and one at the end, in the
// function and in branches of it. A call into the engine ends them where it stands, and what they do with the result, or
// panic with, is ignored; those deferred before still run.
func TestDeferredFunctionsRunAtEveryPark(t *testing.T) {
	t.Parallel()
	var runs, outer, inner, branch, afterCall, recovered atomic.Int64
	env := workflowtest.New(t, workflow.Define("Defers", func(ctx context.Context, _ workflow.Event[int]) (result int, err error) {
		run := runs.Add(1)
		defer outer.Add(1)
		defer func() {
			if run < 3 { // it parks: the function has not returned
				result, err = 13, errors.New("ignored")
				panic("ignored")
			}
		}()
		defer func() {
			inner.Add(1)
			if recover() != nil {
				recovered.Add(1)
			}
			if run < 3 {
				_ = workflow.Exec(ctx, "in a deferred function", func(context.Context) error { afterCall.Add(1); return nil })
				afterCall.Add(1)
			}
		}()
		g := workflow.NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			defer branch.Add(1)
			return workflow.Sleep(ctx, "in a branch", day)
		})
		if err := g.Wait(); err != nil {
			return 0, err
		}
		return 7, workflow.Sleep(ctx, "second", day)
	}))
	run := workflowtest.Start[int](env, "Defers", 0)
	run.Send("unasked", 1) // a wake without effect
	if n, err := run.Result(); n != 7 || err != nil || runs.Load() != 3 {
		t.Errorf("result %d, %v after %d runs, want 7 after 3", n, err, runs.Load())
	}
	natstest.Eventually(t, natstest.Patience, "the goroutines of all runs have ended", func() bool { return min(outer.Load(), inner.Load(), branch.Load()) >= 3 })
	if outer.Load() != 3 || inner.Load() != 3 || branch.Load() != 3 {
		t.Errorf("in 3 runs, deferred functions ran %d, %d and, in a branch, %d times", outer.Load(), inner.Load(), branch.Load())
	}
	if s := run.Status(); afterCall.Load() != 0 || recovered.Load() != 0 || len(s.Steps) != 2 {
		t.Errorf("a deferred function came past a step %d times, recovered %d times, and the steps are %+v", afterCall.Load(), recovered.Load(), s.Steps)
	}
}

// TestValuesAreTheSameInEveryRun compares what three runs see, branches of a group included.
func TestValuesAreTheSameInEveryRun(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string][]string{}
	see := func(what string, value any) {
		mu.Lock()
		defer mu.Unlock()
		seen[what] = append(seen[what], fmt.Sprint(value))
	}
	env := workflowtest.New(t, workflow.Define("Values", func(ctx context.Context, e workflow.Event[int]) (int, error) {
		see("event", fmt.Sprint(e.Timestamp.UnixNano(), e.InstanceID, e.Workflow, e.Payload))
		see("info", workflow.Info(ctx))
		see("now", workflow.Now(ctx).UnixNano())
		see("id", workflow.NewID(ctx))
		see("second id", workflow.NewID(ctx))
		see("first number, as an id", workflow.Random(ctx))
		see("second number, as an id", workflow.Random(ctx))
		g := workflow.NewGroup(ctx)
		for i := range 3 {
			g.Go(func(ctx context.Context) error {
				see(fmt.Sprint("id of branch ", i), workflow.NewID(ctx))
				see(fmt.Sprint("number of branch ", i, ", as an id"), workflow.Random(ctx))
				see(fmt.Sprint("time of branch ", i), workflow.Now(ctx).UnixNano())
				return workflow.Sleep(ctx, fmt.Sprint("branch ", i), day)
			})
		}
		if err := g.Wait(); err != nil {
			return 0, err
		}
		see("later", workflow.Now(ctx).UnixNano())
		return 0, workflow.Sleep(ctx, "nap", day)
	}))
	if _, err := workflowtest.Start[int](env, "Values", 0, workflow.ID("a")).Result(); err != nil {
		t.Error(err)
	}
	distinct := map[string]string{}
	for what, values := range seen {
		if len(values) < 2 || len(slices.Compact(slices.Clone(values))) != 1 {
			t.Errorf("%s: seen %v, want the same in at least two runs", what, values)
		}
		if strings.Contains(what, "id") {
			if other := distinct[values[0]]; other != "" {
				t.Errorf("%s and %s are both %s", what, other, values[0])
			}
			distinct[values[0]] = what
		}
	}
	if info := (workflow.InstanceInfo{Project: workflowtest.ProjectName, Workflow: "Values", ID: "a"}); seen["info"][0] != fmt.Sprint(info) {
		t.Errorf("info is %s, want %v", seen["info"][0], info)
	}
}
