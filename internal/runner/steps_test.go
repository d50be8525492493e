package runner

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

func stepsWith(n int, change func(*protocol.StepStatus)) (all []protocol.StepStatus) {
	for i := range n {
		s := protocol.StepStatus{Key: protocol.Key{Op: protocol.OpDo, Name: fmt.Sprint(i), Count: 1}, State: "completed"}
		change(&s)
		all = append(all, s)
	}
	return all
}

// TestStepsInParts: every step is in one part, and every part in a message, however large the steps are.
func TestStepsInParts(t *testing.T) {
	t.Parallel()
	failure := &protocol.Failure{Name: "E", Message: strings.Repeat("x", 4<<10), Details: json.RawMessage(`"` + strings.Repeat("x", 30<<10) + `"`)}
	for _, row := range []struct {
		name     string
		n, parts int
		change   func(*protocol.StepStatus)
	}{
		{"none", 0, 1, nil},
		{"small", 10, 1, func(*protocol.StepStatus) {}},
		{"many", 20_000, 3, func(*protocol.StepStatus) {}},
		{"large outputs", 30, 8, func(s *protocol.StepStatus) {
			s.Output = json.RawMessage(`"` + strings.Repeat("x", 120<<10) + `"`)
		}},
		{"many attempts", 2, 2, func(s *protocol.StepStatus) {
			for n := range 40 {
				s.Attempts = append(s.Attempts, protocol.AttemptStatus{Attempt: n + 1, Runner: "r", Error: failure})
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			whole := protocol.Status{
				ID: "a", Log: 7, Epoch: 2, Params: json.RawMessage(`"` + strings.Repeat("x", 500<<10) + `"`), Steps: stepsWith(row.n, row.change),
			}
			parts, next := 0, 0
			for more := true; more; parts++ {
				var part protocol.Status
				from := next
				part, next = stepsFrom(whole, from)
				body, err := fit(protocol.Answer{V: protocol.Version, Status: &part})
				if err != nil || len(body) > maxAnswer || part.Omitted != from || part.Log != 7 || part.Epoch != 2 {
					t.Fatalf("part %d has %d bytes, begins at %d, log %d: %v", parts, len(body), part.Omitted, part.Log, err)
				}
				if next != from+len(part.Steps) || part.Further != row.n-next {
					t.Fatalf("after part %d come %d from %d on", parts, part.Further, next)
				}
				for i, s := range part.Steps {
					if s.Name != fmt.Sprint(from+i) {
						t.Fatalf("step %d of part %d is %s", i, parts, s.Name)
					}
					if n := len(s.Attempts); n > 0 && (s.Attempts[n-1].Attempt != 40 || n < 10) {
						t.Errorf("of the attempts, %d are left, up to %d", n, s.Attempts[n-1].Attempt)
					}
				}
				more = part.Further > 0
			}
			if parts != row.parts {
				t.Errorf("there are %d parts", parts)
			}
		})
	}
	if part, _ := stepsFrom(protocol.Status{}, 12); part.Omitted != 0 || part.Further != 0 {
		t.Errorf("behind the last step: %+v", part)
	}
}

// TestListingsGoOn: whoever asks on is told from what was read for the part before.
func TestListingsGoOn(t *testing.T) {
	t.Parallel()
	r := &Runner{ID: "r", Config: Config{Reader: Reader{Project: "p", Shards: 1}}}
	whole := &protocol.Status{Workflow: "w", ID: "a", Log: 7, Steps: stepsWith(20_000, func(*protocol.StepStatus) {})}
	ask := protocol.Ask{Workflow: "w", ID: "a", Steps: &protocol.StepPage{Log: 7}}
	r.listings.put(listing{at("w", "a"), 7, 0}, whole, maxListings)
	told := 0
	for more := true; more; { // without a Store: nothing can be read
		answer := r.steps(t.Context(), ask)
		told += len(answer.Status.Steps)
		ask.Steps = &protocol.StepPage{From: told, Log: 7}
		more = answer.Status.Further > 0
	}
	if told != len(whole.Steps) || len(r.listings.kept) != 0 {
		t.Errorf("%d steps were told, %d statuses are kept", told, len(r.listings.kept))
	}
}

// TestAnswerLeavesOutRuns: an instance that has woken often has more runs than a message can hold, and its steps count more.
func TestAnswerLeavesOutRuns(t *testing.T) {
	t.Parallel()
	status := protocol.Status{Steps: stepsWith(1000, func(*protocol.StepStatus) {})}
	for n := range 12_000 {
		status.Runs = append(status.Runs, protocol.RunStatus{Runner: "runner-12345678", Wake: fmt.Sprintf("WORKFLOWS_p:%d", n)})
	}
	body, err := fit(protocol.Answer{V: protocol.Version, Status: &status})
	if err != nil || len(body) > maxAnswer {
		t.Fatalf("%d bytes: %v", len(body), err)
	}
	var answer protocol.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	got := answer.Status
	if len(got.Runs) != maxRuns || got.OmittedRuns != 12_000-maxRuns || got.Runs[maxRuns-1].Wake != "WORKFLOWS_p:11999" || len(got.Steps) != 1000 {
		t.Errorf("%d runs and %d steps are told, %d runs are left out", len(got.Runs), len(got.Steps), got.OmittedRuns)
	}
}
