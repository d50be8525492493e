package client_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// network is a connection to NATS that does something right before a request with a text in it is sent.
type network struct {
	*nats.Conn
	text   string
	before func()
}

func (n *network) RequestMsgWithContext(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	if bytes.Contains(m.Data, []byte(n.text)) {
		n.before()
	}
	return n.Conn.RequestMsgWithContext(ctx, m)
}

func (n *network) Subscribe(subject string, f nats.MsgHandler) (journal.Subscription, error) {
	return n.Conn.Subscribe(subject, f)
}

func (n *network) ChanSubscribe(subject string, messages chan *nats.Msg) (journal.Subscription, error) {
	return n.Conn.ChanSubscribe(subject, messages)
}

func (n *network) Timeout(d time.Duration) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

func (n *network) Sleep(ctx context.Context, d time.Duration) error {
	expired, stop := n.Timeout(d)
	defer stop()
	select {
	case <-expired:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestCreateWhileAnotherIsDeleted: an instance that is deleted between two looks of a create at its id does not have the
// id any more, although nothing tells of the delete by then.
func TestCreateWhileAnotherIsDeleted(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	at, stream := protocol.Instance{Project: "p", Workflow: "w", ID: "a"}, protocol.WorkflowsStream("p", 0)
	create := func(input string) protocol.Create {
		return protocol.Create{V: protocol.Version, Input: input, Workflow: "w", ID: "a", Created: time.Now()}
	}
	if _, _, err := (client.Client{Store: store}).Create(t.Context(), at, create("old"), protocol.ExistingFail); err != nil {
		t.Fatal(err)
	}
	if err := (client.Client{Store: store}).Steer(t.Context(), at, protocol.Control{V: protocol.Version, Input: "1", Action: protocol.ActionDelete}); err != nil {
		t.Fatal(err)
	}
	deleted := false
	n := &network{Conn: nc, text: at.ControlSubject(), before: sync.OnceFunc(func() { // as a runner does
		deleted = true
		for _, subject := range []string{at.InputsSubject(), at.ControlSubject()} {
			if err := store.Purge(t.Context(), stream, subject, 100); err != nil {
				t.Error(err)
			}
		}
	})}
	late, err := journal.OpenOn(n)
	if err != nil {
		t.Fatal(err)
	}
	outcome, _, err := client.Client{Store: late}.Create(t.Context(), at, create("new"), protocol.ExistingFail)
	if err != nil || outcome != client.Created || !deleted {
		t.Errorf("outcome %v, %v, deleted meanwhile: %v", outcome, err, deleted)
	}
	if _, _, err := (client.Client{Store: late}).Create(t.Context(), at, create("third"), protocol.ExistingFail); !errors.Is(err, client.ErrExists) {
		t.Errorf("another create: %v, want %v", err, client.ErrExists)
	}
}
