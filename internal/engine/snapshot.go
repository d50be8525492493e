package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// folded is a History as a snapshot holds it. It is stored: fields are only added.
type folded struct {
	Steps        []*Step            `json:"steps,omitempty"`
	Runs         []Run              `json:"runs,omitempty"`
	Inputs       []Input            `json:"inputs,omitempty"`
	Consumed     []uint64           `json:"consumed,omitempty"`
	ConsumedIDs  []string           `json:"consumed_ids,omitempty"`
	Obeyed       []string           `json:"obeyed,omitempty"`
	EventsFrom   uint64             `json:"events_from,omitempty"`
	End          protocol.EntryKind `json:"end,omitempty"`
	Output       json.RawMessage    `json:"output,omitempty"`
	OutputObject *protocol.Object   `json:"output_object,omitempty"`
	Failure      *protocol.Failure  `json:"failure,omitempty"`
	Ended        time.Time          `json:"ended,omitzero"`
	EndedAt      uint64             `json:"ended_at,omitempty"`
	Expires      *time.Time         `json:"expires,omitempty"`
	Stopped      time.Time          `json:"stopped,omitzero"`
	StoppedAt    uint64             `json:"stopped_at,omitempty"`
	Held         *protocol.Entry    `json:"held,omitempty"`
	Rolling      *protocol.Entry    `json:"rolling,omitempty"`
	Rollback     *protocol.Rollback `json:"rollback,omitempty"`
	Released     bool               `json:"released,omitempty"`
	Unblamed     bool               `json:"unblamed,omitempty"`
	Hard         bool               `json:"hard,omitempty"`
	Outcomes     int                `json:"outcomes,omitempty"`
	Untold       []Call             `json:"untold,omitempty"`
}

// Snapshot is an entry that stands for the log up to the tail of h, with the inputs that h does not know to be void.
// Inputs are all events that the stream and earlier snapshots hold for the instance up to upTo. The append that stores
// it follows that tail, under the same holder, mark and epoch. A snapshot that follows another stands over the same
// entry: who executes meanwhile goes on over both (GoOn).
func (h *History) Snapshot(inputs []Input, upTo uint64) (protocol.Entry, error) {
	f := h.excerpt()
	f.Runs, f.Untold = h.Runs, h.Untold
	f.Consumed, f.ConsumedIDs = slices.Sorted(maps.Keys(h.Consumed)), slices.Sorted(maps.Keys(h.ConsumedIDs))
	f.Obeyed = slices.Sorted(maps.Keys(h.Obeyed))
	for _, k := range h.Order {
		f.Steps = append(f.Steps, h.Steps[k])
	}
	m := NewMachine(h)
	known := map[string]bool{}
	for _, in := range inputs {
		if in.Sequence <= upTo && !m.void(in, known) {
			known[in.ID] = true
			f.Inputs = append(f.Inputs, in)
		}
	}
	raw, err := json.Marshal(f)
	if err != nil {
		return protocol.Entry{}, fmt.Errorf("snapshot: %w", err)
	}
	return protocol.Entry{Kind: protocol.EntrySnapshot, Input: upTo, Snapshot: &protocol.Snapshot{
		Over: h.over(), Phase: h.Phase.String(), Park: h.Park, Waits: h.Waits, Until: h.Until, History: raw,
	}}, nil
}

// excerpt is what does not grow with the history.
func (h *History) excerpt() folded {
	return folded{
		Runs: h.Runs[max(0, len(h.Runs)-1):], EventsFrom: h.EventsFrom,
		End: h.End, Output: h.Output, OutputObject: h.OutputObject, Failure: h.Failure, Ended: h.Ended,
		EndedAt: h.EndedAt, Expires: h.Expires,
		Stopped: h.Stopped, StoppedAt: h.StoppedAt, Held: h.Held, Rolling: h.Rolling, Rollback: h.Rollback,
		Released: h.released, Unblamed: h.unblamed, Hard: h.hard, Outcomes: h.outcomes,
	}
}

// PutOut notes that the history of a snapshot of h is in an object. In its place stays what a glance needs of it.
func (h *History) PutOut(s *protocol.Snapshot, object *protocol.Object) (err error) {
	s.Object = object
	s.History, err = json.Marshal(h.excerpt())
	return err
}

