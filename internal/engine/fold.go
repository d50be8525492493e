package engine

import (
	"fmt"

	"github.com/skein-run/skein/pkg/protocol"
)

// Fold applies the messages of a log to a history. The history of a snapshot that is in an object is fetched only if no
// newer snapshot follows: the objects of those that are superseded may be gone.
type Fold struct {
	History *History

	since []message // the newest snapshot, if its history is in an object, and what came after it
}

// message is one of a log.
type message struct {
	sequence uint64
	append   *protocol.Append
}

// Add takes the next message, stored at sequence.
func (f *Fold) Add(sequence uint64, a *protocol.Append) error {
	if s := SnapshotOf(a); s != nil && a.Incarnation == f.History.Incarnation && Readable(a) == nil {
		if f.since = nil; s.Object != nil {
			f.since = []message{{sequence, a}}
			return nil
		}
	}
	if f.since != nil {
		f.since = append(f.since, message{sequence, a})
		return nil
	}
	return f.History.Apply(sequence, a)
}

// End applies what waits for the history of a snapshot. Fetch puts that in its place (PutIn).
func (f *Fold) End(fetch func(*protocol.Snapshot) error) error {
	since := f.since
	f.since = nil
	for i, m := range since {
		if i == 0 {
			if err := fetch(SnapshotOf(m.append)); err != nil {
				return fmt.Errorf("log entry %d: %w", m.sequence, err)
			}
		}
		if err := f.History.Apply(m.sequence, m.append); err != nil {
			return err
		}
	}
	return nil
}
