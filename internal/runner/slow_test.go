package runner

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// slow is a connection to NATS whose streams take a while to store what is published.
type slow struct {
	*nats.Conn
	by time.Duration
}

func (s slow) PublishMsg(m *nats.Msg) error {
	if strings.HasPrefix(m.Subject, "$JS.API.") {
		return s.Conn.PublishMsg(m)
	}
	late := *m
	time.AfterFunc(s.by, func() { _ = s.Conn.PublishMsg(&late) })
	return nil
}

func (s slow) Subscribe(subject string, f nats.MsgHandler) (journal.Subscription, error) {
	return s.Conn.Subscribe(subject, f)
}

func (s slow) ChanSubscribe(subject string, messages chan *nats.Msg) (journal.Subscription, error) {
	return s.Conn.ChanSubscribe(subject, messages)
}

func (s slow) Timeout(d time.Duration) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

func (s slow) Sleep(ctx context.Context, d time.Duration) error { return ctxtime.Sleep(ctx, d) }

// mute is a connection to NATS on which nothing is heard of the streams of a project.
type mute struct {
	slow
	project string
}

func (m mute) PublishMsg(msg *nats.Msg) error {
	if strings.Contains(msg.Subject, m.project) {
		return nil
	}
	return m.slow.PublishMsg(msg)
}

func (m mute) RequestMsgWithContext(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	if strings.Contains(msg.Subject, m.project) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return m.slow.RequestMsgWithContext(ctx, msg)
}

// TestStreamWithoutALeader: a stream that says nothing at all is not waited for as long as one that is slow, and not taken for one that
// is gone: somebody tries again later.
func TestStreamWithoutALeader(t *testing.T) {
	t.Parallel()
	r := setup(t)
	store, err := journal.OpenOn(mute{slow{r.nc, 0}, "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	runner := r.runner(func(c *Config) { c.GoneAfter = 10 * time.Millisecond })
	runner.Store = store
	to := protocol.Instance{Project: "elsewhere", Workflow: "waits", ID: "parent"}
	began := time.Now()
	err = runner.send(t.Context(), inputOf(to, to.EventSubject()), []byte("{}"))
	if took := time.Since(began); err == nil || took >= sendWithin {
		t.Errorf("it is sent with error %v after %s", err, took)
	}
	if !errors.Is(err, errNoLeader) || !strings.Contains(err.Error(), "elsewhere/waits/parent") {
		t.Errorf("error is %v", err)
	}
}

// TestSlowStreamIsNotFlooded: where a stream takes longer to store something than a try waits, an end is announced, a parent told and a
// wake acked all the same, and what is sent more than once is so a few times.
func TestSlowStreamIsNotFlooded(t *testing.T) {
	t.Parallel()
	r := setup(t)
	store, err := journal.OpenOn(slow{r.nc, 5500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	f := newFamily(r, "waits", "parent")
	child := at("fails", "child")
	r.createWith(child, protocol.Create{Parent: f.call("child")})
	runner := r.runner()
	runner.Store = store
	r.serve(runner)
	r.quiesce(protocol.ConsumerWakes(0), 0)
	if n := len(r.done(child)); n == 0 || n > 4 {
		t.Errorf("the end of the child is announced %d times", n)
	}
	page, _, err := r.store.Page(t.Context(), f.parent.Stream(), f.parent.EventSubject(), 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(page); n == 0 || n > 4 {
		t.Errorf("the parent is told %d times", n)
	}
}
