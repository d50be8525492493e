package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cronline"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestLimitsAreDocumented: the pages have the numbers of the code.
func TestLimitsAreDocumented(t *testing.T) {
	t.Parallel()
	documented(t, "docs/workflows.md", map[string][]string{
		"steps of an instance":             {thousands(workflow.DefaultSteps), "1 to " + thousands(workflow.MaxSteps), protocol.FailureStepLimit},
		"what an instance was given":       {bytes(workflow.DefaultState), bytes(workflow.MinState) + " to " + bytes(workflow.MaxState), protocol.FailureStateLimit},
		"instances of a workflow":          {"1 to " + thousands(workflow.MaxConcurrency)},
		"params, result, event":            {bytes(protocol.InlinePayload)},
		"details of a heartbeat":           {bytes(workflow.MaxHeartbeat)},
		"instances in a batch":             {"1 to " + thousands(workflow.MaxBatch)},
		"schedules of a workflow":          {thousands(protocol.MaxSchedules), fmt.Sprintf("%d bytes", cronline.MaxLine)},
		"params of a schedule":             {bytes(protocol.InlinePayload)},
		"retention":                        {days(workflow.DefaultRetention), "to " + days(workflow.MaxRetention)},
		"sleep":                            {"0 to " + days(workflow.MaxWait)},
		"timeout of a step":                {minutes(workflow.DefaultTimeout), fmt.Sprintf("%d hours", workflow.DefaultEventTimeout/time.Hour), days(workflow.MaxWait)},
		"time between heartbeats":          {days(workflow.MaxWait)},
		"retries of a step":                {thousands(workflow.DefaultRetries), "0 to " + thousands(workflow.MaxRetries)},
		"delay between attempts":           {fmt.Sprintf("%d seconds", workflow.DefaultDelay/time.Second), days(workflow.MaxWait), protocol.FailureRetryPolicy},
		"runs that may be lost":            {thousands(workflow.DefaultLostRuns), "1 to " + thousands(workflow.MaxRetries), protocol.FailureLostRuns},
		"name of a workflow":               {thousands(protocol.MaxWorkflowName)},
		"instance id / event type":         {"1 to " + thousands(workflow.MaxInstanceID)},
		"name of a step":                   {"1 to " + thousands(workflow.MaxStepName)},
		"`EventID`":                        {"1 to " + thousands(workflow.MaxEventID)},
		"An error that is stored keeps 4 ": {bytes(protocol.MaxFailureMessage), bytes(protocol.MaxFailureDetails), thousands(protocol.MaxCauses) + " causes"},
		"`jitter`":                         {days(protocol.MaxInterval)},
		"`times`":                          {"1 to " + thousands(protocol.MaxTimes)},
		"`catch_up`":                       {"0 to " + thousands(protocol.MaxCatchUp)},
	})
	documented(t, "docs/agents.md", map[string][]string{
		"`Cron(":           {fmt.Sprintf("%d bytes", cronline.MaxLine)},
		"`CronLines(":      {fmt.Sprintf("%d lines", cronline.MaxLines)},
		"`Every(":          {days(protocol.MaxInterval)},
		"`Times(":          {"1 to " + thousands(protocol.MaxTimes)},
		"`Jitter(":         {days(protocol.MaxInterval)},
		"`CatchUp(":        {"0 to " + thousands(protocol.MaxCatchUp)},
		"* `PauseSchedule": {bytes(protocol.MaxNote)},
	})
}

// documented checks that lines of a page, known by how they begin, have all the parts.
func documented(t *testing.T, page string, lines map[string][]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	for begins, says := range lines {
		row := ""
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(strings.TrimPrefix(line, "| "), begins) {
				row = line
			}
		}
		for _, part := range says {
			if !strings.Contains(row, part) {
				t.Errorf("%s: the row of %q is %q, want %s in it", page, begins, row, part)
			}
		}
	}
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func bytes(n int64) string {
	unit := 0
	for ; n >= 1024; n /= 1024 {
		unit++
	}
	return fmt.Sprintf("%d %s", n, []string{"bytes", "KiB", "MiB", "GiB", "TiB"}[unit])
}

func days(d time.Duration) string    { return fmt.Sprintf("%d days", d/(24*time.Hour)) }
func minutes(d time.Duration) string { return fmt.Sprintf("%d minutes", d/time.Minute) }
