package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// The queue of an agent is mail to itself: one lane, so one item after the other, in order. The record only says which
// numbers were given out, which are done and which were taken out. So a long queue makes no long record.

// QueueItem is a callback that waits in the queue of an agent.
type QueueItem struct {
	// ID is what Dequeue takes.
	ID       string          `json:"id"`
	Callback string          `json:"callback"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	Created  time.Time       `json:"created"`

	number uint64
}

// QueueOption is an option of Queue.
type QueueOption interface{ applyQueue(*queueOptions) }

type queueOptions struct{ retry Retry }

func (r Retry) applyQueue(o *queueOptions) { o.retry = r }

// QueueError says which part of a queue item cannot be used.
type QueueError struct {
	// Field is "payload" or "callback".
	Field  string
	Value  string
	Reason string
}

func (e *QueueError) Error() string {
	return fmt.Sprintf("queue: %s %s: %s", e.Field, e.Value, e.Reason)
}

// FailureName is how the error is called where it is stored or answered.
func (e *QueueError) FailureName() string { return "QueueError" }

// Queue calls the callback with the payload in a turn of its own, as soon as all that was queued before is done. The
// callback is a method value of the agent, as with Schedule. An item that fails is tried again, and holds up those behind
// it, until its Retry gives it up: then it is among the dead letters.
//
// The item is queued when the turn is stored. At most 10,000 can wait.
func Queue[P any](ctx context.Context, callback func(context.Context, P) error, payload P, options ...QueueOption) (QueueItem, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return QueueItem{}, err
	}
	var o queueOptions
	for _, option := range options {
		option.applyQueue(&o)
	}
	if err := o.retry.check(d.class.retry); err != nil {
		return QueueItem{}, err
	}
	name, err := d.class.callbackName(callback, reflect.TypeFor[P]())
	if err != nil {
		return QueueItem{}, err
	}
	raw, err := json.Marshal(payload)
	if err != nil {
		return QueueItem{}, &QueueError{Field: "payload", Value: fmt.Sprintf("of type %T", payload), Reason: err.Error()}
	}
	if len(raw) > protocol.MaxPayload {
		return QueueItem{}, &QueueError{Field: "payload", Value: fmt.Sprintf("of type %T", payload),
			Reason: fmt.Sprintf("is %d bytes long as JSON, at most %d are allowed", len(raw), protocol.MaxPayload)}
	}
	mail := protocol.Mail{
		V: protocol.Version, Source: protocol.SourceQueue, Life: d.stored.Life, Callback: name, Payload: raw,
		Retry: o.retry.stored(), Sent: time.Now().UTC(),
	}
	if err := d.enqueue(&mail); err != nil {
		return QueueItem{}, err
	}
	return itemOf(&mail), nil
}

// ListQueue returns what waits in the agent's queue, the turn's own changes among it, in order. An item is in it until it
// is done: also while its callback runs.
func ListQueue(ctx context.Context) ([]QueueItem, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return nil, err
	}
	return d.queued(ctx)
}

// Dequeue takes an item out of the queue when the turn is stored. It reports whether it was there. One whose callback runs
// at this moment is not stopped.
func Dequeue(ctx context.Context, id string) (bool, error) {
	n, err := dequeue(ctx, func(i QueueItem) bool { return i.ID == id })
	return n > 0, err
}

// DequeueAll empties the queue when the turn is stored, and returns how many items were in it.
func DequeueAll(ctx context.Context) (int, error) {
	return dequeue(ctx, func(QueueItem) bool { return true })
}

// DequeueCallback takes out of the queue, when the turn is stored, what would call a callback, and returns how much that
// was.
func DequeueCallback[P any](ctx context.Context, callback func(context.Context, P) error) (int, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return 0, err
	}
	name, err := d.class.callbackName(callback, reflect.TypeFor[P]())
	if err != nil {
		return 0, err
	}
	return dequeue(ctx, func(i QueueItem) bool { return i.Callback == name })
}

func dequeue(ctx context.Context, wanted func(QueueItem) bool) (int, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return 0, err
	}
	items, err := d.queued(ctx)
	if err != nil {
		return 0, err
	}
	var numbers []uint64
	for _, i := range items {
		if wanted(i) {
			numbers = append(numbers, i.number)
		}
	}
	return len(numbers), d.cancelQueued(numbers)
}

func itemOf(m *protocol.Mail) QueueItem {
	return QueueItem{ID: m.ID, Callback: m.Callback, Payload: m.Payload, Created: m.Sent, number: m.Number}
}

// isQueued reports whether a letter is an item of the agent's own queue.
func (a *actor) isQueued(l *letter) bool {
	return l.from == a.id.Project && l.mail.Source == protocol.SourceQueue
}

// queueState is the queue as the draft has it, and the number up to which it is done. The draft is locked.
func (d *draft) queueState() (q protocol.Queue, done uint64) {
	switch {
	case d.queue != nil:
		q = *d.queue
	case d.stored.Queue != nil:
		q = *d.stored.Queue
	}
	done, _ = d.applied(protocol.SourceQueue)
	return q, done
}

// enqueue drafts an item and gives it its id and number.
func (d *draft) enqueue(mail *protocol.Mail) error {
	return d.change(func() error {
		q, done := d.queueState()
		if q.Last-done >= protocol.MaxWaiting {
			return &InboxFullError{Class: d.agent.Class, Agent: d.agent.Name, Limit: protocol.MaxWaiting}
		}
		if _, known := d.applied(protocol.SourceQueue); !known {
			if err := d.mark(protocol.SourceQueue, 0); err != nil {
				return err
			}
		}
		q.Last++
		mail.ID, mail.Number = d.nextID(), q.Last
		d.queue = &q
		d.put(protocol.Outgoing{Kind: protocol.OutgoingQueue, Queued: mail})
		return nil
	})
}

// cancelQueued drafts that some items are not to be applied, though they may be on their way. Those at the head of the
// queue count as done, so that an emptied queue leaves nothing in the record.
func (d *draft) cancelQueued(numbers []uint64) error {
	if len(numbers) == 0 {
		return nil
	}
	return d.change(func() error {
		q, done := d.queueState()
		q.Cancelled = slices.Concat(q.Cancelled, numbers)
		slices.Sort(q.Cancelled)
		q.Cancelled = slices.Compact(q.Cancelled)
		d.queue = &q
		return d.passQueued(done)
	})
}

// passQueued drafts that the queue is done up to a number, and further if what follows was taken out. The draft is
// locked.
func (d *draft) passQueued(number uint64) error {
	q, done := d.queueState()
	done = max(done, number)
	cancelled := q.Cancelled
	for len(cancelled) > 0 && cancelled[0] <= done+1 {
		done = max(done, cancelled[0])
		cancelled = cancelled[1:]
	}
	if len(cancelled) < len(q.Cancelled) {
		q.Cancelled = slices.Clone(cancelled)
		d.queue = &q
	}
	return d.mark(protocol.SourceQueue, done)
}

// queued returns the items that wait, in order. Numbers have no gap, so it is known what must be found: in an outbox, or
// else in the inbox.
func (d *draft) queued(ctx context.Context) ([]QueueItem, error) {
	missing, found := d.queuedInOutbox()
	if len(missing) > 0 && d.actor != nil {
		if err := d.actor.findQueued(ctx, d.stored.Life, missing, found); err != nil {
			return nil, fmt.Errorf("list queue of agent %q: %w", d.agent.Name, err)
		}
	}
	items := make([]QueueItem, 0, len(found))
	for _, item := range found {
		items = append(items, item)
	}
	slices.SortFunc(items, func(a, b QueueItem) int { return int(int64(a.number) - int64(b.number)) })
	return items, nil
}

// queuedInOutbox returns the items that stand in an outbox, by number, and which others there are.
func (d *draft) queuedInOutbox() (missing map[uint64]bool, found map[uint64]QueueItem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q, done := d.queueState()
	missing, found = map[uint64]bool{}, map[uint64]QueueItem{}
	for n := done + 1; n <= q.Last; n++ {
		missing[n] = true
	}
	for _, n := range q.Cancelled {
		delete(missing, n)
	}
	for _, o := range slices.Concat(d.pending, d.out) {
		if o.Kind == protocol.OutgoingQueue && missing[o.Queued.Number] {
			found[o.Queued.Number] = itemOf(o.Queued)
			delete(missing, o.Queued.Number)
		}
	}
	return missing, found
}

// findQueued looks for items in the inbox: at a replica, and for what that does not have yet at the leader. What nobody has
// was removed by somebody.
func (a *actor) findQueued(ctx context.Context, life uint64, missing map[uint64]bool, found map[uint64]QueueItem) error {
	in := a.host.inbox
	subject := a.id.InboxSubject(a.id.Project)
	take := func(data []byte) {
		var m protocol.Mail
		if json.Unmarshal(data, &m) == nil && m.Source == protocol.SourceQueue && m.Life == life && missing[m.Number] {
			found[m.Number] = itemOf(&m)
			delete(missing, m.Number)
		}
	}
	for m, err := range in.all(ctx, subject) {
		if err != nil {
			return err
		}
		if take(m.Data); len(missing) == 0 {
			break
		}
	}
	return nil
}
