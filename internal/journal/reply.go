package journal

import (
	"bytes"
	"context"
	"sync"
	"time"

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
			return r.open(nil)
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

// open makes an inbox, whose answers come into a channel that is made if it is nil. One that is full loses answers.
func (r *replies) open(answers chan *nats.Msg) (*replyInbox, error) {
	if answers == nil {
		answers = make(chan *nats.Msg, 8)
	}
	box := &replyInbox{subject: r.network.NewInbox(), answers: answers, newest: map[string]uint64{}}
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

// publication is one message that is sent to a stream until that is answered. An acknowledgement of an earlier try proves that the message
// is stored, just as one of the last try does: where answers take longer than a try waits, no try would ever be answered in time, and all
// that is sent again would only make them take longer.
type publication struct {
	replies *replies
	tried   bool
	// open are the inboxes of tries that were not answered and may still be. They share their channel.
	open []*replyInbox
}

// maxOpen bounds the inboxes that one publication listens to, below what their channel has room for.
const maxOpen = 6

// end gives up on further answers.
func (p *publication) end() {
	for _, box := range p.open {
		box.drop()
	}
}

// box returns an inbox for the next try. One that was used for another message is not listened to when a try is over, so that only the
// first try takes one.
func (p *publication) box() (*replyInbox, error) {
	switch first := !p.tried; {
	case first:
		p.tried = true
		return p.replies.take()
	case len(p.open) > 0:
		return p.replies.open(p.open[0].answers)
	}
	return p.replies.open(nil)
}

// late returns an acknowledgement of an earlier try, if there is one.
func (p *publication) late() *nats.Msg {
	if len(p.open) == 0 {
		return nil
	}
	for answers := p.open[0].answers; len(answers) > 0; {
		if answer := <-answers; isAcknowledged(answer) {
			return answer
		}
	}
	return nil
}

// keep listens on to an inbox whose try was not answered.
func (p *publication) keep(box *replyInbox) {
	if p.open = append(p.open, box); len(p.open) > maxOpen {
		p.open[0].drop()
		p.open = p.open[1:]
	}
}

// publish sends the message and waits for an answer. A refusal that comes to an inbox that was used before may be to the request before,
// which two servers took for theirs while the leader changed: so it is asked for once more, in an inbox that is new. What is sent twice is
// what callers repeat anyway when they do not know. It is unsure if that is refused for another reason: then the first one may be stored.
func (p *publication) publish(ctx context.Context, m *nats.Msg, patience time.Duration) (answer *nats.Msg, unsure bool, err error) {
	if answer := p.late(); answer != nil {
		return answer, false, nil
	}
	box, err := p.box()
	if err != nil {
		return nil, false, err
	}
	used := box.used
	answer, err = p.ask(ctx, box, m, patience)
	if err == nil && used && !isAcknowledged(answer) {
		if box, err = p.replies.open(nil); err != nil {
			return nil, true, err
		}
		first := answer
		answer, err = p.ask(ctx, box, m, patience)
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

// ask sends a message and waits for its answer, or for an acknowledgement of an earlier try. An inbox that has got anything but an
// acknowledgement is not used for another message: a leader that gives way refuses what another one stores and acknowledges, and that
// may come later. One that was used before is given up if nothing comes: what does later may be about the message before.
func (p *publication) ask(ctx context.Context, box *replyInbox, m *nats.Msg, patience time.Duration) (*nats.Msg, error) {
	m.Reply = box.subject
	if err := p.replies.network.PublishMsg(m); err != nil {
		box.drop()
		return nil, err
	}
	answer, err := box.await(ctx, p.replies.network, patience)
	switch {
	case err == nil && isAcknowledged(answer) && len(p.open) == 0:
		box.used = true
		p.replies.put(box)
	case err == nil || box.used:
		box.drop()
	default:
		p.keep(box)
	}
	return answer, err
}

func isAcknowledged(answer *nats.Msg) bool {
	_, _, ok := acknowledged(answer.Data)
	return ok
}

// await returns the answer to the newest try, or an acknowledgement of an earlier one.
func (b *replyInbox) await(ctx context.Context, network Transport, patience time.Duration) (*nats.Msg, error) {
	expired, stop := network.Timeout(patience)
	defer stop()
	for {
		select {
		case answer := <-b.answers:
			if b.counts(answer) {
				return answer, nil
			}
		case <-expired:
			return b.last(nats.ErrTimeout)
		case <-ctx.Done():
			return b.last(context.Cause(ctx))
		}
	}
}

// last returns an answer that is there when the time is over, or else why it is.
func (b *replyInbox) last(over error) (*nats.Msg, error) {
	for len(b.answers) > 0 {
		if answer := <-b.answers; b.counts(answer) {
			return answer, nil
		}
	}
	return nil, over
}

// counts reports whether an answer decides. If it is about an earlier try, only that the message is stored does: a refusal says nothing of
// what becomes of the newest one.
func (b *replyInbox) counts(answer *nats.Msg) bool {
	return (answer.Subject == b.subject || isAcknowledged(answer)) && b.fresh(answer)
}
