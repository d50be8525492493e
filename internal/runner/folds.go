package runner

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// foldsSize is how many bytes of logs a runner keeps folded, those used last.
	foldsSize = 64 << 20
	// worthKeeping is how many messages of a log are read again rather than kept.
	worthKeeping = 64
)

// Folds keep the logs of long-lived instances as they were read: whoever reads one of them again reads only what was
// appended since. A log never changes but at its end, so a fold of its beginning stays true. It is safe for concurrent
// use.
type Folds struct {
	limit, worth int

	mu      sync.Mutex // guards what follows
	size    int
	entries map[protocol.Instance]*list.Element
	order   list.List // of *kept, newest first
}

// kept is a log, folded up to its history's tail: the message with an id.
type kept struct {
	instance protocol.Instance
	history  *engine.History
	id       string
	messages int
	bytes    int
	sent     sent
}

// sent are the events that an instance was sent, as far as they were read, but those that a wait has taken, says the log
// up to its tail. A restart gives events back: they are true of no other epoch.
type sent struct {
	events []engine.Input
	to     uint64 // the newest that was read, with an id
	id     string
	bytes  int
	epoch  int
	tail   uint64
}

// NewFolds makes an empty one.
func NewFolds() *Folds {
	return &Folds{limit: foldsSize, worth: worthKeeping, entries: map[protocol.Instance]*list.Element{}}
}

// take gives away what is kept of an instance, for the caller to read on and to keep again; nil if there is nothing. What
// goes further than what the caller has seen is not true of that.
func (f *Folds) take(instance protocol.Instance, s sight) *kept {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[instance]
	if e == nil {
		return nil
	}
	k := f.drop(e)
	if k.history.Incarnation != s.created || k.history.Tail > s.tailAt {
		return nil
	}
	return k
}

// keep keeps what was read of a log, and returns the history for the caller to change. Of what has ended, or is short,
// nothing is gained.
func (f *Folds) keep(k *kept) *engine.History {
	if f == nil || k.messages < f.worth || k.bytes > f.limit || k.history.Phase == engine.Finished {
		return k.history
	}
	h := k.history.Clone()
	f.mu.Lock()
	defer f.mu.Unlock()
	if older := f.entries[k.instance]; older != nil {
		f.drop(older)
	}
	f.add(k)
	return h
}

// sent tells what an instance was sent, if that is kept. What is not there must be taken for the addressee, too: it is of
// no use for an older history, or one of another epoch.
func (f *Folds) sent(to addressee) sent {
	if f == nil {
		return sent{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.entries[to.instance]; e != nil {
		k := e.Value.(*kept)
		if k.history.Incarnation == to.incarnation && k.sent.epoch == to.epoch && k.sent.tail <= to.tail {
			return k.sent
		}
	}
	return sent{}
}

// keepSent keeps what an instance was sent, if its log is kept. All is there that no wait has taken, says what the
// addressee is of.
func (f *Folds) keepSent(to addressee, events []engine.Input) {
	if f == nil || len(events) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[to.instance]
	if e == nil {
		return
	}
	if h := e.Value.(*kept).history; h.Incarnation != to.incarnation || h.Epoch != to.epoch {
		return
	}
	k, newest := f.drop(e), events[len(events)-1]
	k.sent = sent{to: newest.Sequence, id: newest.ID, epoch: to.epoch, tail: max(to.tail, k.history.Tail)}
	for _, in := range events {
		if !k.history.Consumed[in.Sequence] {
			k.sent.events = append(k.sent.events, in)
			k.sent.bytes += len(in.Payload) + len(in.ID) + len(in.Type)
		}
	}
	f.add(k)
}

func (f *Folds) add(k *kept) {
	f.entries[k.instance] = f.order.PushFront(k)
	f.size += k.bytes + k.sent.bytes
	for f.size > f.limit {
		f.drop(f.order.Back())
	}
}

func (f *Folds) drop(e *list.Element) *kept {
	k := f.order.Remove(e).(*kept)
	delete(f.entries, k.instance)
	f.size -= k.bytes + k.sent.bytes
	return k
}

// errAnotherLog says that a log is not the one that was read before, as when the server has lost what it had acknowledged,
// or what was read is cleaned away.
var errAnotherLog = errors.New("not the log that was read before")

// readOn folds what a log holds beyond what is folded of it, at least up to the tail that s has seen. It begins with the
// last message that is folded: it must be the same still.
func (r Reader) readOn(ctx context.Context, k *kept, s sight) error {
	switch {
	case k == nil:
		return nil
	case k.id != "" && k.history.Tail == s.tailAt && k.id == s.tail.ID:
		return nil
	}
	known, folded := k.id != "", k.history.Tail
	f := engine.Fold{History: k.history}
	err := r.read(ctx, k.instance.Stream(), k.instance.LogSubject(), max(s.created, folded), s.tailAt, func(m *journal.Message) error {
		var a protocol.Append
		if err := json.Unmarshal(m.Data, &a); err != nil {
			return fmt.Errorf("entry %d: %w", m.Sequence, err)
		}
		if known {
			known = false
			if m.Sequence != folded || a.ID != k.id {
				return errAnotherLog
			}
			return nil
		}
		k.id, k.messages, k.bytes = a.ID, k.messages+1, k.bytes+len(m.Data)
		return f.Add(m.Sequence, &a)
	})
	if err != nil {
		return err
	}
	if known { // it holds nothing any more
		return errAnotherLog
	}
	return f.End(func(snapshot *protocol.Snapshot) error {
		k.bytes += int(snapshot.Object.Size)
		return r.fetchSnapshot(ctx, snapshot)
	})
}
