package protocol

import "time"

// Project is the row of a project in the registry. It is merged by its processes: a runner writes the workflows, an
// agent host the classes; nothing is ever taken out of it by a start.
type Project struct {
	V    int    `json:"v"`
	Name string `json:"name"`
	// Shards is fixed when the project is first registered.
	Shards    int                        `json:"shards"`
	Workflows map[string]RegisteredClass `json:"workflows,omitempty"`
	Agents    map[string]RegisteredClass `json:"agents,omitempty"`
	// Schedules is set once a runner has made SchedulesBucket, for the schedules of workflows. Agent hosts always make it.
	Schedules bool      `json:"schedules,omitempty"`
	Updated   time.Time `json:"updated"`
	// Doors is what other projects, in accounts of their own, have told this one at their doors.
	Doors map[string]KnownDoor `json:"doors,omitempty"`
}

// KnownDoor is what a project was told at the door of another: workflows with their classes, and classes of agents.
type KnownDoor struct {
	Workflows map[string]string `json:"workflows,omitempty"`
	Agents    []string          `json:"agents,omitempty"`
	// Told is when that was said for the first time.
	Told time.Time `json:"told"`
}

// RegisteredClass says which Go definition serves a name.
type RegisteredClass struct {
	Class      string    `json:"class"`
	Registered time.Time `json:"registered"`
}

// Host is the lease of one agent host.
type Host struct {
	V  int    `json:"v"`
	ID string `json:"id"`
	// Beat counts renewals. Whoever sees no change while renewing its own lease five times holds the host for gone.
	Beat    uint64    `json:"beat"`
	Renewed time.Time `json:"renewed"`
	// Doubted names the host that declared this one gone: the next renewal is refused.
	Doubted string `json:"doubted,omitempty"`
}

// DoorOf is what another project has told; ok is false if it has told nothing, or p is nil.
func (p *Project) DoorOf(project string) (known KnownDoor, ok bool) {
	if p == nil {
		return known, false
	}
	known, ok = p.Doors[project]
	return known, ok
}
