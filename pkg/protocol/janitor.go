package protocol

import "time"

// Janitor is the row of a project in BucketJanitors: which scheduler cleans up after it. It only saves work: two that
// clean at the same time do no harm.
type Janitor struct {
	V int `json:"v"`
	// ID is chosen once per write: whoever does not know whether it was stored compares it.
	ID    string    `json:"id"`
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
	// Held says which message holds up the cleaning for long, in words; empty if none does.
	Held string `json:"held,omitempty"`
}
