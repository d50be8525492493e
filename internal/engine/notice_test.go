package engine_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// scene is a message of a log, what came before it, and what it tells: the kinds with the indexes of their cursors.
type scene struct {
	name    string
	before  []protocol.Entry // each in a message of its own
	entries []protocol.Entry
	want    string
}

func scenes() []scene {
	do := func(kind protocol.EntryKind, attempt int) protocol.Entry {
		return protocol.Entry{Kind: kind, Step: &protocol.Key{Op: protocol.OpDo, Name: "s", Count: 1}, Attempt: attempt, Started: at(time.Second)}
	}
	of := func(kind protocol.EntryKind, op protocol.Op) protocol.Entry {
		return protocol.Entry{Kind: kind, Step: &protocol.Key{Op: op, Name: "s", Count: 1}}
	}
	calling := of(protocol.EntryStarted, protocol.OpCall)
	calling.Callee = &callee
	answered := of(protocol.EntryReceived, protocol.OpCall)
	answered.Result, _ = json.Marshal(protocol.Done{State: protocol.StateComplete, Output: json.RawMessage("1")})
	refused := answered
	refused.Result, _ = json.Marshal(protocol.Done{State: protocol.StateErrored, Error: &protocol.Failure{Name: "E"}})
	w, slot := wake(7), protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: protocol.Key{Op: protocol.OpSlot}}}}
	only := func(kind protocol.EntryKind) []protocol.Entry { return []protocol.Entry{{Kind: kind}} }
	begun := only(protocol.EntryParked)
	claimed := protocol.Entry{Kind: protocol.EntryClaimed, Wake: &w}
	lost := protocol.Entry{Kind: protocol.EntryClaimed, Wake: &w, Lost: true}
	rolledBack := protocol.Entry{Kind: protocol.EntryRolledBack, Error: &protocol.Failure{Name: "E"}}
	steered := func(kind protocol.EntryKind) protocol.Entry {
		return protocol.Entry{Kind: kind, Input: 5, InputID: "c", Wake: &w}
	}
	undo := do(protocol.EntryStepCompleted, 1)
	undo.Step = &protocol.Key{Op: protocol.OpRollback, Name: "s", Count: 1}
	undoAgain, undoFailed := undo, undo
	undoAgain.Kind, undoFailed.Kind = protocol.EntryAttemptFailed, protocol.EntryStepFailed
	return []scene{
		{"first message", nil, []protocol.Entry{do(protocol.EntryStarted, 1)}, "started.1 running.2 step-started.9 attempt-started"},
		{"first message, given back", nil, only(protocol.EntryReleased), ""},
		{"claimed after that", only(protocol.EntryReleased), []protocol.Entry{claimed}, "started.9 running"},
		{"first message, after a lost run", nil, []protocol.Entry{lost}, "started.1 running"},
		{"first message, a wait for a slot", nil, []protocol.Entry{slot}, "queued"},
		{"first message, a pause", nil, []protocol.Entry{steered(protocol.EntryPaused)}, "paused"},
		{"claimed", begun, []protocol.Entry{claimed}, "running"},
		{"released", begun, only(protocol.EntryReleased), ""},
		{"parked", begun, only(protocol.EntryParked), "waiting"},
		{"parked for a slot", begun, []protocol.Entry{slot}, "queued"},
		{"completed", begun, only(protocol.EntryCompleted), "completed"},
		{"failed", begun, only(protocol.EntryFailed), "errored"},
		{"terminated", begun, only(protocol.EntryTerminated), "terminated"},
		{"deleted", begun, only(protocol.EntryDeleted), "deleted"},
		{"paused", begun, []protocol.Entry{steered(protocol.EntryPaused)}, "paused"},
		{"held", begun, only(protocol.EntryHeld), "held"},
		{"resumed", append(begun, steered(protocol.EntryPaused)), []protocol.Entry{steered(protocol.EntryResumed)}, "resumed"},
		{"several controls", begun, []protocol.Entry{steered(protocol.EntryPaused), steered(protocol.EntryResumed)}, "paused.9 resumed"},
		{"restarted", append(begun, do(protocol.EntryStarted, 1)), []protocol.Entry{steered(protocol.EntryRestarted)}, "restarted"},
		{"begun again", append(begun, do(protocol.EntryStarted, 1), steered(protocol.EntryRestarted)),
			[]protocol.Entry{claimed, do(protocol.EntryStarted, 1)}, "running.9 step-started.17 attempt-started"},
		{"rolling back", begun, only(protocol.EntryRollingBack), "rollback-started"},
		{"rolled back", begun, only(protocol.EntryRolledBack), "rollback-completed"},
		{"not rolled back", begun, []protocol.Entry{rolledBack}, "rollback-failed"},
		{"undone at once", begun, []protocol.Entry{undo},
			"rollback-step-started.9 rollback-attempt-started.10 rollback-attempt-completed.11 rollback-step-completed"},
		{"undone on the second try", append(begun, undoAgain), []protocol.Entry{undo},
			"rollback-attempt-completed.9 rollback-step-completed"},
		{"not undone", begun, []protocol.Entry{undoAgain, undoFailed},
			"rollback-step-started.9 rollback-attempt-started.10 rollback-attempt-failed.11 rollback-attempt-failed.17 rollback-step-failed"},
		{"a step within a message", begun, []protocol.Entry{do(protocol.EntryStepCompleted, 1), do(protocol.EntryHeartbeat, 1)},
			"step-started.9 attempt-started.10 attempt-completed.11 step-completed.12 heartbeat"},
		{"a step that had begun", append(begun, do(protocol.EntryStarted, 1)), []protocol.Entry{do(protocol.EntryStepCompleted, 1)},
			"attempt-completed.9 step-completed"},
		{"a second attempt", append(begun, do(protocol.EntryAttemptFailed, 1)), []protocol.Entry{do(protocol.EntryStarted, 2)}, "attempt-started"},
		{"a failed attempt", begun, []protocol.Entry{do(protocol.EntryAttemptFailed, 1)}, "step-started.9 attempt-started.10 attempt-failed"},
		{"a failed step", append(begun, do(protocol.EntryStarted, 1)), []protocol.Entry{do(protocol.EntryStepFailed, 1)}, "attempt-failed.9 step-failed"},
		{"a step that lost its runs", append(begun, do(protocol.EntryStarted, 1)), []protocol.Entry{of(protocol.EntryStepFailed, protocol.OpDo)}, "step-failed"},
		{"a sleep", begun, []protocol.Entry{of(protocol.EntryWaiting, protocol.OpSleep)}, "sleep-started"},
		{"its end", append(begun, of(protocol.EntryWaiting, protocol.OpSleep)), []protocol.Entry{of(protocol.EntrySlept, protocol.OpSleep)}, "sleep-ended"},
		{"a short sleep", begun, []protocol.Entry{of(protocol.EntrySlept, protocol.OpSleep)}, "sleep-started.9 sleep-ended"},
		{"a wait", begun, []protocol.Entry{of(protocol.EntryWaiting, protocol.OpEvent)}, "wait-started"},
		{"its event", append(begun, of(protocol.EntryWaiting, protocol.OpEvent)), []protocol.Entry{of(protocol.EntryReceived, protocol.OpEvent)}, "wait-ended"},
		{"an event that was there", begun, []protocol.Entry{of(protocol.EntryReceived, protocol.OpEvent)}, "wait-started.9 wait-ended"},
		{"no event", append(begun, of(protocol.EntryWaiting, protocol.OpEvent)), []protocol.Entry{of(protocol.EntryTimedOut, protocol.OpEvent)}, "wait-timed-out"},
		{"a call", begun, []protocol.Entry{calling, of(protocol.EntryWaiting, protocol.OpCall)}, "call-started"},
		{"its answer", append(begun, calling), []protocol.Entry{answered}, "call-completed"},
		{"its failure", append(begun, calling), []protocol.Entry{refused}, "call-failed"},
		{"a call that was given up", append(begun, calling), []protocol.Entry{of(protocol.EntryStepFailed, protocol.OpCall)}, "call-failed"},
		{"a call that took too long", append(begun, calling), []protocol.Entry{of(protocol.EntryTimedOut, protocol.OpCall)}, "call-timed-out"},
		{"a value", begun, []protocol.Entry{of(protocol.EntryRecorded, protocol.OpValue)}, ""},
		{"progress", begun, []protocol.Entry{of(protocol.EntryReported, protocol.OpReport)}, "progress"},
		{"an event", begun, []protocol.Entry{reportedEvent()}, "event-reported"},
		{"a race", begun, []protocol.Entry{of(protocol.EntryStarted, protocol.OpRace)}, ""},
		{"its winner", begun, []protocol.Entry{of(protocol.EntryStepCompleted, protocol.OpRace)}, "race-decided"},
		{"its winner, who failed", begun, []protocol.Entry{of(protocol.EntryStepFailed, protocol.OpRace)}, "race-decided"},
		{"a wait that was given up", append(begun, of(protocol.EntryWaiting, protocol.OpEvent)), []protocol.Entry{of(protocol.EntryGivenUp, protocol.OpEvent)}, ""},
		{"a group that failed", begun, []protocol.Entry{of(protocol.EntryGroupFailed, protocol.OpGroup)}, ""},
		{"a snapshot of what was told", begun, []protocol.Entry{snapshotEntry()}, ""},
		{"a snapshot of what was not", nil, []protocol.Entry{snapshotEntry()}, "cleaned"},
	}
}

