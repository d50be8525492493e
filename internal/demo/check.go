package demo

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/examples/contract"
	"github.com/skein-run/skein/pkg/protocol"
)

// Check is one thing that must hold.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail says what is wrong, or what was found.
	Detail string `json:"detail"`
}

// steps of the workflow, in order.
var steps = [...]protocol.Key{
	{Op: protocol.OpDo, Name: stepLoad, Count: 1},
	{Op: protocol.OpDo, Name: stepBooking, Count: 1},
	{Op: protocol.OpSleep, Name: stepSleep, Count: 1},
	{Op: protocol.OpEvent, Name: stepWait, Count: 1},
	{Op: protocol.OpDo, Name: stepReceipt, Count: 1},
}

// check judges the evidence. It reads nothing but e.
func check(e evidence) []Check {
	var checks []Check
	for _, c := range []struct {
		name  string
		judge func(evidence) (found string, wrong []string)
	}{
		{"the instance is complete and says what it did", checkOutcome},
		{"each step is recorded once", checkRecorded},
		{"every attempt is accounted for", checkAttempts},
		{"the sleep parked", checkParked},
		{"one run is lost: that of the killed runner", checkRuns},
		{"each mail is one Message-ID, repeated at most by the kill", checkMails},
		{"the agent's cron looked, and was cancelled", checkWatch},
		{"nothing was given up", checkDead},
		{"nothing is late", checkTime},
	} {
		found, wrong := c.judge(e)
		if len(wrong) > 0 {
			found = strings.Join(wrong, "; ")
		}
		checks = append(checks, Check{Name: c.name, OK: len(wrong) == 0, Detail: found})
	}
	return checks
}

func checkOutcome(e evidence) (found string, wrong []string) {
	if e.status.State != protocol.StateComplete {
		return "", []string{fmt.Sprintf("it is %s, %s", orNone(string(e.status.State)), doing(e.status))}
	}
	var got contract.Report
	want := contract.Report{Mails: 2, ConfirmedBy: userID}
	if err := json.Unmarshal(e.status.Output, &got); err != nil || got != want {
		return "", []string{fmt.Sprintf("its result is %s, want %+v", e.status.Output, want)}
	}
	if e.desk.State != e.status.State {
		wrong = append(wrong, fmt.Sprintf("the agent says it is %s", orNone(string(e.desk.State))))
	}
	return fmt.Sprintf("result %s", e.status.Output), wrong
}

// doing says what an instance does that has not ended.
func doing(s protocol.Status) string {
	for _, step := range s.Steps {
		if step.State != "completed" && step.State != "failed" {
			return fmt.Sprintf("%q is %s", step.Name, step.State)
		}
	}
	return "no step is open"
}

func orNone(s string) string {
	if s == "" {
		return "not there"
	}
	return s
}

// isOutcome reports whether an entry of this kind ends a step for good.
func isOutcome(k protocol.EntryKind) bool {
	switch k {
	case protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntrySlept, protocol.EntryReceived, protocol.EntryTimedOut:
		return true
	}
	return false
}

func checkRecorded(e evidence) (found string, wrong []string) {
	recorded := map[protocol.Key]int{}
	for entry := range e.entries() {
		if isOutcome(entry.Kind) {
			recorded[*entry.Step]++
		}
	}
	for _, key := range steps {
		if n := recorded[key]; n != 1 {
			wrong = append(wrong, fmt.Sprintf("%s has %d outcomes in the log", key, n))
		}
		delete(recorded, key)
	}
	for key := range recorded {
		wrong = append(wrong, fmt.Sprintf("%s is no step of the workflow", key))
	}
	for _, s := range e.status.Steps {
		if s.State != "completed" {
			wrong = append(wrong, fmt.Sprintf("%s is %s", s.Key, s.State))
		}
	}
	return fmt.Sprintf("%d steps, %d outcomes in the log", len(steps), len(steps)), wrong
}

