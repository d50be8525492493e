package protocol_test

import (
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// overlapGoldens are the messages of schedules with a policy for moments that come while earlier ones are not done.
func overlapGoldens() []golden {
	var all []golden
	for _, overlap := range protocol.Overlaps() {
		row := protocol.Schedule{
			ID: "s", Class: "Desk", Name: "a", Life: 1, Kind: protocol.ScheduleInterval, Interval: protocol.Duration(time.Hour),
			Overlap: overlap, Callback: "C", Created: at(1),
		}
		row.SetVersion()
		all = append(all, golden{"schedule.overlap." + string(overlap), row})
	}
	return append(all,
		golden{"tick.skipped", protocol.Tick{
			V: protocol.Version, Revision: 11, Definition: "0123456789abcdef", Planned: at(5),
			Progress: &protocol.Progress{
				Runs: 3, Skipped: 2, LastSkipped: new(at(4)), Last: new(at(3)), Previous: new(at(2)), Mail: 41,
			},
		}},
		golden{"tick.waits", protocol.Tick{
			V: protocol.Version, Revision: 11, Definition: "0123456789abcdef", Bounds: "fedcba9876543210", Planned: at(5), Since: new(at(6)),
			Progress: &protocol.Progress{Runs: 3, Last: new(at(4))},
		}},
		golden{"mail.cancels", protocol.Mail{
			V: 1, Source: protocol.ScheduleSource("s"), Number: 1795357205000, Life: 1, Callback: "C", Planned: new(at(5)), Sent: at(6),
			Overlap: protocol.OverlapCancelRunning,
		}},
		golden{"mail.alone", protocol.Mail{
			V: 1, Source: protocol.AloneSource("s", 3), Key: protocol.AloneKey("s", at(5)), Life: 1, Schedule: "s", Callback: "C",
			Planned: new(at(5)), Sent: at(6), Overlap: protocol.OverlapAllowAll,
		}},
	)
}
