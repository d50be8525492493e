package protocol_test

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// golden is a message and the file in testdata that shows it.
type golden struct {
	file  string
	value any
}

// at is a moment with nanoseconds, so that a format which cuts them is seen.
func at(second int) time.Time {
	return time.Date(2026, 11, 22, 14, 20, second, 123456789, time.UTC)
}

func goldens() []golden {
	all := append(instanceGoldens(), statusGoldens()...)
	all = append(append(append(append(all, agentGoldens()...), relayGoldens()...), inboxGoldens()...), overlapGoldens()...)
	all = append(append(all, steeringGoldens()...), slotGoldens()...)
	all = append(all, agentCallGoldens()...)
	all = append(append(append(all, callGoldens()...), historyGoldens()...), noticeGoldens()...)
	return append(append(append(append(all, trackingGoldens()...), cleaningGoldens()...), socketGoldens()...), doorGoldens()...)
}

func failure() *protocol.Failure {
	return &protocol.Failure{
		Name: "CardError", Message: "card refused", Terminal: true, Details: json.RawMessage(`{"code":51}`),
		Causes: []protocol.Cause{{Name: "Error", Message: "bank says no"}},
	}
}

func create() protocol.Create {
	return protocol.Create{
		V: protocol.Version, Input: "in-1", Workflow: "booking", ID: "u-7", Params: json.RawMessage(`{"flight":"LH 1"}`),
		Created: at(1), Source: protocol.Source{Kind: "agent", Project: "flight-desk", Class: "Desk", Name: "jo@example.com"},
	}
}

func event() protocol.Event {
	return protocol.Event{
		V: protocol.Version, Input: "in-2", Type: "confirmed", Payload: json.RawMessage(`{"by":"jo"}`), Sent: at(2),
	}
}

func instanceGoldens() []golden {
	return []golden{
		{"failure.full", *failure()},
		{"failure.minimal", protocol.Failure{Name: "Error", Message: "no"}},
		{"create.full", create()},
		{"create.minimal", protocol.Create{V: 1, Input: "in-1", Workflow: "w", ID: "i", Created: at(1), Source: protocol.Source{Kind: "program"}}},
		{"event.full", event()},
		{"event.minimal", protocol.Event{V: 1, Input: "in-2", Type: "t", Sent: at(2)}},
		{"append.full", protocol.Append{
			V: protocol.Version, ID: "ap-1", Incarnation: 4, Holder: protocol.Wake{Stream: "TIMERS_mail", Sequence: 9},
			Runner: "runner-a", Time: at(3), Entries: entries(),
		}},
		{"append.minimal", protocol.Append{
			V: 1, ID: "ap-1", Incarnation: 1, Holder: protocol.Wake{Stream: "WORKFLOWS_p", Sequence: 1}, Runner: "r", Time: at(3),
			Entries: []protocol.Entry{{Kind: protocol.EntryReleased}},
		}},
		{"done.full", protocol.Done{
			V: protocol.Version, Workflow: "booking", ID: "u-7", Incarnation: 4, Log: 21, State: protocol.StateComplete,
			Created: at(1), Finished: at(9), Output: json.RawMessage(`"ok"`),
		}},
		{"done.errored", protocol.Done{
			V: 1, Workflow: "booking", ID: "u-7", Incarnation: 4, Log: 21, State: protocol.StateErrored,
			Created: at(1), Finished: at(9), Error: failure(),
		}},
		{"timer.full", protocol.Timer{V: protocol.Version, Workflow: "booking", ID: "u-7", Incarnation: 4, Park: 12, Due: at(30)}},
		{"nudge.full", protocol.Nudge{V: protocol.Version, Runner: "runner-1", Park: 17}},
		{"poke.full", protocol.Poke{V: protocol.Version, Shard: 2, Workflow: "booking", ID: "u-7", Input: 13}},
		{"poke.who", protocol.Poke{V: protocol.Version, Shard: 2, Workflow: "booking", ID: "u-7", Wake: &protocol.Wake{Stream: "WORKFLOWS_email", Sequence: 13}}},
		{"quiesce.full", protocol.Quiesce{V: protocol.Version, Milliseconds: 500}},
		{"ask.full", protocol.Ask{V: protocol.Version, Workflow: "booking", ID: "u-7"}},
	}
}