// ErrSnapshot is returned for a snapshot whose history was not fetched.
var ErrSnapshot = errors.New("the history of the snapshot is in an object")

// SnapshotOf is the snapshot that a message of a log is, nil if it is none. If its Object is set, the history has to be
// fetched and put in place (PutIn) before the message is applied.
func SnapshotOf(a *protocol.Append) *protocol.Snapshot {
	if len(a.Entries) != 1 || a.Entries[0].Kind != protocol.EntrySnapshot {
		return nil
	}
	return a.Entries[0].Snapshot
}

// PutIn puts the history of a snapshot, fetched, in its place.
func PutIn(s *protocol.Snapshot, history json.RawMessage) { s.History, s.Object = history, nil }

// glimpse is a message of a log as it is without what is in an object.
func glimpse(a *protocol.Append) *protocol.Append {
	s := SnapshotOf(a)
	if s == nil || s.Object == nil {
		return a
	}
	seen, snapshot := *a, *s
	PutIn(&snapshot, s.History)
	seen.Entries = slices.Clone(a.Entries)
	seen.Entries[0].Snapshot = &snapshot
	return &seen
}

// over is the sequence of the newest message of the log that is no snapshot.
func (h *History) over() uint64 {
	if h.standsOver != nil {
		return *h.standsOver
	}
	return h.Tail
}

// GoOn reports whether an execution may go on whose append after the entry at expected was refused, because a, stored at
// sequence, came before it: if that is a snapshot over exactly that entry. Then the append is repeated after the
// snapshot, and h, which the execution began with, has the inputs that the stream may not hold any more as Carried.
func (h *History) GoOn(expected, sequence uint64, a *protocol.Append) (bool, error) {
	s := SnapshotOf(a)
	if s == nil || a.Incarnation != h.Incarnation || Readable(a) != nil {
		return false, nil
	}
	if expected == h.Tail { // that may be a snapshot, too
		expected = h.over()
	}
	if s.Over != expected || sequence <= expected {
		return false, nil
	}
	f, err := unfold(s)
	if err != nil {
		return false, fmt.Errorf("log entry %d: %w", sequence, err)
	}
	h.Tail, h.standsOver = sequence, new(s.Over)
	h.Carried, h.CarriedTo = f.Inputs, a.Entries[0].Input
	return true, nil
}

// restore takes over what a snapshot holds. What came before it may be cleaned away in part, so that nobody can tell
// whether h has read all of it.
func (h *History) restore(e *protocol.Entry) error {
	f, err := unfold(e.Snapshot)
	if err != nil {
		return err
	}
	h.standsOver = new(e.Snapshot.Over)
	h.Steps, h.Order, h.open, h.undone = map[protocol.Key]*Step{}, nil, nil, nil
	for _, step := range f.Steps {
		h.add(step)
		if step.isOpen() {
			h.open = append(h.open, step)
		}
	}
	h.Runs, h.Carried, h.CarriedTo, h.EventsFrom = f.Runs, f.Inputs, e.Input, f.EventsFrom
	h.Consumed, h.ConsumedIDs, h.Obeyed = set(f.Consumed), set(f.ConsumedIDs), set(f.Obeyed)
	h.End, h.Output, h.OutputObject, h.Failure = f.End, f.Output, f.OutputObject, f.Failure
	h.Ended, h.EndedAt, h.Expires = f.Ended, f.EndedAt, f.Expires
	h.Stopped, h.StoppedAt, h.Held, h.Rolling, h.Rollback = f.Stopped, f.StoppedAt, f.Held, f.Rolling, f.Rollback
	h.released, h.unblamed, h.hard, h.outcomes, h.Untold = f.Released, f.Unblamed, f.Hard, f.Outcomes, f.Untold
	return nil
}

func unfold(s *protocol.Snapshot) (f folded, err error) {
	if s == nil || s.Object != nil || len(s.History) == 0 {
		return f, ErrSnapshot
	}
	if err := json.Unmarshal(s.History, &f); err != nil {
		return f, fmt.Errorf("snapshot: %w", err)
	}
	return f, nil
}

func set[T comparable](all []T) map[T]bool {
	m := make(map[T]bool, len(all))
	for _, v := range all {
		m[v] = true
	}
	return m
}
