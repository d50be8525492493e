package protocol

import "time"

// Pause says since when a schedule does not fire, and why.
type Pause struct {
	Since time.Time `json:"since"`
	Note  string    `json:"note,omitempty"`
}

// Pause makes the row that of a schedule which does not fire. It reports whether that changes the row.
func (s *Schedule) Pause(now time.Time, note string) bool {
	if s.Paused != nil && s.Paused.Note == note {
		return false
	}
	pause := Pause{Since: now.UTC(), Note: note}
	if s.Paused != nil {
		pause.Since = s.Paused.Since
	}
	s.Paused = &pause
	s.SetVersion()
	return true
}

// Resume makes the row that of a schedule which fires again. It reports whether that changes the row.
func (s *Schedule) Resume(now time.Time) bool {
	if s.Paused == nil {
		return false
	}
	s.Paused, s.Resumed = nil, new(now.UTC())
	s.SetVersion()
	return true
}
