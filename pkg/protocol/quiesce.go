package protocol

import "time"

// Quiesce asks the processes of a project to write no record of an agent, and no post, for a while: a backup looks for a moment
// at which none is written. It is sent to QuiesceSubject and not answered.
type Quiesce struct {
	V int `json:"v"`
	// Milliseconds are for how long. More than MaxQuiesce counts as that.
	Milliseconds int64 `json:"ms"`
}

// MaxQuiesce is for how long at most anything is held up at a time. What was held up for so long goes on for half as long, at least,
// before it is held up again.
const MaxQuiesce = 2 * time.Second

// QuiesceSubject is listened to by all hosts and runners of a project.
func QuiesceSubject(project string) string { return "quiesce." + project }
