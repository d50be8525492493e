package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestSchedules(t *testing.T) {
	t.Parallel()
	url, js := deadProject(t)
	created := time.Date(2026, 11, 22, 14, 20, 0, 0, time.UTC)
	moment := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, row := range []protocol.Schedule{
		{ID: "3.1.1", Kind: protocol.ScheduleDate, At: &moment, Payload: json.RawMessage(`{"sum":5}`)},
		{ID: "cron-1", Kind: protocol.ScheduleCron, Cron: "0 9 1 1 *", Zone: "Europe/Oslo", Until: &moment, Times: 3},
	} {
		row.Class, row.Name, row.Life, row.Callback, row.Created = "Cart", "jo@home", 3, "Pay", created
		row.SetVersion()
		body, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), protocol.KVSubject(protocol.SchedulesBucket("shop"), protocol.ScheduleKey("Cart", "jo@home", row.ID)), body); err != nil {
			t.Fatal(err)
		}
	}
	tick := protocol.Tick{V: 1, Revision: 2, Definition: "d", Planned: moment, Progress: &protocol.Progress{Runs: 2, Missed: 1, Last: &created}}
	body, err := json.Marshal(tick)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), protocol.ClockSubject("shop", "Cart", "jo@home", "cron-1"), body); err != nil {
		t.Fatal(err)
	}
	run := func(want string, code int, args ...string) string {
		t.Helper()
		text, got := said(t, append([]string{"schedules", "--project", "shop", "--nats-url", url}, args...)...)
		if got != code || !strings.Contains(text, want) {
			t.Errorf("%q: exit code %d, want %d and %q in:\n%s", args, got, code, want, text)
		}
		return text
	}
	const once, cron = "Cart/jo@home/3.1.1", "Cart/jo@home/cron-1"
	run("paused", 0, "pause", cron, "--note", "closed")
	want := `ID                   CALLS  WHEN                   NEXT                  LAST                  RUNS  MISSED  SKIPPED  STATE
Cart/jo@home/3.1.1   Pay    once                   2100-01-01T00:00:00Z  -                     0     0       0        armed
Cart/jo@home/cron-1  Pay    0 9 1 1 * Europe/Oslo  -                     2026-11-22T14:20:00Z  2     1       0        paused: closed
`
	if got := run("", 0, "list"); got != want {
		t.Errorf("list:\n%swant:\n%s", got, want)
	}
	run("No schedules.", 0, "list", "--class", "Cart", "--agent", "al")
	run(`needs --class`, 1, "list", "--agent", "al")
	if lines := strings.Count(run(`"cron":"0 9 1 1 *"`, 0, "list", "--output", "json"), "\n"); lines != 2 {
		t.Errorf("list as JSON has %d lines, want one per schedule", lines)
	}
	if text := run("closed", 0, "describe", cron); !strings.Contains(text, "Times    3") || !strings.Contains(text, "Until    2100-01-01T00:00:00Z") {
		t.Errorf("describe:\n%s", text)
	}
	run("paused", 0, "pause", cron, "--note", "shut\n\x1b[2Jdown\tnow\u202e")
	for _, args := range [][]string{{"list"}, {"describe", cron}} {
		if text := run(`\x1b[2Jdown`, 0, args...); strings.ContainsAny(text, "\x1b\u202e\t") || strings.Contains(text, "shut\n") {
			t.Errorf("%q lets a note steer the terminal: %q", args, text)
		}
	}
	run(`"skipped":0,"state":"paused"`, 0, "describe", cron, "--output", "json")
	run(`"runs":0,"missed":0,"skipped":0,"state":"armed"`, 0, "describe", once, "--output", "json")
	run("Fri", 1, "backfill", cron, "--from", "Fri", "--until", "2026-11-22T14:20:00Z")
	run("up to now", 1, "backfill", cron, "--from", "2026-11-22T14:20:00Z", "--until", "2099-11-22T14:20:00Z")
	years := []string{"backfill", cron, "--from", "2020-01-01T09:00:00+01:00", "--until", "2022-06-01T00:00:00Z"}
	run("2020-01-01T08:00:00Z\n2021-01-01T08:00:00Z\n2022-01-01T08:00:00Z\n3 moments\n", 0, append(years, "--dry-run")...)
	run(cron+": 3 of 3 moments sent (order o1)\n", 0, append(years, "--id", "o1")...)
	run(`"schedule":"`+cron+`","id":"o1","moments":3,"sent":3}`, 0, append(years, "--id", "o1", "--output", "json")...)
	none := []string{"backfill", cron, "--from", "2020-01-02T00:00:00Z", "--until", "2020-06-01T00:00:00Z"}
	run(cron+": the schedule has no moment in this range\nnext: see when it fires with skein schedules describe "+cron, 0, none...)
	run("the schedule has no moment in this range", 0, append(none, "--dry-run")...)
	run(`"moments":0,"sent":0}`, 0, append(none, "--output", "json")...)
	run(`"moments":[]`, 0, append(none, "--dry-run", "--output", "json")...)
	var task agent.AgentTask
	if err := json.Unmarshal([]byte(run("", 0, "describe", once, "--output", "json")), &task); err != nil || task.ID != once || !task.Next.Equal(moment) {
		t.Errorf("describe as JSON: %+v, %v", task, err)
	}
	run("Let schedules fire again. What was planned", 0, "resume", "--help")
	run(cron+": resumed\n", 0, "resume", cron)
	run(`"runs":2,"missed":1,"skipped":0,"state":"armed"`, 0, "describe", cron, "--output", "json")
	tick.Progress.Runs = 3
	if body, err = json.Marshal(tick); err == nil {
		_, err = js.Publish(t.Context(), protocol.ClockSubject("shop", "Cart", "jo@home", "cron-1"), body)
	}
	if err != nil {
		t.Fatal(err)
	}
	run("State    over\nNext     -\n", 0, "describe", cron)
	if text := run(`"state":"over"`, 0, "describe", cron, "--output", "json"); strings.Contains(text, `"next"`) {
		t.Errorf("one that has fired for the last time has a next moment: %s", text)
	}
	run(`{"id":"`+once+`","state":"triggered"}`, 0, "trigger", once, "--output", "json")
	text := run(cron+": deleted", 1, "delete", cron, "Cart/jo@home/none")
	if !strings.Contains(text, "no such schedule") || !strings.Contains(text, "next: see skein schedules list --project shop --nats-url "+url) {
		t.Errorf("delete of a schedule that is not there does not say so:\n%s", text)
	}
	run("no such schedule", 1, "describe", cron)
	run("wanted is <class>/<agent>/<id>", 1, "trigger", "3.1.1")
	inbox, err := js.Stream(t.Context(), protocol.InboxStream("shop"))
	if err != nil {
		t.Fatal(err)
	}
	mail := map[string]bool{} // what is sent once more, since the answer comes late, is the same
	for sequence := uint64(1); sequence <= inbox.CachedInfo().State.LastSeq; sequence++ {
		m, err := inbox.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		mail[string(m.Data)] = true
	}
	if len(mail) != 8 {
		t.Errorf("inbox has %d different mails; want two backfills, what was triggered, and the end of what was deleted", len(mail))
	}
}

