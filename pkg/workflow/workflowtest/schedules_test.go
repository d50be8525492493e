package workflowtest_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
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

const overlapping = `{ "name": "shop", "workflows": [
	{ "name": "skip", "class_name": "Skip", "schedules": [{ "cron": "0 * * * *", "overlap": "skip" }] },
	{ "name": "one", "class_name": "One", "schedules": [{ "cron": "0 * * * *", "overlap": "buffer_one" }] },
	{ "name": "all", "class_name": "All", "schedules": [{ "cron": "0 * * * *", "overlap": "buffer_all" }] },
	{ "name": "cancel", "class_name": "Cancel", "schedules": [{ "cron": "0 * * * *", "overlap": "cancel_running" }] },
	{ "name": "allow", "class_name": "Allow", "schedules": [{ "cron": "0 * * * *", "overlap": "allow_all" }] },
] }`

// TestSchedulesOverlapOnTheClockOfTheTest has instances that take 150 minutes and are started every hour.
func TestSchedulesOverlapOnTheClockOfTheTest(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "skein.jsonc")
	if err := os.WriteFile(path, []byte(overlapping), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards what follows
	began, ended := map[string][][2]time.Time{}, map[string]int{}
	var definitions []workflow.Definition
	for _, class := range []string{"Skip", "One", "All", "Cancel", "Allow"} {
		definitions = append(definitions, workflow.Define(class, func(ctx context.Context, event workflow.Event[any]) (string, error) {
			mu.Lock()
			s := event.Schedule
			if !slices.ContainsFunc(began[class], func(b [2]time.Time) bool { return b[0].Equal(s.Planned) }) { // else it goes on
				began[class] = append(began[class], [2]time.Time{s.Planned, s.Actual})
			}
			mu.Unlock()
			err := workflow.Sleep(ctx, "work", 150*time.Minute)
			if err == nil {
				mu.Lock()
				ended[class]++
				mu.Unlock()
			}
			return "", err
		}))
	}
	env := workflowtest.Load(t, path, definitions...)
	env.StartSchedules()
	env.Advance(9 * time.Hour)
	mu.Lock()
	defer mu.Unlock()
	for class, want := range map[string]struct {
		planned []int // in hours since the first
		ended   int   // at least
	}{
		"Skip": {[]int{0, 3, 6}, 2}, "One": {[]int{0, 1, 3, 6}, 3}, "All": {[]int{0, 1, 2, 3}, 3},
		"Cancel": {[]int{0, 1, 2, 3, 4, 5, 6, 7, 8}, 0}, "Allow": {[]int{0, 1, 2, 3, 4, 5, 6, 7, 8}, 6},
	} {
		var planned []int
		for i, b := range began[class] {
			planned = append(planned, int(b[0].Sub(began[class][0][0]).Hours()))
			if before := i - 1; before >= 0 && class != "Allow" && class != "Cancel" && b[1].Sub(began[class][before][1]) < 150*time.Minute {
				t.Errorf("%s: an instance began at %s, the one before at %s", class, b[1], began[class][before][1])
			}
		}
		if !slices.Equal(planned, want.planned) || ended[class] < want.ended || class == "Cancel" && ended[class] > 0 {
			t.Errorf("%s: instances of hours %v, %d have ended; want %v and %d", class, planned, ended[class], want.planned, want.ended)
		}
	}
}
