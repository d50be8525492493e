package protocol_test

import (
	"encoding/json"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// inboxGoldens are the messages of mail that is tried again, or given up.
func inboxGoldens() []golden {
	retry := &protocol.Retry{MaxAttempts: 5, BaseDelay: protocol.Duration(time.Second), MaxDelay: protocol.Duration(time.Minute)}
	return []golden{
		{"record.parked", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7),
			Parked: []protocol.Parked{{Sequence: 41, Attempts: 2, NotBefore: at(9)}},
		}},
		{"schedule.interval", protocol.Schedule{
			V: protocol.Version, ID: "s", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleInterval,
			Interval: protocol.Duration(90 * time.Minute), Callback: "C", Created: at(1),
		}},
		{"schedule.bounded", protocol.Schedule{
			V: 2, ID: "s", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleCron, Lines: []string{"@daily", "0 9 * * 1-5"},
			From: new(at(2)), Until: new(at(50)), Times: 3, Jitter: protocol.Duration(time.Minute), CatchUp: new(0), Callback: "C", Created: at(1),
		}},
		{"schedule.paused", protocol.Schedule{
			V: 2, ID: "s", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleInterval, Interval: protocol.Duration(time.Hour),
			Paused: &protocol.Pause{Since: at(7), Note: "the shop is closed"}, Resumed: new(at(4)), Callback: "C", Created: at(1),
		}},
		{"schedule.updated", protocol.Schedule{
			V: protocol.ScheduleVersion, ID: "cron-1", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleCron, Cron: "0 9 * * *",
			Callback: "C", Created: at(1), Updated: new(at(5)), Origin: "0123456789abcdef", Moved: new(at(5)),
		}},
		{"tick.parked", protocol.Tick{V: protocol.Version, Revision: 11, Definition: "0123456789abcdef", Planned: at(5), Parked: true}},
		{"schedule.workflow", protocol.Schedule{
			V: 2, ID: protocol.CronID("0 9 * * 1-5", "Europe/Oslo"), Class: protocol.ClassCron, Name: "digest", Kind: protocol.ScheduleCron,
			Cron: "0 9 * * 1-5", Zone: "Europe/Oslo", Payload: json.RawMessage(`{"to":"all"}`), Created: at(1), Workflow: "digest", Updated: new(at(3)),
		}},
		{"tick.over", protocol.Tick{
			V: protocol.Version, Revision: 11, Definition: "0123456789abcdef", Bounds: "fedcba9876543210", Planned: at(4), Parked: true, Over: true,
			Progress: &protocol.Progress{Runs: 3, Last: new(at(4))},
		}},
		{"create.scheduled", protocol.Create{
			V: protocol.Version, Input: protocol.CronInput("cron-0123456789ab", at(5)), Workflow: "digest", ID: protocol.CronInstance("cron-0123456789ab", at(5)),
			Created: at(6), Source: protocol.Source{Kind: "cron", Project: "shop", Class: "digest", Name: "cron-0123456789ab"},
			Schedule: &protocol.Firing{Cron: "0 9 * * 1-5", Zone: "Europe/Oslo", Planned: at(5)},
		}},
		{"project.schedules", protocol.Project{V: protocol.Version, Name: "shop", Shards: 1, Schedules: true, Updated: at(6)}},
		{"tick.progress", protocol.Tick{
			V: protocol.Version, Revision: 11, Definition: "0123456789abcdef", Planned: at(5),
			Progress: &protocol.Progress{Runs: 3, Missed: 2, CaughtUp: 1, Last: new(at(4))},
		}},
		{"mail.triggered", protocol.Mail{
			V: 1, Source: protocol.KeySource("k-1"), Key: "k-1", Life: 1, Schedule: "s", Callback: "C", Planned: new(at(5)), Sent: at(5),
		}},
		{"mail.last", protocol.Mail{
			V: 1, Source: protocol.ScheduleSource("s"), Number: 1795357205000, Life: 1, Callback: "C", Planned: new(at(5)), Sent: at(6), Last: true,
		}},
		{"mail.last-of-bounds", protocol.Mail{
			V: 1, Source: protocol.ScheduleSource("s"), Number: 1795357205000, Life: 1, Callback: "C", Planned: new(at(5)), Sent: at(6), Last: true,
			Bounds: "fedcba9876543210",
		}},
		{"schedule.retry", protocol.Schedule{
			V: protocol.Version, ID: "s", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleDelay, At: new(at(4)), Callback: "C",
			Payload: json.RawMessage(`1`), Retry: retry, Created: at(1),
		}},
		{"record.aged", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7), Seen: map[string]uint64{protocol.SourceQueue: 4},
			Aged: map[string]uint64{desk().TellSource(3): 131073}, AgedSince: new(at(2)),
		}},
		{"mail.keep", protocol.Mail{V: 1, Source: protocol.KeySource("order-7"), Key: "order-7", Keep: true, Callback: "Add", Sent: at(6)}},
		{"record.redriven", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7),
			Outbox: []protocol.Outgoing{{ID: protocol.OutgoingID(3, 4, 1), Kind: protocol.OutgoingDropDead, DropDead: protocol.OutgoingID(3, 2, 1)}},
		}},
		{"dead-letter.cut", protocol.DeadLetter{
			V: protocol.Version, Class: "Desk", Name: "a", From: "mail", Attempts: 3, Error: failure(), Time: at(8), Cut: true,
			Mail: protocol.Mail{V: 1, Source: "tell", Number: 1, Callback: "C", Sent: at(6)},
		}},
		{"record.queue", protocol.Record{
			V: protocol.Version, Class: "Desk", Name: "a", Commit: "co-1", Updated: at(7), Seen: map[string]uint64{protocol.SourceQueue: 4},
			Queue: &protocol.Queue{Last: 9, Cancelled: []uint64{6, 8}},
			Outbox: []protocol.Outgoing{{ID: protocol.OutgoingID(3, 4, 1), Kind: protocol.OutgoingQueue, Queued: &protocol.Mail{
				V: protocol.Version, ID: protocol.OutgoingID(3, 4, 1), Source: protocol.SourceQueue, Number: 9, Life: 3, Callback: "C", Sent: at(6),
			}}},
		}},
		{"mail.redrive", protocol.Mail{V: protocol.Version, Source: protocol.RedriveSource(protocol.OutgoingID(3, 2, 1)), Number: 17, Sent: at(6)}},
		{"mail.retry", protocol.Mail{V: protocol.Version, Source: "tell", Number: 1, Callback: "C", Retry: retry, Sent: at(6)}},
	}
}