// entries has one entry of every kind with all the fields that the kind can have.
func entries() []protocol.Entry {
	do := &protocol.Key{Op: protocol.OpDo, Name: "send e-mail", Count: 1}
	nap := &protocol.Key{Op: protocol.OpSleep, Name: "a minute", Count: 1}
	wait := &protocol.Key{Op: protocol.OpEvent, Name: "confirmed", Count: 2}
	value := &protocol.Key{Op: protocol.OpValue, Name: "now", Count: 1}
	config := &protocol.StepConfig{
		Retries: 5, Delay: protocol.Duration(time.Second), Backoff: "exponential",
		MaxDelay: protocol.Duration(time.Minute), Timeout: protocol.Duration(10 * time.Minute), LostRuns: 3,
	}
	return []protocol.Entry{
		{Kind: protocol.EntryClaimed, Wake: &protocol.Wake{Stream: "TIMERS_mail", Sequence: 9}, Lost: true, Blamed: []protocol.Key{*do}},
		{Kind: protocol.EntryReleased},
		{Kind: protocol.EntryStarted, Step: do, Attempt: 1, Started: new(at(3)), Config: config, Charged: true},
		{Kind: protocol.EntryAttemptFailed, Step: do, Attempt: 1, Started: new(at(3)), Until: new(at(5)),
			Config: &protocol.StepConfig{}, Error: failure()},
		{Kind: protocol.EntryStepCompleted, Step: do, Attempt: 2, Started: new(at(5)), Result: json.RawMessage(`{"id":1}`)},
		{Kind: protocol.EntryStepFailed, Step: do, Attempt: 6, Started: new(at(6)), Error: failure()},
		{Kind: protocol.EntryWaiting, Step: wait, Type: "confirmed", Until: new(at(40))},
		{Kind: protocol.EntrySlept, Step: nap},
		{Kind: protocol.EntryReceived, Step: wait, Type: "confirmed", Input: 17, InputID: "in-2", Sent: new(at(7)), Result: json.RawMessage(`null`)},
		{Kind: protocol.EntryTimedOut, Step: wait, Type: "confirmed"},
		{Kind: protocol.EntryRecorded, Step: value, Result: json.RawMessage(`"2026-11-22T14:20:07Z"`)},
		{Kind: protocol.EntryParked, Until: new(at(40)), Waits: []protocol.Wait{
			{Key: *nap, Until: new(at(40))}, {Key: *wait, Type: "confirmed"},
		}},
		{Kind: protocol.EntryCompleted, Result: json.RawMessage(`"ok"`)},
		{Kind: protocol.EntryFailed, Error: failure()},
	}
}

func statusGoldens() []golden {
	step := protocol.StepStatus{
		Key: protocol.Key{Op: protocol.OpDo, Name: "send e-mail", Count: 1}, State: "failed",
		Attempts: []protocol.AttemptStatus{{Attempt: 1, Runner: "runner-a", Started: new(at(3)), Finished: new(at(4)), Error: failure()}},
		Until:    new(at(5)), Output: json.RawMessage(`1`), Error: failure(), LostRuns: 1,
	}
	status := protocol.Status{
		Workflow: "booking", ID: "u-7", State: protocol.StateRunning, Created: at(1), Finished: new(at(9)),
		Output: json.RawMessage(`"ok"`), Error: failure(), Steps: []protocol.StepStatus{step},
		Runs: []protocol.RunStatus{{Runner: "runner-a", Time: at(3), Wake: "WORKFLOWS_mail#4", Lost: true}},
	}
	return []golden{
		{"answer.full", protocol.Answer{V: protocol.Version, Status: &status}},
		{"answer.queued", protocol.Answer{V: 1, Status: &protocol.Status{Workflow: "w", ID: "i", State: protocol.StateQueued, Created: at(1)}}},
		{"answer.waiting", protocol.Answer{V: 1, Status: &protocol.Status{Workflow: "w", ID: "i", State: protocol.StateWaiting, Created: at(1),
			Steps: []protocol.StepStatus{{Key: protocol.Key{Op: protocol.OpSleep, Name: "n", Count: 1}, State: "waiting"}}}}},
		{"answer.refused", protocol.Answer{V: 1, Error: &protocol.Failure{Name: protocol.FailureNotFound, Message: "no such instance"}}},
	}
}

