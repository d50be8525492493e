package protocol

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Made is a digest of the row as it was when its schedule was made. Schedulers know the schedule by it, however often
// it is paused, resumed and updated since. It is for the rows of agents: those of workflows are known by their key.
func (s *Schedule) Made() (string, error) {
	if s.Origin != "" {
		return s.Origin, nil
	}
	plain := *s
	plain.Paused, plain.Resumed = nil, nil
	plain.SetVersion()
	return plain.Digest()
}

// Bounds is a digest of what decides the moments of a schedule. The line and zone of one of a workflow never change.
func (s *Schedule) Bounds() (string, error) {
	bounds := Schedule{From: s.From, Until: s.Until, Times: s.Times, Jitter: s.Jitter}
	if s.Workflow == "" {
		bounds.Kind, bounds.At, bounds.Interval = s.Kind, s.At, s.Interval
		bounds.Cron, bounds.Lines, bounds.Zone = s.Cron, s.Lines, s.Zone
	}
	return bounds.Digest()
}

// Digest is one of the whole row.
func (s *Schedule) Digest() (string, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("digest of schedule %q: %w", s.ID, err)
	}
	return DigestRow(data), nil
}

// DigestRow is Digest of a row as it is stored.
func DigestRow(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// Update makes the row of an agent's schedule say what to says. It is still the same schedule. It reports whether that
// changes the row.
func (s *Schedule) Update(to Schedule, now time.Time) (bool, error) {
	to.Origin, to.Updated, to.Moved = s.Origin, s.Updated, s.Moved
	to.V = s.V
	before, err := json.Marshal(s)
	if err != nil {
		return false, fmt.Errorf("update schedule %q: %w", s.ID, err)
	}
	after, err := json.Marshal(to)
	if err != nil || bytes.Equal(before, after) {
		return false, err
	}
	if to.Origin, err = s.Made(); err != nil {
		return false, err
	}
	if now = now.UTC(); s.moves(&to) {
		to.Moved = &now
	}
	had, err := s.Bounds()
	if err != nil {
		return false, err
	}
	if has, err := to.Bounds(); err != nil {
		return false, err
	} else if has != had {
		to.Updated = &now
	}
	to.SetVersion()
	*s = to
	return true, nil
}

// moves reports whether an update puts other moments in the place of those of a schedule that recurs, more than it bounds
// them.
func (s *Schedule) moves(to *Schedule) bool {
	if s.Kind == ScheduleInterval && to.Kind == ScheduleInterval && !equal(s.From, to.From) {
		return true // they count from there
	}
	return s.Kind.Recurs() && (s.Kind != to.Kind || s.Cron != to.Cron || !slices.Equal(s.Lines, to.Lines) || s.Zone != to.Zone || s.Interval != to.Interval)
}

func equal(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}
