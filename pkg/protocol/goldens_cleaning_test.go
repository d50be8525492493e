package protocol_test

import "github.com/skein-run/skein/pkg/protocol"

// cleaningGoldens are the messages that log cleaning brought.
func cleaningGoldens() []golden {
	return []golden{
		{"control.asked-by-janitor", protocol.Control{
			V: 1, Input: "in-9", Action: protocol.ActionCompact, Sent: at(60), Incarnation: 4, Source: protocol.Source{Kind: "janitor"},
		}},
		{"janitor.held", protocol.Janitor{V: 1, ID: "j-1", Owner: "scheduler-1", Until: at(60), Held: "the create of instance trips/booking/u-7 is not acknowledged"}},
		{"janitor.full", protocol.Janitor{V: 1, ID: "j-1", Owner: "scheduler-1", Until: at(60)}},
	}
}