// checkAttempts wants each attempt to have ended, by itself or with the killed runner, and each body that was to fail
// or to be repeated to be there.
func checkAttempts(e evidence) (found string, wrong []string) {
	want := map[string][]string{
		stepLoad: {"failed", "failed", "completed"}, stepBooking: {"lost", "completed"}, stepReceipt: {"completed"},
	}
	got := map[string][]string{}
	total := 0
	for _, s := range e.status.Steps {
		for i, a := range s.Attempts {
			if a.Attempt != i+1 {
				wrong = append(wrong, fmt.Sprintf("%q: attempt %d stands where attempt %d should", s.Name, a.Attempt, i+1))
			}
			if fate(a) == "lost" && a.Runner != e.killed {
				wrong = append(wrong, fmt.Sprintf("%q: attempt %d on %s is lost, and that runner was not killed", s.Name, a.Attempt, a.Runner))
			}
			got[s.Name] = append(got[s.Name], fate(a))
			total++
		}
	}
	for _, key := range steps {
		if !slices.Equal(got[key.Name], want[key.Name]) {
			wrong = append(wrong, fmt.Sprintf("%q: attempts are %v, want %v", key.Name, got[key.Name], want[key.Name]))
		}
	}
	return fmt.Sprintf("%d attempts: 2 failed as they should, 1 lost, the others completed", total), wrong
}

// fate is how an attempt ended.
func fate(a protocol.AttemptStatus) string {
	switch {
	case a.Finished == nil:
		return "lost"
	case a.Error != nil:
		return "failed"
	}
	return "completed"
}

func checkParked(e evidence) (found string, wrong []string) {
	for entry := range e.entries() {
		if entry.Kind != protocol.EntryParked {
			continue
		}
		for _, w := range entry.Waits {
			if w.Name == stepSleep {
				return "the log has a park that waits for it", nil
			}
		}
	}
	return "", []string{fmt.Sprintf("no park in the log waits for %q", stepSleep)}
}

func checkRuns(e evidence) (found string, wrong []string) {
	var lost []string
	others := map[string]bool{}
	for _, r := range e.status.Runs {
		if r.Lost {
			lost = append(lost, r.Runner)
		}
		if r.Runner != e.killed {
			others[r.Runner] = true
		}
	}
	if len(lost) != 1 || lost[0] != e.killed {
		wrong = append(wrong, fmt.Sprintf("lost are the runs of %v, killed was %s", lost, orNone(e.killed)))
	}
	if len(others) == 0 {
		wrong = append(wrong, "no other runner took the instance")
	}
	return fmt.Sprintf("%d runs", len(e.status.Runs)), wrong
}

func checkMails(e evidence) (found string, wrong []string) {
	distinct := map[string]bool{}
	repeats := 0
	for _, m := range e.mails {
		distinct[m.MessageID] = true
		if m.Repeats {
			repeats++
		}
	}
	if len(distinct) != 2 {
		wrong = append(wrong, fmt.Sprintf("%d different mails, want 2", len(distinct)))
	}
	if repeats > 1 {
		wrong = append(wrong, fmt.Sprintf("%d mails repeat others, at most 1 is due to the kill", repeats))
	}
	if repeats > 0 && len(e.mails) > 1 && !e.mails[1].Repeats {
		wrong = append(wrong, "a mail is repeated that the kill did not touch")
	}
	return fmt.Sprintf("2 mails, %d sent again with the same Message-ID", repeats), wrong
}

func checkWatch(e evidence) (found string, wrong []string) {
	if e.desk.Watch == "" || e.desk.Looks == 0 {
		wrong = append(wrong, "it never looked")
	}
	if e.watched {
		wrong = append(wrong, "its row in the bucket of schedules is still there")
	}
	if _, known := e.record.Seen[protocol.ScheduleSource(e.desk.Watch)]; known {
		wrong = append(wrong, "the agent's record still knows it")
	}
	return fmt.Sprintf("%d looks", e.desk.Looks), wrong
}

func checkDead(e evidence) (found string, wrong []string) {
	if e.dead > 0 {
		wrong = append(wrong, fmt.Sprintf("%d dead letters", e.dead))
	}
	return "no dead letters", wrong
}

func checkTime(e evidence) (found string, wrong []string) {
	took := e.took.Round(100 * time.Millisecond)
	if e.took > e.limit {
		wrong = append(wrong, fmt.Sprintf("it took %s, at most %s are allowed", took, e.limit))
	}
	return fmt.Sprintf("%s of %s", took, e.limit), wrong
}
