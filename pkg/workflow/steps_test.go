package workflow

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// logSteps writes the log of an instance that has done steps and goes on waiting. Every hundredth has a large result.
func (d *desk) logSteps(id string, incarnation uint64, from, to int) {
	d.t.Helper()
	wake := protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: incarnation}
	put := func(name string, entries ...protocol.Entry) {
		d.put(d.instance("w", id).LogSubject(), protocol.Append{
			V: 1, ID: name, Incarnation: incarnation, Holder: wake, Runner: "r", Time: time.Now(), Entries: entries,
		})
	}
	for n := from; n < to; {
		var entries []protocol.Entry
		for more := true; more && n < to; n++ {
			result := fmt.Sprint(n)
			if more = n%100 != 99; !more {
				result = `"` + strings.Repeat("x", 100<<10) + `"`
			}
			entries = append(entries, protocol.Entry{
				Kind: protocol.EntryStepCompleted, Step: &protocol.Key{Op: protocol.OpDo, Name: "step", Count: n + 1}, Attempt: 1,
				Started: new(time.Now()), Result: json.RawMessage(result),
			})
		}
		put(fmt.Sprintf("steps-%d", n), entries...)
	}
	put("park-"+fmt.Sprint(to), protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{
		{Key: protocol.Key{Op: protocol.OpEvent, Name: "e", Count: 1}, Type: "e"},
	}})
}

// setupSteps is a desk with an instance that has done one step.
func setupSteps(t *testing.T) *desk {
	t.Helper()
	d := setupDesk(t)
	_, incarnation := d.make("small")
	d.logSteps("small", incarnation, 0, 1)
	return d
}

// answers waits until a runner tells other projects of that.
func (d *desk) answers(client *project.Project) {
	d.t.Helper()
	small, err := Bind[int, int]("w").In(client).Get(d.t.Context(), "small")
	if err != nil {
		d.t.Fatal(err)
	}
	natstest.Eventually(d.t, natstest.Patience, "a runner answers", func() bool {
		s, err := small.Status(d.t.Context())
		return err == nil && len(s.Steps) == 1
	})
}

// stepsOf collects steps, and fails if they are not the first to that one, in order.
func stepsOf(t *testing.T, i *Instance[int]) (n int) {
	t.Helper()
	for step, err := range i.Steps(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if small := string(step.Output) == fmt.Sprint(n-1); step.Count != n || step.State != "completed" || small == (n%100 == 0) {
			t.Fatalf("step %d is #%d, %s with %.20s", n, step.Count, step.State, step.Output)
		}
	}
	return n
}

// TestAllSteps: of an instance with more steps than a message can hold, in the own project with no runner, and in another
// project part by part, also from a runner that has not told the part before.
func TestAllSteps(t *testing.T) {
	t.Parallel()
	const steps = 1200
	d := setupSteps(t)
	own, incarnation := d.make("a")
	d.logSteps("a", incarnation, 0, steps)
	if n := stepsOf(t, own); n != steps {
		t.Errorf("in the own project, %d steps were told", n)
	}
	client := d.open("client", project.Workflow{Name: "w", ClassName: "W", ScriptName: "p"})
	foreign, err := Bind[int, int]("w").In(client).Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range foreign.Steps(t.Context()) {
		if !errors.Is(err, ErrNoRunner) {
			t.Errorf("with no runner: %v", err)
		}
	}
	stop := d.serve(execution.Settings{})
	d.answers(client)
	if n := stepsOf(t, foreign); n != steps {
		t.Errorf("in another project, %d steps were told", n)
	}
	told := 0
	for step, err := range foreign.Steps(t.Context()) {
		if told++; err != nil || step.Count != told {
			t.Fatalf("step %d is %v, %v", told, step.Key, err)
		}
		if told == steps/2 { // another takes over
			d.serve(execution.Settings{})
			stop()
		}
	}
	if told != steps {
		t.Errorf("while the runner went, %d steps were told", told)
	}
}

// TestStepsAreThoseOfOneLife: what a restart has made void is not mixed with what follows, nor is another instance.
func TestStepsAreThoseOfOneLife(t *testing.T) {
	t.Parallel()
	d := setupSteps(t)
	_, incarnation := d.make("a")
	d.logSteps("a", incarnation, 0, 1200)
	client := d.open("client", project.Workflow{Name: "w", ClassName: "W", ScriptName: "p"})
	foreign, err := Bind[int, int]("w").In(client).Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	stop := d.serve(execution.Settings{})
	d.answers(client)
	var last error
	for step, err := range foreign.Steps(t.Context()) {
		if last = err; step.Count == 1 {
			d.serve(execution.Settings{}) // it knows nothing of the part before
			stop()
			d.put(d.instance("w", "a").LogSubject(), protocol.Append{
				V: 1, ID: "again", Incarnation: incarnation, Holder: protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: incarnation},
				Runner: "r", Time: time.Now(), Epoch: 1, Entries: []protocol.Entry{{Kind: protocol.EntryRestarted, From: &protocol.Key{Op: protocol.OpDo, Name: "step", Count: 1199}}},
			})
		}
	}
	if !errors.Is(last, ErrRestarted) {
		t.Errorf("steps told over a restart end with %v", last)
	}
	for range foreign.Steps(t.Context()) {
		break // a loop may stop
	}
	queued := slices.Collect(func(yield func(error) bool) {
		for _, err := range (&Instance[int]{at: d.instance("w", "none"), project: d.own, reader: d.reader()}).Steps(t.Context()) {
			yield(err)
		}
	})
	if len(queued) != 1 || !errors.Is(queued[0], ErrNotFound) {
		t.Errorf("steps of an instance that is not there: %v", queued)
	}
}
