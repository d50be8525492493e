package protocol_test

import (
	"encoding/json"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

func object(name string) *protocol.Object {
	return &protocol.Object{Name: "booking/u-7/in-1/" + name, Size: 200 << 10}
}

func target() *protocol.OutgoingTarget {
	return &protocol.OutgoingTarget{Project: "mail", Shard: 1, Workflow: "booking", ID: "u-7"}
}

func parent() *protocol.Parent {
	return &protocol.Parent{
		Project: "trips", Shard: 2, Workflow: "trip", ID: "t-1", Incarnation: 31, Call: protocol.CallType(31, 1, "book it", 2),
	}
}

func divergence() *protocol.Divergence {
	return &protocol.Divergence{
		Recorded: []protocol.Key{{Op: protocol.OpRace, Name: "first answer", Count: 1}},
		Called:   &protocol.Key{Op: protocol.OpDo, Name: "new step", Count: 1}, Branch: "1.2",
	}
}

// steeringGoldens are the messages that came with controls, restarts, calls, snapshots and large values.
func steeringGoldens() []golden {
	called := protocol.Create{
		V: protocol.Version, Input: "in-1", Workflow: "booking", ID: "u-7", Created: at(1), ParamsObject: object("params"),
		Source:    protocol.Source{Kind: "call", Project: "trips", Class: "trip", Name: "t-1"},
		Retention: &protocol.Retention{Success: protocol.Duration(time.Hour), Error: protocol.Duration(48 * time.Hour)},
		Parent:    parent(), Carried: 4,
	}
	steered := protocol.Append{
		V: protocol.Version, ID: "ap-2", Incarnation: 4, Holder: protocol.Wake{Stream: "WORKFLOWS_mail", Sequence: 19}, Runner: "runner-b",
		Time: at(20), Entries: steeringEntries(), Mark: 19, Epoch: 2, Version: "v1.4.0",
	}
	return append(controlGoldens(), []golden{
		{"create.called", called},
		{"event.large", protocol.Event{V: 1, Input: "in-2", Type: "t", Sent: at(2), PayloadObject: object("event")}},
		{"append.steered", steered},
		{"append.snapshot-beside", protocol.Append{
			V: protocol.Version, ID: "ap-3", Incarnation: 4, Holder: protocol.Wake{Stream: "WORKFLOWS_mail", Sequence: 19}, Runner: "runner-b",
			Time: at(30), Mark: 19, Epoch: 2, Entries: []protocol.Entry{{Kind: protocol.EntrySnapshot, Input: 31, Snapshot: &protocol.Snapshot{
				Over: 30, Phase: "finished", History: json.RawMessage(`{"end":"completed","output":"done"}`), Object: object("snapshot"),
			}}},
		}},
		{"done.rolled-back", protocol.Done{
			V: 1, Workflow: "booking", ID: "u-7", Incarnation: 4, Log: 30, State: protocol.StateTerminated, Created: at(1), Finished: at(30),
			Error: &protocol.Failure{Name: protocol.FailureTerminated, Message: "no"}, Mark: 19, Epoch: 2, Expires: new(at(50)),
			Rollback: &protocol.Rollback{Outcome: "failed", Error: failure()},
		}},
		{"done.large", protocol.Done{
			V: 1, Workflow: "booking", ID: "u-7", Incarnation: 4, Log: 30, State: protocol.StateComplete, Created: at(1), Finished: at(30),
			OutputObject: object("output"),
		}},
		{"done.deleted", protocol.Done{
			V: 1, Workflow: "booking", ID: "u-7", Incarnation: 4, Log: 30, State: protocol.StateDeleted, Created: at(1), Finished: at(30),
			Error: &protocol.Failure{Name: protocol.FailureDeleted, Message: "gone"},
		}},
		{"answer.steered", protocol.Answer{V: protocol.Version, Status: steeredStatus()}},
		{"answer.cut", protocol.Answer{V: 1, Status: &protocol.Status{
			Workflow: "w", ID: "i", State: protocol.StateRunning, Created: at(1), Omitted: 12, Cursor: 7,
		}}},
		{"answer.part", protocol.Answer{V: 1, Runner: "runner-b", Status: &protocol.Status{
			Workflow: "w", ID: "i", State: protocol.StateRunning, Created: at(1), Omitted: 12, OmittedRuns: 3, Further: 40, Log: 31,
		}}},
		{"ask.steps", protocol.Ask{V: 1, Workflow: "booking", ID: "u-7", Steps: &protocol.StepPage{From: 12, Log: 31}}},
		{"ask.step", protocol.Ask{V: 1, Workflow: "booking", ID: "u-7", Step: &protocol.Key{Op: protocol.OpDo, Name: "send e-mail", Count: 1}}},
		{"answer.paused", state(protocol.StatePaused)},
		{"answer.waiting-for-pause", state(protocol.StateWaitingForPause)},
		{"answer.rolling-back", state(protocol.StateRollingBack)},
		{"record.steering", protocol.Record{V: 1, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7), Outbox: []protocol.Outgoing{
			{ID: protocol.OutgoingID(3, 2, 0), Kind: protocol.OutgoingCreate, Instance: target(), Create: new(create()), Existing: protocol.ExistingReturn},
			{ID: protocol.OutgoingID(3, 2, 1), Kind: protocol.OutgoingCreate, Instance: target(), Create: new(create()), Existing: protocol.ExistingRestart},
			{ID: protocol.OutgoingID(3, 2, 2), Kind: protocol.OutgoingControl, Instance: target(),
				Control: &protocol.Control{V: 1, Input: "in-3", Action: protocol.ActionPause, Sent: at(5), Source: create().Source}},
		}}},
		{"history.full", protocol.History{
			V: protocol.Version, Project: "mail", Create: called, Sequence: 4,
			Log: []protocol.LoggedAppend{{Sequence: 21, Append: steered}},
		}},
	}...)
}

