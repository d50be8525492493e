package protocol

import "time"

// Limits that an operator may set per workflow, with the defaults of what is not set. The defaults are those of
// Cloudflare Workflows.
const (
	// DefaultStepLimit is how many steps an instance may have; sleeps and waits are not counted.
	DefaultStepLimit = 10_000
	MaxStepLimit     = 100_000
	// DefaultStateLimit is how many bytes the results of an instance's steps, the events that it took and what else its
	// code was given may have together, as JSON.
	DefaultStateLimit = 1 << 30
	MinStateLimit     = 1 << 20
	MaxStateLimit     = 1 << 40
	// DefaultRetention is how long an instance can be read after its end, however it ended.
	DefaultRetention = 30 * 24 * time.Hour
	MaxRetention     = 365 * 24 * time.Hour
	// MaxConcurrency bounds the limit on instances of a workflow that run at a time: their holders stand in one row.
	MaxConcurrency = 1000
)

// MaxWaiting is how many messages of one project may wait in the inbox of an agent.
const MaxWaiting = 10_000

// Bounds of a schedule.
const (
	MinInterval = time.Second
	MaxInterval = 365 * 24 * time.Hour
	// MaxTimes is the most firings to which a schedule can be limited, MaxCatchUp the most that can be caught up.
	MaxTimes   = 1_000_000
	MaxCatchUp = 1000
	// MaxNote is the most bytes of the note of a pause.
	MaxNote = 1024
)

// ScheduleVersion is the newest version of the rows of schedules: that of those that were updated. Before it came that of
// bounds, pauses and workflows.
const (
	ScheduleVersion       = 3
	scheduleVersionBounds = 2
)

// MaxBatch is how many instances one call can create, terminate or delete.
const MaxBatch = 100
