package workflowtest_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

const nightly = `{ "name": "shop", "workflows": [{ "name": "digest", "class_name": "Digest", "schedules": [
	{ "cron": "0 6 * * *", "zone": "Asia/Tokyo", "times": 3, "params": 7 }, "30 6 * * *",
] }] }`

// TestSchedulesOnTheClockOfTheTest: a day is over at once, with what its schedules start; but only if the test wants them.
func TestSchedulesOnTheClockOfTheTest(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "skein.jsonc")
	if err := os.WriteFile(path, []byte(nightly), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards events
	var events []workflow.Event[int]
	env := workflowtest.Load(t, path, workflow.Define("Digest", func(_ context.Context, event workflow.Event[int]) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, event)
		return "", nil
	}))
	env.Advance(48 * time.Hour)
	mu.Lock()
	if len(events) != 0 {
		t.Fatalf("instances were started that the test does not want: %+v", events)
	}
	mu.Unlock()
	env.StartSchedules()
	env.Advance(5 * 24 * time.Hour)
	mu.Lock()
	defer mu.Unlock()
	lines := map[string]int{}
	for _, e := range events {
		s := e.Schedule
		lines[s.Cron]++
		minute := 30
		if s.Cron == "0 6 * * *" {
			minute = 0
			if s.Planned.UTC().Hour() != 21 || e.Payload != 7 || s.Zone != "Asia/Tokyo" { // Tokyo has no summer time
				t.Errorf("event %+v of %+v", e, s)
			}
		}
		if s.Planned.Minute() != minute || !s.Actual.Equal(s.Planned) {
			t.Errorf("event %+v of %+v", e, s)
		}
	}
	if lines["0 6 * * *"] != 3 || lines["30 6 * * *"] != 5 {
		t.Errorf("started were %v", lines)
	}
}
