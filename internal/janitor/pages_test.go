package janitor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
)

// pages is a connection to a server that lists a few subjects at a time: the real one lists 100,000.
type pages struct {
	*nats.Conn
	size int
}

func (p pages) RequestMsgWithContext(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	var asked struct {
		Filter string `json:"subjects_filter"`
		Offset int    `json:"offset"`
	}
	if !strings.HasPrefix(m.Subject, "$JS.API.STREAM.INFO.") || json.Unmarshal(m.Data, &asked) != nil || asked.Filter == "" {
		return p.Conn.RequestMsgWithContext(ctx, m)
	}
	whole := nats.NewMsg(m.Subject)
	whole.Data = fmt.Appendf(nil, `{"subjects_filter":%q}`, asked.Filter)
	answer, err := p.Conn.RequestMsgWithContext(ctx, whole)
	if err != nil {
		return nil, err
	}
	var body map[string]any
	if err := json.Unmarshal(answer.Data, &body); err != nil {
		return nil, err
	}
	state := body["state"].(map[string]any)
	all, _ := state["subjects"].(map[string]any)
	for n, subject := range slices.Sorted(maps.Keys(all)) {
		if n < asked.Offset || n >= asked.Offset+p.size {
			delete(all, subject)
		}
	}
	answer.Data, err = json.Marshal(body)
	return answer, err
}

func (p pages) Subscribe(subject string, f nats.MsgHandler) (journal.Subscription, error) {
	return p.Conn.Subscribe(subject, f)
}

func (p pages) ChanSubscribe(subject string, messages chan *nats.Msg) (journal.Subscription, error) {
	return p.Conn.ChanSubscribe(subject, messages)
}

func (pages) Timeout(d time.Duration) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

func (pages) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestSweepPages: what goes from the first page of a long list makes nothing be left out on the next.
func TestSweepPages(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	for n := range 7 {
		y.put(fmt.Sprint("never-", n), "never", "params", objects.Keeper{})
	}
	store, err := journal.OpenOn(pages{y.nc, 2})
	if err != nil {
		t.Fatal(err)
	}
	y.sweep(7, func(c *janitor.Cleaner) { c.Store = store })
	if left := y.values(); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}
