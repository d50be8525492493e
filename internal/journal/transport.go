package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
)

// Transport is the network below a Store, with the time that passes there. Requests and answers may be lost, late, or
// come twice. It is a connection to NATS, except in simulations.
type Transport interface {
	// NewInbox makes a subject that nobody else listens to.
	NewInbox() string
	// PublishMsg sends a message, whose answer goes to its Reply. An error says that it was not sent.
	PublishMsg(m *nats.Msg) error
	// RequestMsgWithContext sends a message and returns the answer.
	RequestMsgWithContext(ctx context.Context, m *nats.Msg) (*nats.Msg, error)
	// Subscribe calls f with the messages of a subject, one at a time.
	Subscribe(subject string, f nats.MsgHandler) (Subscription, error)
	// ChanSubscribe puts the messages of a subject into a channel.
	ChanSubscribe(subject string, messages chan *nats.Msg) (Subscription, error)
	// Timeout returns what is readable after d, unless stop is called before.
	Timeout(d time.Duration) (expired <-chan time.Time, stop func() bool)
	// Sleep returns after d, or before that with the cause for which ctx ended.
	Sleep(ctx context.Context, d time.Duration) error
}

// Subscription is what a Transport delivers messages for.
type Subscription interface {
	// Unsubscribe ends it.
	Unsubscribe() error
}

// connection is a connection to NATS as a Transport.
type connection struct{ *nats.Conn }

// Subscribe does not bound what waits for f: a Store bounds what it asks for.
func (c connection) Subscribe(subject string, f nats.MsgHandler) (Subscription, error) {
	sub, err := c.Conn.Subscribe(subject, f)
	if err != nil {
		return nil, err
	}
	return sub, sub.SetPendingLimits(-1, -1)
}

func (c connection) ChanSubscribe(subject string, messages chan *nats.Msg) (Subscription, error) {
	return c.Conn.ChanSubscribe(subject, messages)
}

func (connection) Timeout(d time.Duration) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

func (connection) Sleep(ctx context.Context, d time.Duration) error { return ctxtime.Sleep(ctx, d) }