func TestSchedulesOfWorkflows(t *testing.T) {
	t.Parallel()
	url, js := deadProject(t)
	ctx := t.Context()
	if err := errors.Join(
		streams.EnsureWorkflows(ctx, js, "shop", 1, streams.Options{}),
		streams.RegisterWorkflows(ctx, js, "shop", 1, map[string]string{"digest": "Digest"}),
	); err != nil {
		t.Fatal(err)
	}
	run := func(want string, code int, args ...string) string {
		t.Helper()
		text, got := said(t, append([]string{"schedules", "--project", "shop", "--nats-url", url}, args...)...)
		if got != code || !strings.Contains(text, want) {
			t.Errorf("%q: exit code %d, want %d and %q in:\n%s", args, got, code, want, text)
		}
		return text
	}
	run("No schedules.\n", 0, "list")
	created := time.Date(2026, 11, 22, 14, 20, 0, 0, time.UTC)
	for _, s := range []project.Schedule{{Cron: "0 9 1 1 *", Zone: "Europe/Oslo"}, {Cron: "@daily", Times: 3}} {
		row := s.Row("digest", created)
		body, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		key := protocol.ScheduleKey(protocol.ClassCron, "digest", row.ID)
		if _, err := js.Publish(ctx, protocol.KVSubject(protocol.SchedulesBucket("shop"), key), body); err != nil {
			t.Fatal(err)
		}
	}
	const daily, yearly = "digest/cron-693a9a79ec5e", "digest/cron-7ec305220bc3"
	run(daily+": paused", 0, "pause", daily, "--note", "closed")
	now := time.Now().UTC()
	year := time.Date(now.Year(), 1, 1, 8, 0, 0, 0, time.UTC)
	if !year.After(now) {
		year = year.AddDate(1, 0, 0)
	}
	next := year.Format(time.RFC3339)
	want := `ID                        CALLS            WHEN                   NEXT                  LAST  RUNS  MISSED  SKIPPED  STATE
digest/cron-693a9a79ec5e  workflow digest  @daily UTC             -                     -     0     0       0        paused: closed
digest/cron-7ec305220bc3  workflow digest  0 9 1 1 * Europe/Oslo  ` + next + `  -     0     0       0        armed
`
	if got := run("", 0, "list", "--workflow", "digest"); got != want {
		t.Errorf("list:\n%swant:\n%s", got, want)
	}
	run("No schedules.", 0, "list", "--workflow", "other")
	run("No schedules.", 0, "list", "--class", "Cart")
	if lines := strings.Count(run(`"id":"`+daily+`"`, 0, "list", "--output", "json"), "\n"); lines != 2 {
		t.Errorf("list as JSON has %d lines, want one per schedule", lines)
	}
	if text := run("Params", 0, "describe", yearly); strings.Count(text, "-01-01T08:00:00Z") != 5 {
		t.Errorf("describe does not tell five moments:\n%s", text)
	}
	run("paused: closed", 0, "describe", daily)
	run(`"runs":0,"missed":0,"skipped":0,"paused":`, 0, "describe", daily, "--output", "json")
	run(`"state":"paused"`, 0, "describe", daily, "--output", "json")
	run(daily+": triggered, instance cron-693a9a79ec5e-", 0, "trigger", daily)
	run(daily+": resumed", 0, "resume", daily)
	days := []string{"backfill", daily, "--from", "2026-11-01T00:00:00Z", "--until", "2026-11-02T00:00:00Z", "--id", "o1"}
	run("2 of 2 moments started (order o1)", 0, days...)
	run("0 of 2 moments started, 2 had their instance (order o1)", 0, days...)
	run("take the line out of skein.jsonc", 1, "delete", daily)
	run("skein schedules pause "+daily+" --project shop", 1, "delete", daily)
	waits, err := json.Marshal(protocol.Tick{V: protocol.Version, Planned: created, Since: &created})
	if err == nil {
		_, err = js.Publish(ctx, protocol.ClockSubject("shop", protocol.ClassCron, "digest", "cron-7ec305220bc3"), waits)
	}
	if err != nil {
		t.Fatal(err)
	}
	run("waits since 2026-11-22T14:20:00Z", 0, "describe", yearly)
	run(`"state":"waits"`, 0, "describe", yearly, "--output", "json")
	run("Waits for  the end of the instance", 0, "describe", yearly)
	run("Next       2026-11-22T14:20:00Z\n           "+next+"\n", 0, "describe", yearly)
	run("Europe/Oslo  2026-11-22T14:20:00Z", 0, "list")
	run("see skein schedules list --project shop", 1, "delete", "digest/none")
	run("<workflow>/<id>", 1, "pause", "digest")
}

