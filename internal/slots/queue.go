package slots

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// near is how many of those that were queued first are compared. Runners queue what they get side by side, so the order
// of the keys is not that of creation: it is off by what the runners of a project have in hand together, or by more while
// one of them is slow.
const near = 4096

// Queue is what a runner knows of the queue of a workflow. A key never changes, so what was read once is known until it
// is gone: to hand on a slot takes a few reads, however long the queue is.
type Queue struct {
	mu sync.Mutex
	// known are the first that wait, by subject, and some that do no more.
	known map[string]*waiting
	// next is the sequence from which on keys are not known.
	next uint64
}

// waiting is an instance in the queue, and where its key is stored.
type waiting struct {
	protocol.SlotWait
	subject  string
	sequence uint64
	// void is a marker of a key that somebody deleted.
	void bool
}

func (w *waiting) instance(s Slots) protocol.Instance {
	return protocol.Instance{Project: s.Project, Shard: w.Shard, Workflow: s.Workflow, ID: w.ID}
}

// oldest is the instance in the queue that was created first; nil if none waits.
func (q *Queue) oldest(ctx context.Context, s Slots) (*waiting, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if err := q.read(ctx, s); err != nil {
			return nil, err
		}
		first := q.first()
		if first == nil {
			return nil, nil
		}
		if there, err := q.there(ctx, s, first); there || err != nil {
			return first, err
		}
	}
}

// first is the one that was created first of those that are known. In a shard that is the one with the lowest incarnation; of the
// first of all shards, the one whose creator's clock showed the earliest time.
func (q *Queue) first() *waiting {
	ofShard := map[int]*waiting{}
	for _, w := range q.known {
		if there := ofShard[w.Shard]; !w.void && (there == nil || w.Incarnation < there.Incarnation) {
			ofShard[w.Shard] = w
		}
	}
	var first *waiting
	for _, w := range ofShard {
		if first == nil || cmp.Or(w.Created.Compare(first.Created), cmp.Compare(w.sequence, first.sequence)) < 0 {
			first = w
		}
	}
	return first
}

// granted is an instance in the queue that has a slot already; nil if there is none.
func (q *Queue) granted(ctx context.Context, s Slots, holders []protocol.SlotHolder) (*waiting, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.read(ctx, s); err != nil || len(q.known) == 0 {
		return nil, err
	}
	for _, h := range holders {
		i := protocol.Instance{Project: s.Project, Shard: h.Shard, Workflow: s.Workflow, ID: h.ID}
		w := q.known[s.subject(protocol.SlotWaitKey(i))]
		if w == nil || w.void || w.Incarnation != h.Incarnation {
			continue
		}
		if there, err := q.there(ctx, s, w); there || err != nil {
			return w, err
		}
	}
	return nil, nil
}

// there asks whether an instance is queued still, and forgets it if it is not.
func (q *Queue) there(ctx context.Context, s Slots, w *waiting) (bool, error) {
	m, err := s.Store.Last(ctx, s.stream(), w.subject)
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		return false, err
	}
	if err == nil && m.Sequence == w.sequence {
		return true, nil
	}
	delete(q.known, w.subject)
	return false, nil
}

// forget drops what has left the queue.
func (q *Queue) forget(w *waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known[w.subject] == w {
		delete(q.known, w.subject)
	}
}

// read takes in the keys that came since, up to the bound.
func (q *Queue) read(ctx context.Context, s Slots) error {
	first, err := s.next(ctx, 1)
	if err != nil {
		return err
	}
	if first == nil || q.known == nil || first.Sequence < q.next && !q.knows(first) { // empty, or a server has lost what it had
		q.known, q.next = map[string]*waiting{}, 1
	}
	if first == nil {
		return nil
	}
	maps.DeleteFunc(q.known, func(_ string, w *waiting) bool { return w.sequence < first.Sequence })
	for len(q.known) < near {
		// The leader says whether there is more: a replica may not have it yet.
		m, err := s.next(ctx, q.next)
		if m == nil || err != nil {
			return err
		}
		q.add(m)
		page, _, err := s.Store.Page(ctx, s.stream(), s.subject(protocol.SlotWaitKeys(s.Workflow)), q.next, near)
		if err != nil {
			return fmt.Errorf("instances of %q that wait for a slot: %w", s.Workflow, err)
		}
		for _, m := range page {
			q.add(&m)
		}
	}
	return nil
}

func (q *Queue) knows(m *journal.Message) bool {
	w := q.known[m.Subject]
	return w != nil && w.sequence == m.Sequence
}

func (q *Queue) add(m *journal.Message) {
	w := &waiting{subject: m.Subject, sequence: m.Sequence}
	w.void = len(m.Data) == 0 || json.Unmarshal(m.Data, &w.SlotWait) != nil
	q.known[m.Subject], q.next = w, m.Sequence+1
}

// next reads the first key from a sequence on; nil if there is none.
func (s Slots) next(ctx context.Context, from uint64) (*journal.Message, error) {
	m, err := s.Store.NextFromLeader(ctx, s.stream(), s.subject(protocol.SlotWaitKeys(s.Workflow)), from)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("instances of %q that wait for a slot: %w", s.Workflow, err)
	}
	return m, nil
}