func snapshotEntry() protocol.Entry {
	return protocol.Entry{Kind: protocol.EntrySnapshot, Snapshot: &protocol.Snapshot{Over: 8, Phase: "parked", History: json.RawMessage(`{}`)}}
}

func reportedEvent() protocol.Entry {
	return protocol.Entry{Kind: protocol.EntryReported, Step: &protocol.Key{Op: protocol.OpReport, Name: "event", Count: 1}, Type: "paid"}
}

// TestNotices: every kind of entry tells something, or nothing by decision.
func TestNotices(t *testing.T) {
	t.Parallel()
	entries, notices := map[protocol.EntryKind]bool{}, map[protocol.NoticeKind]bool{protocol.NoticeWaitingForPause: true}
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			l := newLog(t)
			for _, e := range s.before {
				l.add(e)
			}
			sequence := l.add(s.entries...)
			teller := engine.NewTeller(stream, l.create, protocol.Create{})
			var told []protocol.Notice
			for _, m := range l.stored {
				told = logs(t, teller, m)
			}
			var got []string
			for i, n := range told {
				if n.Cursor.Sequence != sequence || (n.Cursor.Index == 0) != (i == len(told)-1) {
					t.Errorf("the cursor of %s is %v", n.Kind, n.Cursor)
				}
				if !slices.Contains(protocol.NoticeKinds(), n.Kind) {
					t.Errorf("told is the kind %q", n.Kind)
				}
				got = append(got, strings.TrimSuffix(fmt.Sprintf("%s.%d", n.Kind, n.Cursor.Index), ".0"))
				notices[n.Kind] = true
			}
			if g := strings.Join(got, " "); g != s.want {
				t.Errorf("told is  %s\nwant     %s", g, s.want)
			}
			for _, e := range s.entries {
				entries[e.Kind] = true
			}
		})
	}
	for _, kind := range entryKinds(t) {
		if !entries[kind] {
			t.Errorf("nobody has decided what an entry of kind %q tells", kind)
		}
	}
	for _, kind := range protocol.NoticeKinds() {
		if !notices[kind] {
			t.Errorf("nothing tells %q", kind)
		}
	}
}