func agentGoldens() []golden {
	cron := protocol.Schedule{
		V: protocol.Version, ID: "check 1", Class: "Desk", Name: "jo@example.com", Life: 3, Kind: protocol.ScheduleCron,
		Cron: "*/5 * * * * *", Zone: "Europe/Berlin", Callback: "Check", Payload: json.RawMessage(`{"n":1}`), Created: at(1),
	}
	date := protocol.Schedule{
		V: 1, ID: "d", Class: "Desk", Name: "a", Life: 3, Kind: protocol.ScheduleDate, At: new(at(50)), Callback: "Fly", Created: at(1),
	}
	mail := protocol.Mail{
		V: protocol.Version, Source: protocol.ScheduleSource("check 1"), Number: 1795357205000, Life: 3, Callback: "Check",
		Payload: json.RawMessage(`{"n":1}`), Planned: new(at(5)), Sent: at(6),
	}
	dead := protocol.DeadLetter{
		V: protocol.Version, Class: "Desk", Name: "jo@example.com", Mail: mail, From: "flight-desk", Attempts: 5, Error: failure(), Time: at(8),
	}
	return []golden{
		{"schedule.cron", cron},
		{"schedule.date", date},
		{"schedule.delay", protocol.Schedule{V: 1, ID: "s", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleDelay, At: new(at(4)), Callback: "C", Created: at(1)}},
		{"tick.full", protocol.Tick{V: protocol.Version, Revision: 11, Definition: "0123456789abcdef", Planned: at(5)}},
		{"mail.full", mail},
		{"mail.minimal", protocol.Mail{V: 1, Source: "tell", Number: 1, Callback: "C", Sent: at(6)}},
		{"dead-letter.full", dead},
		{"record.full", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "jo@example.com", Life: 3, Owner: "host-a", Epoch: 8, Turn: 2, Commit: "co-1",
			Updated: at(7), State: json.RawMessage(`{"count":2}`), Seen: map[string]uint64{"schedule/check 1": 1795357205000},
			Outbox: outbox(cron, dead),
		}},
		{"record.large", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "jo@example.com", Life: 3, Owner: "host-a", Epoch: 8, Turn: 2, Commit: "co-1",
			Updated: at(7), Revision: 2, Large: true, StateObject: &protocol.Object{
				Name: protocol.StateOwner(desk(), 8, 1).ObjectName(strings.Repeat("0f", 32)), Size: 70000,
			},
		}},
		{"record.minimal", protocol.Record{V: 1, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7)}},
		{"project.full", protocol.Project{
			V: protocol.Version, Name: "mail", Shards: 2, Updated: at(1),
			Workflows: map[string]protocol.RegisteredClass{"booking": {Class: "Booking", Registered: at(1)}},
			Agents:    map[string]protocol.RegisteredClass{"Desk": {Class: "main.Desk", Registered: at(2)}},
		}},
		{"project.minimal", protocol.Project{V: 1, Name: "p", Shards: 1, Updated: at(1)}},
		{"host.full", protocol.Host{V: protocol.Version, ID: "host-a", Beat: 12, Renewed: at(3), Doubted: "host-b"}},
		{"host.minimal", protocol.Host{V: 1, ID: "host-a", Renewed: at(3)}},
	}
}

func desk() protocol.Agent {
	return protocol.Agent{Project: "flight-desk", Class: "Desk", Name: "jo@example.com"}
}

func outbox(row protocol.Schedule, dead protocol.DeadLetter) []protocol.Outgoing {
	target := &protocol.OutgoingTarget{Project: "mail", Shard: 1, Workflow: "booking", ID: "u-7"}
	return []protocol.Outgoing{
		{ID: protocol.OutgoingID(3, 2, 0), Kind: protocol.OutgoingCreate, Instance: target, Create: new(create())},
		{ID: protocol.OutgoingID(3, 2, 1), Kind: protocol.OutgoingEvent, Instance: target, Event: new(event())},
		{ID: protocol.OutgoingID(3, 2, 2), Kind: protocol.OutgoingSchedule, Schedule: &row},
		{ID: protocol.OutgoingID(3, 2, 3), Kind: protocol.OutgoingCancelSchedule, Cancel: "check 1"},
		{ID: protocol.OutgoingID(3, 2, 4), Kind: protocol.OutgoingDead, Dead: &dead},
	}
}

