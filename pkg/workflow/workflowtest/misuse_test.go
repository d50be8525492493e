package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// spy is a test that may fail: it keeps what it is told.
type spy struct {
	testing.TB
	said     []string
	cleanups []func()
}

func (s *spy) Helper()          {}
func (s *spy) Failed() bool     { return len(s.said) > 0 }
func (s *spy) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }
func (s *spy) Errorf(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf(format, args...))
}
func (s *spy) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// fails runs a test and returns why it fails.
func fails(t *testing.T, test func(t testing.TB)) string {
	t.Helper()
	s := &spy{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(s.cleanups) {
				f()
			}
		}()
		test(s)
	}()
	<-done
	return strings.Join(s.said, "\n")
}

// TestMisuse: tests that do not prove what they say fail, and say why.
func TestMisuse(t *testing.T) {
	t.Parallel()
	trip := func(t testing.TB) *workflowtest.Env {
		o := &onboarding{}
		return workflowtest.New(t, workflow.Define("Onboarding", o.run))
	}
	run := func(e *workflowtest.Env) { _, _ = workflowtest.Start[report](e, "Onboarding", "jo").Result() }
	for _, row := range []struct {
		name string
		test func(t testing.TB)
		want []string
	}{
		{"a step that is not there", func(t testing.TB) { e := trip(t); e.Step("wellcome").Return(1); run(e) },
			[]string{`Step("wellcome").Return was never used`, `Those that ran: "remind", "welcome"`, "Maybe()"}},
		{"a step that fails less often", func(t testing.TB) {
			e := trip(t)
			e.Step("welcome").Fail(workflow.NonRetryable(errors.New("no")), 2)
			run(e)
		},
			[]string{`Step("welcome").Fail was used 1 times of 2`}},
		{"a wait that is not there", func(t testing.TB) { e := trip(t); e.Wait("response").TimeOut(1); run(e) },
			[]string{`Wait("response").TimeOut was never used`, `Those that ran: "answer"`}},
		{"a compensation that does not run", func(t testing.TB) { e := trip(t); e.Compensation("welcome").Return(nil); run(e) },
			[]string{`Compensation("welcome").Return was never used`, "None ran"}},
		{"a crash that does not come", func(t testing.TB) { e := trip(t); e.CrashAfter("the end"); run(e) },
			[]string{`CrashAfter("the end"): no outcome`}},
		{"allowed", func(t testing.TB) {
			e := trip(t)
			e.Step("wellcome").Return(1).Maybe()
			e.Wait("response").TimeOut(1).Maybe()
			run(e)
		}, nil},
		{"after what is for all", func(t testing.TB) { trip(t).Step("welcome").Return(1).Fail(errors.New("no"), 1) },
			[]string{`Step("welcome").Fail comes after Return`}},
		{"no times", func(t testing.TB) { trip(t).Step("welcome").TimeOut(0) }, []string{`Step("welcome").TimeOut: so many attempts: 0`}},
		{"no waits", func(t testing.TB) { trip(t).Wait("answer").TimeOut(0) }, []string{`Wait("answer").TimeOut: so many waits: 0`}},
		{"a bad name", func(t testing.TB) { trip(t).Step("") }, []string{"workflowtest: "}},
		{"a class that is not there", func(t testing.TB) { workflowtest.Start[int](trip(t), "Offboarding", 1) },
			[]string{`start "Offboarding"`, `it has "Onboarding"`}},
		{"no such file", func(t testing.TB) { workflowtest.Load(t, "nowhere.jsonc") }, []string{"nowhere.jsonc"}},
		{"nothing comes", func(t testing.TB) {
			e := workflowtest.New(t, workflow.Define("Parent", func(ctx context.Context, _ workflow.Event[int]) (report, error) {
				return workflow.Call(ctx, "pay", workflow.Bind[int, report]("Child"), 1, workflow.ID("c"))
			}), workflow.Define("Child", func(ctx context.Context, _ workflow.Event[int]) (report, error) {
				return report{}, workflow.Sleep(ctx, "nap", 2*time.Hour)
			}))
			r := workflowtest.Start[report](e, "Parent", 1, workflow.ID("a"))
			e.After(time.Hour, func() {
				if child, err := workflow.Bind[int, report]("Child").In(e.Project).Get(t.Context(), "c"); err == nil {
					_ = child.Pause(t.Context())
				}
			})
			_, _ = r.Result()
		}, []string{`instance "a" of "Parent" has ended: that will not be. It is waiting.`, `test/Parent/a is parked and waits for call "pay" #1`, `test/Child/c is paused`}},
		{"it is paused", func(t testing.TB) {
			e := trip(t)
			r := workflowtest.Start[report](e, "Onboarding", "jo")
			e.After(time.Hour, func() { _ = r.Pause(t.Context()) })
			_, _ = r.Result()
		}, []string{"It is paused.", "is paused"}},
		{"no history", func(t testing.TB) { workflowtest.Read(t, "nowhere.json") }, []string{"nowhere.json", "skein workflows export"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			said := fails(t, row.test)
			if row.want == nil && said != "" {
				t.Errorf("it fails: %s", said)
			}
			for _, want := range row.want {
				if !strings.Contains(said, want) {
					t.Errorf("said %q, want %q", said, want)
				}
			}
		})
	}
}
