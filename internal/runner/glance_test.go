package runner

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestAnswerFits: of what no message can hold, the oldest steps are left out.
func TestAnswerFits(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name          string
		steps, output int
		cut           bool
	}{{"small", 10, 10, false}, {"many steps", 12000, 100, true}, {"large outputs", 40, 64 << 10, true}, {"one step that is too large", 1, 2 * maxAnswer, true}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			status := protocol.Status{Workflow: "w", ID: "a", State: protocol.StateRunning}
			for i := range row.steps {
				status.Steps = append(status.Steps, protocol.StepStatus{
					Key: protocol.Key{Op: protocol.OpDo, Name: fmt.Sprint(i), Count: 1}, State: "completed",
					Output: json.RawMessage(`"` + strings.Repeat("x", row.output) + `"`),
				})
			}
			body, err := fit(protocol.Answer{V: protocol.Version, Status: &status})
			if err != nil || len(body) > maxAnswer {
				t.Fatalf("%d bytes, error %v", len(body), err)
			}
			var answer protocol.Answer
			if err := json.Unmarshal(body, &answer); err != nil {
				t.Fatal(err)
			}
			got := answer.Status
			if (got.Omitted > 0) != row.cut || got.Omitted+len(got.Steps) != row.steps || len(status.Steps) != row.steps {
				t.Errorf("%d steps are left out, %d are there", got.Omitted, len(got.Steps))
			}
			if n := len(got.Steps); n > 0 && got.Steps[n-1].Name != fmt.Sprint(row.steps-1) {
				t.Errorf("the newest step is %s", got.Steps[n-1].Name)
			}
			if row.cut && row.steps > 1 && len(body) < maxAnswer*3/4 {
				t.Errorf("too much is left out: %d bytes are left", len(body))
			}
		})
	}
}

func TestAnswerAboutOneStep(t *testing.T) {
	t.Parallel()
	a, b := protocol.Key{Op: protocol.OpDo, Name: "a", Count: 1}, protocol.Key{Op: protocol.OpSleep, Name: "a", Count: 1}
	status := protocol.Status{Steps: []protocol.StepStatus{{Key: a}, {Key: b}}}
	if narrow(&status, b); len(status.Steps) != 1 || status.Steps[0].Key != b {
		t.Errorf("steps are %+v", status.Steps)
	}
	if narrow(&status, a); status.Steps != nil {
		t.Errorf("steps are %+v", status.Steps)
	}
}
