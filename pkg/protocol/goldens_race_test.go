package protocol_test

import (
	"encoding/json"

	"github.com/skein-run/skein/pkg/protocol"
)

// raceGoldens are the messages about a race, about a group that failed, and about code that contradicts how one ended.
func raceGoldens() []golden {
	race := protocol.Key{Op: protocol.OpRace, Name: "first answer", Count: 1}
	nap := protocol.Key{Op: protocol.OpSleep, Name: "a day", Count: 1}
	answer := protocol.Key{Op: protocol.OpEvent, Name: "answer", Count: 1}
	extra := protocol.Key{Op: protocol.OpDo, Name: "thank", Count: 1}
	held := protocol.Divergence{Recorded: []protocol.Key{race}, Called: &extra, Branch: "1.1/", Decided: true}
	return []golden{
		{"append.race", protocol.Append{
			V: protocol.Version, ID: "ap-5", Incarnation: 31, Holder: protocol.Wake{Stream: "WORKFLOWS_trips", Sequence: 31}, Runner: "runner-a",
			Time: at(4), Entries: []protocol.Entry{
				{Kind: protocol.EntryStarted, Step: &race, Within: "1."},
				{Kind: protocol.EntryWaiting, Step: &nap, Until: new(at(40)), Branch: "1.2/"},
				{Kind: protocol.EntryReceived, Step: &answer, Type: "answer", Input: 35, InputID: "in-2", Sent: new(at(3)), Branch: "1.1/"},
				{Kind: protocol.EntryStepCompleted, Step: &race, Result: json.RawMessage(`"yes"`), Winner: new(0), GivenUp: []protocol.Key{nap}},
				{Kind: protocol.EntryHeld, Divergence: &held},
			},
		}},
		{"append.group", protocol.Append{
			V: protocol.Version, ID: "ap-6", Incarnation: 31, Holder: protocol.Wake{Stream: "WORKFLOWS_trips", Sequence: 31}, Runner: "runner-a",
			Time: at(4), Entries: []protocol.Entry{
				{Kind: protocol.EntryWaiting, Step: &nap, Until: new(at(40)), Branch: "1.2/"},
				{Kind: protocol.EntryGroupFailed, Step: &protocol.Key{Op: protocol.OpGroup, Name: "1.", Count: 1}, Winner: new(0), Error: &protocol.Failure{Name: "Error", Message: "sold out"}},
			},
		}},
		{"append.given-up", protocol.Append{
			V: protocol.Version, ID: "ap-7", Incarnation: 31, Holder: protocol.Wake{Stream: "WORKFLOWS_trips", Sequence: 31}, Runner: "runner-a",
			Time: at(4), Entries: []protocol.Entry{
				{Kind: protocol.EntryGivenUp, Step: &answer, Error: &protocol.Failure{Name: "TimeoutError", Message: "context deadline exceeded"}},
			},
		}},
		{"answer.race-notice", protocol.Answer{V: protocol.Version, Notices: &protocol.Notices{Runner: "runner-a", Incarnation: 31, Notices: []protocol.Notice{
			{Cursor: protocol.Cursor{Sequence: 36}, Kind: protocol.NoticeRaceDecided, Time: at(4), Runner: "runner-a", Step: &race,
				Value: json.RawMessage(`"yes"`), Winner: new(0), GivenUp: []protocol.Key{nap}},
		}}}},
		{"answer.race", protocol.Answer{V: protocol.Version, Status: &protocol.Status{
			Workflow: "booking", ID: "u-7", State: protocol.StateHeld, Created: at(1), Divergence: &held, Steps: []protocol.StepStatus{
				{Key: race, State: "completed", Output: json.RawMessage(`"yes"`), Winner: new(0), Within: "1."},
				{Key: nap, State: "canceled", Branch: "1.2/"},
				{Key: answer, State: "completed", Type: "answer", Branch: "1.1/"},
			},
		}}},
	}
}
