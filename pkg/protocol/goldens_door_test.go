package protocol_test

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// doorGoldens are the messages between projects that have an account each.
func doorGoldens() []golden {
	c, e, sum := create(), event(), strings.Repeat("0a", 32)
	object := protocol.Object{Name: "booking/u-7/in-1/" + sum, Size: 300_000}
	parent := protocol.Parent{Project: "trips", Shard: 1, Workflow: "trip", ID: "t-1", Incarnation: 9, Call: "=9.0.1.book"}
	done := protocol.Done{
		V: 1, Workflow: "booking", ID: "u-7", Incarnation: 4, Log: 8, State: protocol.StateComplete, Created: at(1), Finished: at(3),
		Output: json.RawMessage(`{"seat":"12A"}`),
	}
	notice := protocol.Notify{
		Tracker: protocol.Tracker{Project: "trips", Class: "Desk", Name: "jo@example.com", Life: 3},
		Notice: protocol.WorkflowNotice{
			Project: "bank", Workflow: "booking", ID: "u-7", Input: "in-1",
			Notice: protocol.Notice{Cursor: protocol.Cursor{Sequence: 7}, Kind: protocol.NoticeCompleted, Time: at(3)},
		},
		Sent: at(4),
	}
	return []golden{
		{"door-request.minimal", protocol.DoorRequest{V: 1}},
		{"door-request.create", protocol.DoorRequest{V: 1, ID: "u-7", Create: &c, Existing: protocol.ExistingReturn}},
		{"door-request.event", protocol.DoorRequest{V: 1, ID: "u-7", Event: &e}},
		{"door-request.control", protocol.DoorRequest{V: 1, ID: "u-7", Control: &protocol.Control{
			V: 1, Input: "in-3", Action: protocol.ActionPause, Sent: at(3), Source: protocol.Source{Kind: "program", Project: "trips"},
		}}},
		{"door-request.await", protocol.DoorRequest{V: 1, ID: "u-7", Incarnation: 4, Wait: protocol.Duration(10 * time.Second)}},
		{"door-request.end", protocol.DoorRequest{V: 1, ID: "u-7", Parent: &parent}},
		{"door-request.put", protocol.DoorRequest{V: 1, ID: "u-7", Put: &protocol.DoorPut{Token: "in-1", Digest: sum, Size: 300_000}}},
		{"door-request.part", protocol.DoorRequest{V: 1, Part: &protocol.DoorPart{Transfer: "t-4", From: 262_144, Data: []byte("…")}}},
		{"door-request.get", protocol.DoorRequest{V: 1, ID: "u-7", Get: &protocol.DoorGet{Object: object, Try: "try-1", After: 12}}},
		{"door-request.ended", protocol.DoorRequest{V: 1, ID: "t-1", Ended: &protocol.Ended{Parent: parent, Done: done}}},
		{"door-request.notice", protocol.DoorRequest{V: 1, Notice: &notice}},
		{"door-request.mail", protocol.DoorRequest{V: 1, ID: "jo@example.com", Mail: &protocol.Mail{
			V: 1, Source: protocol.Agent{Project: "trips", Class: "Cart", Name: "c"}.TellSource(3), Number: 65537, Callback: "Note", Payload: []byte(`"x"`), Sent: at(4),
		}}},
		{"door-request.call", protocol.DoorRequest{
			V: 1, ID: "jo@example.com", CallID: "c-1", Wait: protocol.Duration(3 * time.Second),
			Call: &protocol.AgentCall{From: "trips", Method: "Add", Payload: []byte("2"), Within: protocol.Duration(30 * time.Second), Until: at(34)},
		}},
		{"door-answer.reply", protocol.DoorAnswer{V: 1, Reply: &protocol.Reply{V: 1, Result: []byte("7")}}},
		{"door-answer.accepted", protocol.DoorAnswer{V: 1, Reply: &protocol.Reply{V: 1, Accepted: true, Busy: "a call of Add"}}},
		{"door-answer.minimal", protocol.DoorAnswer{V: 1}},
		{"door-answer.error", protocol.DoorAnswer{V: 1, Error: failure()}},
		{"door-answer.found", protocol.DoorAnswer{V: 1, Outcome: protocol.OutcomeFound, Incarnation: 4, Input: "in-1", Done: &done}},
		{"door-answer.restarted", protocol.DoorAnswer{V: 1, Outcome: protocol.OutcomeRestarted, Incarnation: 4}},
		{"door-answer.transfer", protocol.DoorAnswer{V: 1, Transfer: "t-4", Server: "runner-1", From: 262_144}},
		{"door-answer.object", protocol.DoorAnswer{V: 1, Object: &object}},
		{"door-answer.data", protocol.DoorAnswer{V: 1, Data: []byte("…"), Try: "try-1", After: 12}},
		{"door-answer.registry", protocol.DoorAnswer{V: 1, Workflows: map[string]string{"booking": "BookingWorkflow"}, Agents: []string{"Desk"}}},
		{"post.create", protocol.Post{
			V: 1, Kind: protocol.DoorWorkflow, Name: "booking", Op: protocol.DoorOpCreate, Posted: at(5),
			Request: protocol.DoorRequest{V: 1, ID: "u-7", Create: &c},
		}},
		{"post.ended", protocol.Post{
			V: 1, News: true, Kind: protocol.DoorWorkflow, Name: "trip", Op: protocol.NewsOpEnded, Posted: at(5),
			Request: protocol.DoorRequest{V: 1, ID: "t-1", Ended: &protocol.Ended{Parent: parent, Done: done}},
		}},
		{"project.doors", protocol.Project{V: 1, Name: "trips", Shards: 1, Updated: at(6), Doors: map[string]protocol.KnownDoor{
			"bank": {Workflows: map[string]string{"booking": "BookingWorkflow"}, Agents: []string{"Desk"}, Told: at(6)},
		}}},
	}
}
