package janitor

import "time"

// segment is a part of a stream, from a sequence to another, and what cleaning it would leave to be stored again.
type segment struct {
	from, to uint64
	messages int
	size     int64 // what it takes now
	stays    int64 // what of it is needed, and nobody knows until when
	deaths   []death
	// full is set if the next message did not fit in.
	full bool
	// weighed is when all this was found out.
	weighed time.Time
}

// death is what is needed until a moment.
type death struct {
	at   time.Time
	size int64
}

// needed is what of the segment must be stored again if it is cleaned now.
func (s segment) needed(now time.Time) int64 {
	n := s.stays
	for _, d := range s.deaths {
		if d.at.After(now) {
			n += d.size
		}
	}
	return n
}

// add notes that something is needed until a moment, which is remembered as exactly as a step; nil: nobody knows.
func (s *segment) add(size int64, until *time.Time, step time.Duration) {
	if until == nil {
		s.stays += size
		return
	}
	at := until.Truncate(step)
	if at.Before(*until) {
		at = at.Add(step)
	}
	for i := range s.deaths {
		if s.deaths[i].at.Equal(at) {
			s.deaths[i].size += size
			return
		}
	}
	s.deaths = append(s.deaths, death{at, size})
}

// worth tells how many segments, from the first on, are to be cleaned now. A stretch of them is if at least a share of
// it goes for good: then one byte is stored again, at most, for each that goes with a share of a half, and what is left
// in the end is, at most, twice as much as what is needed of it. What is needed does not hold up what is behind it.
// Whoever stops in the middle of a stretch finds the rest worth it: less is lost on the whole than on any beginning of it.
func worth(segments []segment, now time.Time, share float64) int {
	clean := 0
	var size, needed int64
	for i, s := range segments {
		size, needed = size+s.size, needed+s.needed(now)
		if float64(size-needed) >= share*float64(size) {
			clean, size, needed = i+1, 0, 0
		}
	}
	return clean
}