func logs(t *testing.T, teller *engine.Teller, m stored) []protocol.Notice {
	t.Helper()
	var a protocol.Append
	if err := json.Unmarshal(m.body, &a); err != nil {
		t.Fatal(err)
	}
	told, err := teller.Logged(m.sequence, &a)
	if err != nil {
		t.Fatal(err)
	}
	return told
}

// entryKinds are all that the protocol declares.
func entryKinds(t *testing.T) (kinds []protocol.EntryKind) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../pkg/protocol/log.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && fmt.Sprint(spec.Type) == "EntryKind" {
			for _, value := range spec.Values {
				text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				kinds = append(kinds, protocol.EntryKind(text))
			}
		}
		return true
	})
	if len(kinds) < 20 {
		t.Fatalf("found %d kinds of entries", len(kinds))
	}
	return kinds
}

// TestNoticesAfterASnapshot: whoever begins with a snapshot is told of what follows as those are who were there before it:
// under the same cursors, and with nothing that is sensitive.
func TestNoticesAfterASnapshot(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	key := protocol.Key{Op: protocol.OpDo, Name: "s", Count: 1}
	secret := &protocol.StepConfig{Sensitive: true}
	l.add(protocol.Entry{Kind: protocol.EntryStarted, Step: &key, Attempt: 1, Config: secret, Started: at(0)})
	h := l.history()
	e, err := h.Snapshot(nil, l.last)
	if err != nil {
		t.Fatal(err)
	}
	l.add(e)
	l.add(protocol.Entry{Kind: protocol.EntryHeartbeat, Step: &key, Attempt: 1, Result: json.RawMessage(`"hunter2"`)},
		protocol.Entry{Kind: protocol.EntryStepCompleted, Step: &key, Attempt: 1, Result: json.RawMessage(`"hunter2"`)})
	l.add(protocol.Entry{Kind: protocol.EntryCompleted})
	tell := func(from int) (told []protocol.Notice) {
		teller := engine.NewTeller(stream, l.create, protocol.Create{})
		for _, m := range l.stored[from:] {
			told = append(told, logs(t, teller, m)...)
		}
		return told
	}
	whole, rest := tell(0), tell(1)
	if rest[0].Kind != protocol.NoticeCleaned || rest[0].State != protocol.StateRunning {
		t.Errorf("the first is %+v", rest[0])
	}
	before, _ := json.Marshal(whole[len(whole)-len(rest)+1:])
	after, _ := json.Marshal(rest[1:])
	if string(before) != string(after) || len(rest) != 5 {
		t.Errorf("told is\n%s, after the snapshot\n%s", before, after)
	}
	if strings.Contains(string(after), "hunter2") || !strings.Contains(string(after), "REDACTED") {
		t.Errorf("what is sensitive is told: %s", after)
	}
}

