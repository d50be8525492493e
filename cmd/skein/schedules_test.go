package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/agent"
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
	want := `ID                   WHEN                   CALLBACK  LAST                  NEXT                  RUNS  MISSED
Cart/jo@home/3.1.1   once                   Pay       -                     2100-01-01T00:00:00Z  0     0
Cart/jo@home/cron-1  0 9 1 1 * Europe/Oslo  Pay       2026-11-22T14:20:00Z  paused                2     1
`
	if got := run("", 0, "list"); got != want {
		t.Errorf("list:\n%swant:\n%s", got, want)
	}
	run("No schedules.", 0, "list", "--class", "Cart", "--agent", "al")
	run(`needs --class`, 1, "list", "--agent", "al")
	if lines := strings.Count(run(`"cron":"0 9 1 1 *"`, 0, "list", "--output", "json"), "\n"); lines != 2 {
		t.Errorf("list as JSON has %d lines, want one per schedule", lines)
	}
	if text := run("closed", 0, "describe", cron); !strings.Contains(text, "Times     3") || !strings.Contains(text, "Until     2100-01-01T00:00:00Z") {
		t.Errorf("describe:\n%s", text)
	}
	var task agent.AgentTask
	if err := json.Unmarshal([]byte(run("", 0, "describe", once, "--output", "json")), &task); err != nil || task.ID != once || !task.Next.Equal(moment) {
		t.Errorf("describe as JSON: %+v, %v", task, err)
	}
	run("Let schedules fire again. What was planned", 0, "resume", "--help")
	run(cron+": resumed\n", 0, "resume", cron)
	run(`{"id":"`+once+`","state":"triggered"}`, 0, "trigger", once, "--output", "json")
	text := run(cron+": deleted", 1, "delete", cron, "Cart/jo@home/none")
	if !strings.Contains(text, "no such schedule") || !strings.Contains(text, "next: see skein schedules list") {
		t.Errorf("delete of a schedule that is not there does not say so:\n%s", text)
	}
	run("no such schedule", 1, "describe", cron)
	run("wanted is <class>/<agent>/<id>", 1, "trigger", "3.1.1")
	inbox, err := js.Stream(t.Context(), protocol.InboxStream("shop"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := inbox.Info(t.Context()); err != nil || info.State.Msgs != 2 {
		t.Errorf("inbox has %+v, %v; want what was triggered, and the end of what was deleted", info, err)
	}
}
