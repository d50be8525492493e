package protocol_test

import "github.com/skein-run/skein/pkg/protocol"

// callGoldens are the messages of a call of another workflow, and of races.
func callGoldens() []golden {
	call := &protocol.Key{Op: protocol.OpCall, Name: "book it", Count: 2}
	callee := protocol.Callee{Project: "mail", Shard: 1, Workflow: "booking", ID: "u-7"}
	known := callee
	known.Incarnation = 44
	return append(raceGoldens(), []golden{
		{"append.calling", protocol.Append{
			V: protocol.Version, ID: "ap-3", Incarnation: 31, Holder: protocol.Wake{Stream: "WORKFLOWS_trips", Sequence: 31}, Runner: "runner-a",
			Time: at(4), Entries: []protocol.Entry{
				{Kind: protocol.EntryStarted, Step: call, Callee: &callee, Until: new(at(40))},
				{Kind: protocol.EntryWaiting, Step: call, Type: parent().Call, Callee: &known, Until: new(at(40))},
			},
		}},
	}...)
}