func relayGoldens() []golden {
	header := map[string][]string{"User-Id": {"7"}}
	return []golden{
		{"request.http", protocol.Request{V: protocol.Version, HTTP: &protocol.HTTPRequest{
			Method: "POST", URL: "/agents/desk/jo", Host: "localhost:8080", Remote: "127.0.0.1:9", Header: header, Body: []byte("hello"),
		}}},
		{"request.http-minimal", protocol.Request{V: 1, HTTP: &protocol.HTTPRequest{Method: "GET", URL: "/", Host: "h"}}},
		{"request.identity", protocol.Request{V: 1, ID: "4d2f", HTTP: &protocol.HTTPRequest{Method: "GET", URL: "/", Host: "h"},
			Identity: json.RawMessage(`{"name":"ada"}`)}},
		{"request.bell", protocol.Request{V: 1, Bell: &protocol.Bell{Sequence: 5, Ack: "$JS.ACK.INBOX_p.doorbell.1.5.1.0.0"}}},
		{"request.activate", protocol.Request{V: 1, Activate: &protocol.Activate{Class: "Desk", Name: "jo@example.com"}}},
		{"request.to-host", protocol.Request{V: 1, ID: "4d2f", HTTP: &protocol.HTTPRequest{Method: "GET", URL: "/", Host: "h"},
			Activate: &protocol.Activate{Class: "Desk", Name: "jo"}}},
		{"reply.accepted", protocol.Reply{V: protocol.Version, Accepted: true}},
		{"reply.moved", protocol.Reply{V: 1, Moved: true}},
		{"reply.owner", protocol.Reply{V: 1, Owner: "host-a"}},
		{"reply.http", protocol.Reply{V: 1, HTTP: &protocol.HTTPResponse{Status: 200, Header: header, Body: []byte("hi")}}},
		{"reply.part-first", protocol.Reply{V: 1, HTTP: &protocol.HTTPResponse{Status: 200, Header: header},
			Stream: &protocol.StreamPart{Number: 1, Data: []byte("hi"), Host: "host-a"}}},
		{"reply.part-end", protocol.Reply{V: 1, Stream: &protocol.StreamPart{Number: 3, End: true}}},
		{"reply.part-broken", protocol.Reply{V: 1, Stream: &protocol.StreamPart{Number: 3, Broken: "no luck"}}},
		{"request.word", protocol.Request{V: 1, ID: "4d2f", Word: &protocol.StreamWord{Taken: 2}}},
		{"request.word-gone", protocol.Request{V: 1, ID: "4d2f", Word: &protocol.StreamWord{Taken: 2, Gone: true}}},
		{"reply.error", protocol.Reply{V: 1, Error: failure()}},
		{"request.http-in-parts", protocol.Request{V: 1, ID: "4d2f", HTTP: &protocol.HTTPRequest{Method: "PUT", URL: "/", Host: "h", Length: -1}}},
		{"request.part", protocol.Request{V: 1, ID: "4d2f", Part: &protocol.BodyPart{Number: 2, Data: []byte("hello")}}},
		{"request.part-end", protocol.Request{V: 1, ID: "4d2f", Part: &protocol.BodyPart{Number: 3, End: true}}},
		{"request.part-broken", protocol.Request{V: 1, ID: "4d2f", Part: &protocol.BodyPart{Number: 3, Broken: failure()}}},
		{"request.again", protocol.Request{V: 1, ID: "4d2f", Again: true, HTTP: &protocol.HTTPRequest{Method: "GET", URL: "/", Host: "h", Until: at(9)}}},
		{"reply.begun", protocol.Reply{V: 1, Moved: true, Begun: true}},
		{"request.word-missing", protocol.Request{V: 1, ID: "4d2f", Word: &protocol.StreamWord{Taken: 2, Missing: true}}},
		{"reply.sent", protocol.Reply{V: 1, Accepted: true, Sent: 3}},
		{"reply.taken", protocol.Reply{V: 1, Accepted: true, Owner: "host-a", Taken: 2}},
	}
}

func slotGoldens() []golden {
	return []golden{
		{"slots.full", protocol.Slots{
			V: protocol.Version, ID: "row-1", Workflow: "booking",
			Holders: []protocol.SlotHolder{{Shard: 2, ID: "u-7", Incarnation: 4, Log: 21, Since: at(4)}},
		}},
		{"slot-wait.full", protocol.SlotWait{V: protocol.Version, Shard: 2, ID: "u-8", Incarnation: 9, Park: 12}},
		{"slot-wait.created", protocol.SlotWait{V: protocol.Version, Shard: 2, ID: "u-8", Incarnation: 9, Park: 12, Created: at(3)}},
	}
}
