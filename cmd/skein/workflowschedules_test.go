package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/crontab"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestWorkflowSchedules(t *testing.T) {
	t.Parallel()
	url, js := deadProject(t)
	run := func(args ...string) string {
		t.Helper()
		text, code := said(t, append(args, "--project", "shop", "--nats-url", url)...)
		if code != 0 {
			t.Fatalf("%q: exit code %d:\n%s", args, code, text)
		}
		return text
	}
	if got := run("workflows", "schedules"); got != "No schedules.\n" {
		t.Errorf("without schedules:\n%s", got)
	}
	created := time.Date(2026, 11, 22, 14, 20, 0, 0, time.UTC)
	for _, s := range []project.Schedule{{Cron: "0 9 1 1 *", Zone: "Europe/Oslo"}, {Cron: "@daily", Times: 3}} {
		row := s.Row("digest", created)
		if row.Times > 0 {
			row.Pause(created, "closed")
		}
		body, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		key := protocol.ScheduleKey(protocol.ClassCron, "digest", row.ID)
		if _, err := js.Publish(t.Context(), protocol.KVSubject(protocol.SchedulesBucket("shop"), key), body); err != nil {
			t.Fatal(err)
		}
	}
	const want = `WORKFLOW  CRON       ZONE         LAST  NEXT                  RUNS  MISSED  ID
digest    @daily     UTC          -     paused                0     0       cron-693a9a79ec5e
digest    0 9 1 1 *  Europe/Oslo  -     2027-01-01T08:00:00Z  0     0       cron-7ec305220bc3
`
	if got := run("workflows", "schedules"); got != want {
		t.Errorf("list:\n%swant:\n%s", got, want)
	}
	decoder := json.NewDecoder(strings.NewReader(run("workflows", "schedules", "--output", "json")))
	for decoder.More() {
		var s crontab.Status
		if err := decoder.Decode(&s); err != nil || s.Workflow != "digest" || (s.Paused == nil) == (s.Next == nil) {
			t.Errorf("as JSON: %+v, %v", s, err)
		}
	}
	if got := run("schedules", "list"); got != "No schedules.\n" { // of agents
		t.Errorf("schedules of agents:\n%s", got)
	}
}
