package runner

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// lagging is a connection on which replicas answer as they did when they had not come as far. The leader answers requests.
type lagging struct {
	*nats.Conn
	upTo string
	// tails are the ends of logs that they know, by subject.
	tails map[string][]byte
}

func (l *lagging) Subscribe(subject string, f nats.MsgHandler) (journal.Subscription, error) {
	return l.Conn.Subscribe(subject, func(m *nats.Msg) {
		if tail := l.tails[m.Header.Get(protocol.HeaderSubject)]; tail != nil {
			m.Data = tail
		}
		if m.Header.Get(protocol.HeaderUpToSequence) != "" {
			m.Header.Set(protocol.HeaderUpToSequence, l.upTo)
		}
		f(m)
	})
}

func (l *lagging) ChanSubscribe(subject string, messages chan *nats.Msg) (journal.Subscription, error) {
	return l.Conn.ChanSubscribe(subject, messages)
}

func (l *lagging) Timeout(d time.Duration) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

func (l *lagging) Sleep(ctx context.Context, d time.Duration) error {
	expired, stop := l.Timeout(d)
	defer stop()
	select {
	case <-expired:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestListOnALaggingReplica: what a list says of an instance is at least as new as the moment at which the list began.
func TestListOnALaggingReplica(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i := r.create(protocol.Instance{Project: "p", Workflow: "w", ID: "a"})
	r.create(protocol.Instance{Project: "p", Workflow: "w", ID: "queued"})
	r.beginLog(i, protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Name: "E", Message: "no"}})
	old, err := r.store.Last(t.Context(), i.Stream(), i.LogSubject())
	if err != nil {
		t.Fatal(err)
	}
	r.append(i, protocol.Entry{Kind: protocol.EntryRestarted})
	network := &lagging{Conn: r.nc, upTo: "3", tails: map[string][]byte{i.LogSubject(): bytes.Clone(old.Data)}}
	store, err := journal.OpenOn(network)
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]protocol.State{}
	for s, err := range (Reader{Store: store, Project: "p", Shards: 1}).List(t.Context(), "w", 0) {
		if err != nil {
			t.Fatal(err)
		}
		states[s.ID] = s.State
	}
	if states["a"].Finished() || states["queued"] != protocol.StateQueued || len(states) != 2 {
		t.Errorf("listed is %v", states)
	}
}
