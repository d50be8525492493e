package demo

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/examples/flightdesk"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	killed = "runner-killed"
	other  = "runner-other"
)

// attempt is one that ended, unless it is lost.
func attempt(number int, runner, fate string) protocol.AttemptStatus {
	at := time.Unix(1, 0)
	a := protocol.AttemptStatus{Attempt: number, Runner: runner, Started: &at}
	if fate != "lost" {
		a.Finished = &at
	}
	if fate == "failed" {
		a.Error = &protocol.Failure{Message: "busy"}
	}
	return a
}

// goodEvidence is that of a job in which all went well.
func goodEvidence() evidence {
	e := evidence{
		sight: sight{killed: killed, desk: flightdesk.Desk{Watch: "cron-1", Looks: 5, State: protocol.StateComplete}},
		mails: []Mail{{MessageID: "a"}, {MessageID: "a", Repeats: true}, {MessageID: "b"}},
		took:  20 * time.Second, limit: time.Minute,
	}
	e.status = protocol.Status{
		State: protocol.StateComplete, Output: json.RawMessage(`{"mails":2,"confirmed_by":"ada"}`),
		Runs: []protocol.RunStatus{{Runner: killed, Lost: true}, {Runner: other}},
	}
	attempts := map[string][]protocol.AttemptStatus{
		stepLoad:    {attempt(1, killed, "failed"), attempt(2, killed, "failed"), attempt(3, killed, "completed")},
		stepBooking: {attempt(1, killed, "lost"), attempt(2, other, "completed")},
		stepReceipt: {attempt(1, other, "completed")},
	}
	outcome := map[protocol.Op]protocol.EntryKind{
		protocol.OpDo: protocol.EntryStepCompleted, protocol.OpSleep: protocol.EntrySlept, protocol.OpEvent: protocol.EntryReceived,
	}
	for _, key := range steps {
		e.status.Steps = append(e.status.Steps, protocol.StepStatus{Key: key, State: "completed", Attempts: attempts[key.Name]})
		if key.Op == protocol.OpSleep {
			park := protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: key}}}
			e.log = append(e.log, protocol.Append{Entries: []protocol.Entry{park}})
		}
		e.log = append(e.log, protocol.Append{Entries: []protocol.Entry{{Kind: outcome[key.Op], Step: &key}}})
	}
	return e
}

func TestGoodEvidencePasses(t *testing.T) {
	t.Parallel()
	for _, c := range check(goodEvidence()) {
		if !c.OK {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
	}
}

// Each row spoils the evidence in one way, which some check must notice and say.
func TestSpoiltEvidenceIsNoticed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		spoil func(*evidence)
		want  string
	}{
		{"instance still waits", func(e *evidence) { e.status.State = protocol.StateWaiting }, "it is waiting"},
		{"wrong result", func(e *evidence) { e.status.Output = json.RawMessage(`{"mails":1}`) }, `result is {"mails":1}`},
		{"agent does not know the end", func(e *evidence) { e.desk.State = protocol.StateWaiting }, "the agent says it is waiting"},
		{"result recorded twice", func(e *evidence) { e.log = append(e.log, e.log[0]) }, `do "load user" #1 has 2 outcomes`},
		{"result not recorded", func(e *evidence) { e.log = e.log[1:] }, `do "load user" #1 has 0 outcomes`},
		{"unknown step", func(e *evidence) {
			key := protocol.Key{Op: protocol.OpDo, Name: "pay", Count: 1}
			e.log = append(e.log, protocol.Append{Entries: []protocol.Entry{{Kind: protocol.EntryStepCompleted, Step: &key}}})
		}, `do "pay" #1 is no step`},
		{"step not completed", func(e *evidence) { e.status.Steps[2].State = "waiting" }, `sleep "let them look around" #1 is waiting`},
		{"attempt missing", func(e *evidence) { e.status.Steps[0].Attempts = e.status.Steps[0].Attempts[1:] }, "attempt 2 stands where attempt 1 should"},
		{"body ran once too often", func(e *evidence) {
			e.status.Steps[4].Attempts = append(e.status.Steps[4].Attempts, attempt(2, other, "completed"))
		}, `"mail the receipt": attempts are [completed completed]`},
		{"attempt lost on a healthy runner", func(e *evidence) { e.status.Steps[1].Attempts[0].Runner = other }, "that runner was not killed"},
		{"sleep in memory", func(e *evidence) {
			e.log = slices.DeleteFunc(e.log, func(a protocol.Append) bool { return a.Entries[0].Kind == protocol.EntryParked })
		}, "no park in the log"},
		{"no run lost", func(e *evidence) { e.status.Runs[0].Lost = false }, "lost are the runs of []"},
		{"healthy run lost", func(e *evidence) { e.status.Runs[1].Lost = true }, "lost are the runs of [runner-killed runner-other]"},
		{"no other runner", func(e *evidence) { e.status.Runs = e.status.Runs[:1] }, "no other runner"},
		{"mail missing", func(e *evidence) { e.mails = e.mails[:2] }, "1 different mails"},
		{"repeated mail with another id", func(e *evidence) { e.mails[1] = Mail{MessageID: "c"} }, "3 different mails"},
		{"receipt sent twice", func(e *evidence) { e.mails = append(e.mails, Mail{MessageID: "b", Repeats: true}) }, "2 mails repeat others"},
		{"receipt repeated, booking not", func(e *evidence) {
			e.mails = []Mail{{MessageID: "a"}, {MessageID: "b"}, {MessageID: "b", Repeats: true}}
		}, "a mail is repeated that the kill did not touch"},
		{"cron never fired", func(e *evidence) { e.desk.Looks = 0 }, "it never looked"},
		{"schedule still there", func(e *evidence) { e.watched = true }, "row in the bucket of schedules"},
		{"agent still takes its firings", func(e *evidence) { e.record.Seen = map[string]uint64{protocol.ScheduleSource("cron-1"): 7} }, "record still knows it"},
		{"dead letter", func(e *evidence) { e.dead = 1 }, "1 dead letters"},
		{"late", func(e *evidence) { e.took = 61 * time.Second }, "it took 1m1s"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			e := goodEvidence()
			row.spoil(&e)
			var wrong []string
			for _, c := range check(e) {
				if !c.OK {
					wrong = append(wrong, c.Detail)
				}
			}
			if !strings.Contains(strings.Join(wrong, "\n"), row.want) {
				t.Errorf("found %q, want %q", wrong, row.want)
			}
		})
	}
}

func TestNothingAtAllIsNoticed(t *testing.T) {
	t.Parallel()
	for _, c := range check(evidence{limit: time.Minute}) {
		if c.OK && c.Name != "nothing was given up" && c.Name != "nothing is late" {
			t.Errorf("%s: ok, with %q", c.Name, c.Detail)
		}
	}
}
