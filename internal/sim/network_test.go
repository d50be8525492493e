package sim

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
)

// network is the connection of a process: the transport of its Store. Every request is a moment at which everybody else
// may come first.
type network struct {
	w       *world
	inboxes int
	// channels and functions are the subscriptions, by subject or by the part of it before the last token.
	channels  map[string]chan *nats.Msg
	functions map[string]nats.MsgHandler
	// unanswered is set if the newest request gets no answer: whoever waits for one waits in vain.
	unanswered bool
}

func newNetwork(w *world) *network {
	return &network{w: w, channels: map[string]chan *nats.Msg{}, functions: map[string]nats.MsgHandler{}}
}

func (n *network) NewInbox() string {
	n.inboxes++
	return fmt.Sprint("_INBOX.", n.inboxes)
}

func (n *network) PublishMsg(m *nats.Msg) error {
	answers, err := n.exchange(m)
	n.answer(m, answers)
	return err
}

// answer brings the answers to whoever asked.
func (n *network) answer(m *nats.Msg, answers []*nats.Msg) {
	for _, a := range answers {
		a.Subject = m.Reply
		if c := n.channels[m.Reply]; c != nil {
			c <- a
			continue
		}
		n.functions[m.Reply[:strings.LastIndexByte(m.Reply, '.')]](a)
	}
}

func (n *network) RequestMsgWithContext(_ context.Context, m *nats.Msg) (*nats.Msg, error) {
	answers, err := n.exchange(m)
	if err != nil {
		return nil, err
	}
	if n.unanswered {
		return nil, nats.ErrTimeout
	}
	return answers[0], nil
}

func (n *network) Subscribe(subject string, f nats.MsgHandler) (journal.Subscription, error) {
	n.functions[strings.TrimSuffix(subject, ".*")] = f
	return forget(func() { delete(n.functions, strings.TrimSuffix(subject, ".*")) }), nil
}

func (n *network) ChanSubscribe(subject string, messages chan *nats.Msg) (journal.Subscription, error) {
	n.channels[subject] = messages
	return forget(func() { delete(n.channels, subject) }), nil
}

// forget is a subscription that ends by calling it.
type forget func()

func (f forget) Unsubscribe() error {
	f()
	return nil
}

func (n *network) Timeout(time.Duration) (<-chan time.Time, func() bool) {
	c := make(chan time.Time, 1)
	if n.unanswered {
		c <- time.Time{}
	}
	return c, func() bool { return true }
}

func (n *network) Sleep(context.Context, time.Duration) error {
	n.w.pause(pausing)
	return nil
}

// Fates of a request.
type fate int

const (
	arrives fate = iota
	lost
	late          // it arrives after a while, when it may have been asked again
	answerLost    // it arrives, its answer does not
	answeredTwice // as after a change of route
	refused       // the server has no time for it, or no leader
)

// exchange sends a request and brings the answers.
func (n *network) exchange(m *nats.Msg) ([]*nats.Msg, error) {
	n.w.pause(asking)
	n.unanswered = false
	isAppend := !strings.HasPrefix(m.Subject, "$JS.API.")
	fate := n.w.fate(isAppend)
	if n.w.tracing() {
		n.w.tell("%s%s", n.w.describe(m), [...]string{"", ": is lost", ": is late", ": the answer is lost", "", ": is refused"}[fate])
	}
	switch fate {
	case lost:
		n.unanswered = true
		return nil, nil
	case late:
		n.unanswered = true
		n.w.hanging = append(n.w.hanging, hanging{n, &nats.Msg{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data}})
		return nil, nil
	case refused:
		return n.refusal(m, isAppend)
	}
	answers := n.w.server.handle(m, n.w.now)
	if r := n.w.running.runner; isAppend && r != nil && n.w.fault(30) {
		n.w.doomed = r
	}
	switch {
	case fate == answerLost:
		n.unanswered = true
		return nil, nil
	case fate == answeredTwice && bytes.HasPrefix(answers[0].Data, []byte(`{"stream"`)):
		return append(answers, copyOf(answers[0])), nil
	}
	return answers, nil
}

// hanging is a request that is on its way.
type hanging struct {
	from *network
	m    *nats.Msg
}

// answerLate brings the answer to one if somebody still waits for it.
func (h hanging) answerLate(answer *nats.Msg) (heard bool) {
	answer.Subject = h.m.Reply
	select {
	case h.from.channels[h.m.Reply] <- answer: // never, if nobody does
		return true
	default:
		return false
	}
}

func copyOf(m *nats.Msg) *nats.Msg {
	return &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}
}

// refusal says that something may be tried again.
func (n *network) refusal(m *nats.Msg, isAppend bool) ([]*nats.Msg, error) {
	switch {
	case n.w.chance(2):
		return nil, nats.ErrNoResponders
	case isAppend:
		return one([]byte(`{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"},"seq":0}`)), nil
	case strings.HasPrefix(m.Subject, "$JS.API.DIRECT."):
		return []*nats.Msg{{Header: nats.Header{"Status": {"503"}}}}, nil
	}
	return one([]byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`)), nil
}