func controlGoldens() []golden {
	control := func(action protocol.Action) protocol.Control {
		return protocol.Control{V: protocol.Version, Input: "in-3", Action: action, Sent: at(5), Source: protocol.Source{Kind: "program"}}
	}
	resume, terminate, restart := control(protocol.ActionResume), control(protocol.ActionTerminate), control(protocol.ActionRestart)
	resume.Accept, terminate.Rollback = true, true
	restart.From = &protocol.Key{Op: protocol.OpDo, Name: "send e-mail", Count: 2}
	restart.Incarnation = 4
	expired := control(protocol.ActionDelete)
	expired.Incarnation, expired.Expired = 4, true
	return []golden{
		{"control.pause", control(protocol.ActionPause)},
		{"control.resume", resume},
		{"control.terminate", terminate},
		{"control.restart", restart},
		{"control.delete", control(protocol.ActionDelete)},
		{"control.delete-expired", expired},
		{"control.compact", control(protocol.ActionCompact)},
		{"poke.control", protocol.Poke{V: protocol.Version, Shard: 2, Workflow: "booking", ID: "u-7", Control: 19}},
	}
}

// steeringEntries has the kinds of entries that controls, calls, undoing and snapshots brought, with all their fields.
func steeringEntries() []protocol.Entry {
	do := &protocol.Key{Op: protocol.OpDo, Name: "send e-mail", Count: 1}
	call := &protocol.Key{Op: protocol.OpCall, Name: "book it", Count: 2}
	undo := &protocol.Key{Op: protocol.OpRollback, Name: "send e-mail", Count: 1}
	config := &protocol.StepConfig{
		Retries: -1, Jitter: 0.5, Dynamic: true, Heartbeat: protocol.Duration(time.Minute), Sensitive: true,
		Rollback: &protocol.StepConfig{Retries: 3, Backoff: "constant"},
	}
	wake := &protocol.Wake{Stream: "WORKFLOWS_mail", Sequence: 19}
	return []protocol.Entry{
		{Kind: protocol.EntryStarted, Step: do, Attempt: 1, Started: new(at(3)), Config: config, Branch: "1.2"},
		{Kind: protocol.EntryHeartbeat, Step: do, Attempt: 1, Result: json.RawMessage(`{"done":7}`)},
		{Kind: protocol.EntryStepCompleted, Step: do, Attempt: 1, Started: new(at(3)), Object: object("result")},
		{Kind: protocol.EntryWaiting, Step: call, Type: parent().Call, Callee: &protocol.Callee{Project: "mail", Shard: 1, Workflow: "booking", ID: "u-7"}},
		{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: protocol.Key{Op: protocol.OpSlot}}}},
		{Kind: protocol.EntryPaused, Input: 17, InputID: "in-3"},
		{Kind: protocol.EntryHeld, Error: failure(), Divergence: divergence()},
		{Kind: protocol.EntryResumed, Wake: wake, Input: 18, InputID: "in-4", Shift: protocol.Duration(time.Minute), Accept: true},
		{Kind: protocol.EntryRestarted, Wake: wake, Input: 19, InputID: "in-5", From: do},
		{Kind: protocol.EntryRollingBack, Wake: wake, Terminate: true, Error: failure()},
		{Kind: protocol.EntryStepCompleted, Step: undo, Attempt: 1, Started: new(at(18)), Result: json.RawMessage(`null`)},
		{Kind: protocol.EntryRolledBack, Error: failure()},
		{Kind: protocol.EntryTerminated, Error: failure(), Expires: new(at(50))},
		{Kind: protocol.EntryDeleted, Input: 20, InputID: "in-6"},
		{Kind: protocol.EntrySnapshot, Input: 20, Snapshot: &protocol.Snapshot{
			Over: 20, Phase: "parked", Park: 12, Waits: []protocol.Wait{{Key: *call, Type: parent().Call}}, Until: new(at(40)),
			History: json.RawMessage(`{"steps":[]}`),
		}},
		{Kind: protocol.EntrySnapshot, Snapshot: &protocol.Snapshot{Over: 20, Phase: "running", Object: object("snapshot")}},
	}
}

