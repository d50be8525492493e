package protocol_test

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// noticeGoldens are the messages by which a runner tells what happens to an instance.
func noticeGoldens() []golden {
	step := &protocol.Key{Op: protocol.OpDo, Name: "send e-mail", Count: 1}
	full := protocol.Notices{Runner: "runner-a", Incarnation: 4, Cursor: protocol.Cursor{Sequence: 23, Index: 9}, End: true, Notices: []protocol.Notice{
		{Cursor: protocol.Cursor{Sequence: 4}, Kind: protocol.NoticeQueued, Time: at(1), Value: json.RawMessage(`{"flight":"LH 1"}`)},
		{Cursor: protocol.Cursor{Sequence: 5, Index: 1}, Kind: protocol.NoticeRunning, Time: at(2), Runner: "runner-a", Version: "v1.4.0", Lost: true},
		{Cursor: protocol.Cursor{Sequence: 5, Index: 9}, Kind: protocol.NoticeStepStarted, Time: at(2), Runner: "runner-a", Step: step, Branch: "1.2/",
			Config: &protocol.StepConfig{Retries: 3}},
		{Cursor: protocol.Cursor{Sequence: 5}, Kind: protocol.NoticeAttemptFailed, Time: at(3), Step: step, Attempt: 1, Error: failure(), Until: new(at(4))},
		{Cursor: protocol.Cursor{Sequence: 8}, Kind: protocol.NoticeStepCompleted, Time: at(5), Step: step, Object: object("result")},
		{Cursor: protocol.Cursor{Sequence: 9}, Kind: protocol.NoticeWaitStarted, Time: at(6), Type: "paid"},
		{Cursor: protocol.Cursor{Sequence: 10}, Kind: protocol.NoticeCallStarted, Time: at(7), Callee: &protocol.Callee{Project: "mail", Workflow: "w", ID: "c"}},
		{Cursor: protocol.Cursor{Sequence: 22}, Kind: protocol.NoticeHeld, Time: at(8), Divergence: divergence()},
		{Cursor: protocol.Cursor{Sequence: 23, Index: 9}, Kind: protocol.NoticeCleaned, Time: at(9), State: protocol.StateWaiting},
	}}
	all := protocol.Notices{Runner: "runner-a", Incarnation: 4}
	known := slices.Index(protocol.NoticeKinds(), protocol.NoticeProgress) // later kinds have a row of their own
	for i, kind := range protocol.NoticeKinds()[:known] {
		all.Notices = append(all.Notices, protocol.Notice{Cursor: protocol.Cursor{Sequence: uint64(i + 5)}, Kind: kind, Time: at(1)})
	}
	return []golden{
		{"ask.follow", protocol.Ask{V: 1, Workflow: "booking", ID: "u-7", Follow: &protocol.Following{
			Incarnation: 4, After: protocol.Cursor{Sequence: 8, Index: 9}, Wait: protocol.Duration(5 * time.Second),
			Kinds: []protocol.NoticeKind{protocol.NoticeCompleted, protocol.NoticeErrored},
		}}},
		{"answer.notices", protocol.Answer{V: 1, Notices: &full}},
		{"answer.notice-kinds", protocol.Answer{V: 1, Notices: &all}},
	}
}
