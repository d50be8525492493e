package protocol_test

import (
	"encoding/json"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// inboxGoldens are the messages of mail that is tried again.
func inboxGoldens() []golden {
	retry := &protocol.Retry{MaxAttempts: 5, BaseDelay: protocol.Duration(time.Second), MaxDelay: protocol.Duration(time.Minute)}
	return []golden{
		{"record.parked", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7),
			Parked: []protocol.Parked{{Sequence: 41, Attempts: 2, NotBefore: at(9)}},
		}},
		{"schedule.retry", protocol.Schedule{
			V: protocol.Version, ID: "s", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleDelay, At: new(at(4)), Callback: "C",
			Payload: json.RawMessage(`1`), Retry: retry, Created: at(1),
		}},
		{"mail.retry", protocol.Mail{V: protocol.Version, Source: "tell", Number: 1, Callback: "C", Retry: retry, Sent: at(6)}},
	}
}
