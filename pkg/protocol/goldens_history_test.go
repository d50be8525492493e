package protocol_test

import (
	"encoding/json"

	"github.com/skein-run/skein/pkg/protocol"
)

// historyGoldens are exported histories with values that are too large for messages.
func historyGoldens() []golden {
	return []golden{
		{"history.large", protocol.History{
			V: 1, Project: "mail", Sequence: 4,
			Create: protocol.Create{V: 1, Input: "in-1", Workflow: "booking", ID: "u-7", ParamsObject: object("params"), Created: at(1)},
			Log:    []protocol.LoggedAppend{},
			Objects: map[string]json.RawMessage{
				object("params").Name: json.RawMessage(`{"flight":"LH 1"}`),
			},
		}},
		{"history.shard", protocol.History{
			V: 1, Project: "mail", Shard: 3, Sequence: 4,
			Create: protocol.Create{V: 1, Input: "in-1", Workflow: "booking", ID: "u-7", Created: at(1)},
			Log:    []protocol.LoggedAppend{},
		}},
	}
}
