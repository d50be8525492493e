package protocol_test

import (
	"encoding/json"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// trackingGoldens are the messages by which an agent is told of workflows that it has started.
func trackingGoldens() []golden {
	tracked := create()
	tracked.Tracker = &protocol.Tracker{Project: "flight-desk", Class: "Desk", Name: "jo@example.com", Life: 3}
	target := protocol.OutgoingTarget{Project: "mail", Shard: 1, Workflow: "booking", ID: "u-7"}
	ended := protocol.WorkflowNotice{
		Project: "mail", Workflow: "booking", ID: "u-7", Input: "in-1", Expires: new(at(50)),
		Notice: protocol.Notice{
			Cursor: protocol.Cursor{Sequence: 21, Index: 9}, Kind: protocol.NoticeCompleted, Time: at(9), Value: json.RawMessage(`"ok"`),
		},
	}
	progress, event := &protocol.Key{Op: protocol.OpReport, Name: "progress", Count: 1}, &protocol.Key{Op: protocol.OpReport, Name: "1.2/event", Count: 1}
	refused := protocol.RefusedNotice(target, tracked, failure(), at(4))
	return []golden{
		{"create.tracked", tracked},
		{"approval.full", protocol.Approval{Approved: true, Reason: "fine", Metadata: json.RawMessage(`{"seat":"12A"}`)}},
		{"approval.minimal", protocol.Approval{}},
		{"append.reported", protocol.Append{
			V: protocol.Version, ID: "ap-1", Incarnation: 4, Holder: protocol.Wake{Stream: "WORKFLOWS_mail", Sequence: 4},
			Runner: "runner-a", Time: at(3), Entries: []protocol.Entry{
				{Kind: protocol.EntryReported, Step: progress, Result: json.RawMessage(`{"percent":50}`)},
				{Kind: protocol.EntryReported, Step: event, Branch: "1.2/", Type: "seat-taken", Result: json.RawMessage(`"12A"`)},
			},
		}},
		{"answer.reports", protocol.Answer{V: 1, Notices: &protocol.Notices{Runner: "runner-a", Incarnation: 4, Notices: []protocol.Notice{
			{Cursor: protocol.Cursor{Sequence: 20, Index: 9}, Kind: protocol.NoticeProgress, Time: at(3), Step: progress, Value: json.RawMessage(`{"percent":50}`)},
			{Cursor: protocol.Cursor{Sequence: 20}, Kind: protocol.NoticeEventReported, Time: at(3), Step: event, Branch: "1.2/", Type: "seat-taken",
				Value: json.RawMessage(`"12A"`)},
		}}}},
		{"mail.notice", protocol.NoticeMail(*tracked.Tracker, ended, at(10))},
		{"mail.notice-refused", protocol.NoticeMail(*tracked.Tracker, refused, at(4))},
		{"request.destroy-all", protocol.Request{V: protocol.Version, ID: "r-1", Call: &protocol.AgentCall{
			From: "flight-desk", Within: protocol.Duration(30 * time.Second), Destroy: 3, Terminate: true,
		}}},
		{"record.terminating", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7), Condemned: true,
			Outbox: []protocol.Outgoing{{ID: protocol.OutgoingID(3, 2, 1), Kind: protocol.OutgoingControl, Instance: &target, Of: "in-1",
				Control: &protocol.Control{V: 1, Input: "in-3", Action: protocol.ActionTerminate, Sent: at(5), Source: tracked.Source}}},
		}},
		{"record.workflows", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "jo@example.com", Life: 3, Commit: "co-1", Updated: at(7),
			Workflows: []protocol.Tracked{
				{OutgoingTarget: target, Input: "in-1", Metadata: map[string]string{"flight": "LH 1"}, Created: at(1), State: protocol.StateQueued, Updated: at(1)},
				{OutgoingTarget: target, Input: "in-2", Created: at(1), Mark: ended.Cursor, State: protocol.StateErrored, Updated: at(9),
					Expires: new(at(50)), Error: &protocol.Failure{Name: "CardError", Message: "card refused"}},
			},
		}},
	}
}