func TestInZone(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		zone, want string
		lines      []string
	}{
		{"", "0 9 * * * UTC", []string{"0 9 * * *"}},
		{"Europe/Oslo", "0 9 * * *; @daily Europe/Oslo", []string{"0 9 * * *", "@daily"}},
		{"", "@every 90s", []string{"@every 90s"}},
		{"", "@every 90s; @daily UTC", []string{"@every 90s", "@daily"}},
	} {
		if got := inZone(row.zone, row.lines...); got != row.want {
			t.Errorf("%q in %q: %q, want %q", row.lines, row.zone, got, row.want)
		}
	}
}

// TestAgain: what a hint says can be pasted, also if an id has blanks, and tells no password.
func TestAgain(t *testing.T) {
	t.Parallel()
	root := newRoot()
	root.SetArgs([]string{"schedules", "describe", "x", "--config", "a b.jsonc", "--nats-url", "nats://jo:secret@n1:4222"})
	cmd, _, err := root.Find([]string{"schedules", "describe"})
	if err != nil {
		t.Fatal(err)
	}
	var got string
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		got = again(cmd, "pause", "Cart/jo o'neil/cron-1")
		return nil
	}
	const want = `skein schedules pause 'Cart/jo o'\''neil/cron-1' --config 'a b.jsonc' --nats-url 'nats://***@n1:4222'`
	if err := root.ExecuteContext(t.Context()); err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}
