package journal

import (
	"bytes"
	"context"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// replies hands out inboxes for publishes, each with a subscription that is used again. A request through nats.go has an inbox
// subject of its own, which the server has to look up anew, and its answer goes through one more goroutine: together
// a quarter of the time of an append.
type replies struct {
	network Transport

	mu     sync.Mutex
	idle   []*replyInbox
	closed bool
}

type replyInbox struct {
	subject string
	// used says that there was a request before.
	used    bool
	answers chan *nats.Msg
	sub     Subscription
	// newest is the highest sequence acknowledged here, per stream.
	newest map[string]uint64
}

// fresh reports whether an answer can be to the request that is under way. Requests of one inbox follow one another, so
// the sequences that acknowledge them rise: one that does not is an earlier answer that came twice.
func (b *replyInbox) fresh(answer *nats.Msg) bool {
	stream, sequence, ok := acknowledged(answer.Data)
	if !ok {
		return true
	}
	if sequence <= b.newest[string(stream)] {
		return false
	}
	b.newest[string(stream)] = sequence
	return true
}

// take returns an inbox in which there is nothing: what is there is of an earlier request, whose server has answered twice.
func (r *replies) take() (*replyInbox, error) {
	for {
		r.mu.Lock()
		n := len(r.idle)
		if n == 0 {
			r.mu.Unlock()
			return r.open()
		}
		box := r.idle[n-1]
		r.idle = r.idle[:n-1]
		r.mu.Unlock()
		if len(box.answers) == 0 {
			return box, nil
		}
		box.drop()
	}
}

// open makes an inbox.
func (r *replies) open() (*replyInbox, error) {
	box := &replyInbox{subject: r.network.NewInbox(), answers: make(chan *nats.Msg, 4), newest: map[string]uint64{}}
	var err error
	box.sub, err = r.network.ChanSubscribe(box.subject, box.answers)
	return box, err
}

// put returns an inbox whose answer has come. One that may still get an answer must be dropped instead.
func (r *replies) put(box *replyInbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		box.drop()
		return
	}
	r.idle = append(r.idle, box)
}

func (b *replyInbox) drop() { _ = b.sub.Unsubscribe() } // the connection may be gone, and with it the subscription

func (r *replies) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, box := range r.idle {
		box.drop()
	}
	r.idle = nil
}

// publish sends one message to a stream and waits for its answer, at most tryTimeout. A refusal that comes to an inbox that was used
// before may be to the request before, which two servers took for theirs while the leader changed: so it is asked for once more, in an
// inbox that is new. What is sent twice is what callers repeat anyway when they do not know. It is unsure if that is refused for another
// reason: then the first one may be stored.
func (r *replies) publish(ctx context.Context, m *nats.Msg) (answer *nats.Msg, unsure bool, err error) {
	box, err := r.take()
	if err != nil {
		return nil, false, err
	}
	used := box.used
	answer, err = r.ask(ctx, box, m)
	if err == nil && used && !isAcknowledged(answer) {
		if box, err = r.open(); err != nil {
			return nil, true, err
		}
		first := answer
		answer, err = r.ask(ctx, box, m)
		unsure = err == nil && !bytes.Equal(first.Data, answer.Data)
	}
	if err != nil {
		return nil, unsure, err
	}
	if len(answer.Data) == 0 && answer.Header.Get(protocol.HeaderStatus) == "503" {
		return nil, unsure, nats.ErrNoResponders
	}
	return answer, unsure, nil
}

// ask sends a message and waits for its answer. An inbox that has got anything but an acknowledgement is not used again: a leader that
// gives way refuses what another one stores and acknowledges, and that may come later.
func (r *replies) ask(ctx context.Context, box *replyInbox, m *nats.Msg) (*nats.Msg, error) {
	m.Reply = box.subject
	if err := r.network.PublishMsg(m); err != nil {
		box.drop()
		return nil, err
	}
	answer, err := box.await(ctx, r.network)
	if err != nil {
		box.drop() // its answer may still come
		return nil, err
	}
	if !isAcknowledged(answer) {
		box.drop()
		return answer, nil
	}
	box.used = true
	r.put(box)
	return answer, nil
}

func isAcknowledged(answer *nats.Msg) bool {
	_, _, ok := acknowledged(answer.Data)
	return ok
}

func (b *replyInbox) await(ctx context.Context, network Transport) (*nats.Msg, error) {
	expired, stop := network.Timeout(tryTimeout)
	defer stop()
	for {
		select {
		case answer := <-b.answers:
			if b.fresh(answer) {
				return answer, nil
			}
		case <-expired:
			return nil, nats.ErrTimeout
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
