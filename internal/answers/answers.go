// Package answers brings answers over core NATS to those who wait for them, where a request may have several. All answers
// of a connection come through one subscription: one for each request costs client and server more than the request.
//
// It must never know what a request or an answer says.
package answers

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
)

// room is how many answers to one request may wait to be taken; those beyond it are lost. More than the eight parts of a
// streamed answer, and what says between them that somebody is at it, are never on their way.
const room = 64

// Desk takes the answers that come over one connection. It is safe for concurrent use.
type Desk struct {
	prefix string
	sub    *nats.Subscription

	mu      sync.Mutex // guards what follows
	next    uint64
	waiting map[string]*Wait // by the end of their subjects
	closed  bool
}

// Open makes a Desk on nc.
func Open(nc *nats.Conn) (*Desk, error) {
	d := &Desk{prefix: nc.NewInbox() + ".", waiting: map[string]*Wait{}}
	var err error
	if d.sub, err = nc.Subscribe(d.prefix+"*", d.take); err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	d.sub.SetClosedHandler(func(string) { d.end() })
	return d, d.sub.SetPendingLimits(-1, -1) // take does not wait
}

// Close ends all waits.
func (d *Desk) Close() error { return d.sub.Unsubscribe() }

// Wait is for the answers to one request, which names Subject as the one to answer to.
type Wait struct {
	Subject string
	desk    *Desk
	answers chan *nats.Msg
}

// Wait must be called before the request is sent, and Close when no more answers are wanted.
func (d *Desk) Wait() *Wait {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	w := &Wait{Subject: d.prefix + strconv.FormatUint(d.next, 36), desk: d, answers: make(chan *nats.Msg, room)}
	if d.closed {
		close(w.answers)
	} else {
		d.waiting[w.Subject] = w
	}
	return w
}

// Next is the next answer. A message without data is the server's, which says that nobody got the request.
func (w *Wait) Next(ctx context.Context) (*nats.Msg, error) {
	select {
	case m, open := <-w.answers:
		if !open {
			return nil, nats.ErrConnectionClosed
		}
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close lets answers go that come from now on.
func (w *Wait) Close() {
	w.desk.mu.Lock()
	defer w.desk.mu.Unlock()
	delete(w.desk.waiting, w.Subject)
}

// take runs in the goroutine of the subscription.
func (d *Desk) take(m *nats.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.waiting[m.Subject]
	if w == nil {
		return
	}
	select {
	case w.answers <- m:
	default:
	}
}

// end is called when no more answers can come.
func (d *Desk) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for subject, w := range d.waiting {
		delete(d.waiting, subject)
		close(w.answers)
	}
}