func steeredStatus() *protocol.Status {
	return &protocol.Status{
		Workflow: "booking", ID: "u-7", State: protocol.StateHeld, Created: at(1), Source: protocol.Source{Kind: "program", Project: "mail"},
		Params: json.RawMessage(`{"flight":"LH 1"}`), ParamsObject: object("params"), OutputObject: object("output"),
		Incarnation: 4, Log: 30, Mark: 19, Epoch: 2, Version: "v1.4.0", Parent: parent(),
		Rollback: &protocol.Rollback{Outcome: "complete"}, Divergence: divergence(), Expires: new(at(50)),
		Steps: []protocol.StepStatus{
			{Key: protocol.Key{Op: protocol.OpDo, Name: "send e-mail", Count: 1}, State: "completed", Output: json.RawMessage(protocol.Redacted),
				Config: &protocol.StepConfig{Sensitive: true}, Heartbeat: json.RawMessage(`{"done":7}`), Branch: "1.2"},
			{Key: protocol.Key{Op: protocol.OpDo, Name: "large", Count: 1}, State: "completed", OutputObject: object("result")},
			{Key: protocol.Key{Op: protocol.OpCall, Name: "book it", Count: 2}, State: "waiting", Type: parent().Call,
				Callee: &protocol.Callee{Project: "mail", Shard: 1, Workflow: "booking", ID: "u-7"}},
		},
		Runs: []protocol.RunStatus{{Runner: "runner-b", Time: at(20), Wake: "WORKFLOWS_mail#19", Version: "v1.4.0"}},
	}
}

func state(s protocol.State) protocol.Answer {
	return protocol.Answer{V: 1, Status: &protocol.Status{Workflow: "w", ID: "i", State: s, Created: at(1)}}
}