// TestPausesThatAreAskedFor: they are told when they make an instance wait that executes, once.
func TestPausesThatAreAskedFor(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	teller := engine.NewTeller(stream, l.create, protocol.Create{})
	var got []string
	note := func(told []protocol.Notice) {
		for _, n := range told {
			got = append(got, fmt.Sprintf("%s %v", n.Kind, n.Cursor))
		}
	}
	ask := func(id string, action protocol.Action) {
		l.last++
		note(teller.Asked(engine.Control{Sequence: l.last, Control: protocol.Control{Input: id, Action: action}}))
	}
	log := func(mark uint64, entries ...protocol.Entry) {
		l.put(protocol.Append{V: 1, Incarnation: l.create, Holder: l.holder, Mark: mark, Time: noon, Entries: entries})
		note(logs(t, teller, l.stored[len(l.stored)-1]))
	}
	ask("1", protocol.ActionPause) // 8: nobody knows yet that it executes
	log(0, protocol.Entry{Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpDo, Name: "s", Count: 1}, Attempt: 1})
	ask("1", protocol.ActionPause) // 10: repeated
	ask("2", protocol.ActionPause)
	log(11, protocol.Entry{Kind: protocol.EntryPaused, Input: 11, InputID: "2"}) // 12
	ask("3", protocol.ActionResume)
	w := wake(13)
	log(13, protocol.Entry{Kind: protocol.EntryResumed, Input: 13, InputID: "3", Wake: &w}) // 14
	ask("4", protocol.ActionPause)                                                          // 15
	log(15, protocol.Entry{Kind: protocol.EntryPaused, Input: 15, InputID: "4"})
	want := "started 9.1, running 9.2, step-started 9.9, attempt-started 9.10, waiting-for-pause 9, paused 12, resumed 14, waiting-for-pause 15, paused 16"
	if g := strings.Join(got, ", "); g != want {
		t.Errorf("told is  %s\nwant     %s", g, want)
	}
}
