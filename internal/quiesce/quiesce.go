// Package quiesce holds up, for a short time, what agents write and what is posted to other projects, in all processes of a project:
// so that a backup finds a moment at which none of it is written, however much there is to do.
//
// It must never be what a backup rests on, but for how soon that moment is found: whoever does not hear, is of an older version, or has
// begun to write just before, writes, and whoever asks has to look whether anything was written.
package quiesce

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// Gate is what a process passes before it writes. A nil Gate is always open. It is safe for concurrent use.
type Gate struct {
	mu sync.Mutex // guards what follows
	// closed is until when nobody passes, rest until when the gate is not closed again.
	closed, rest time.Time
}

// Pass returns when the gate is open, or with the cause of the end of ctx.
func (g *Gate) Pass(ctx context.Context) error {
	for {
		wait := time.Until(g.closedUntil())
		if wait <= 0 {
			return nil
		}
		if err := ctxtime.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (g *Gate) closedUntil() time.Time {
	if g == nil {
		return time.Time{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// hold closes the gate for a while, unless it was closed a short time ago.
func (g *Gate) hold(d time.Duration) (closed bool) {
	d = min(d, protocol.MaxQuiesce)
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if d <= 0 || now.Before(g.rest) {
		return false
	}
	g.closed = now.Add(d)
	g.rest = g.closed.Add(d / 2)
	return true
}

// Listen closes the gate whenever the project is asked to be quiet, until the subscription ends.
func (g *Gate) Listen(nc *nats.Conn, project string, log *slog.Logger) (*nats.Subscription, error) {
	sub, err := nc.Subscribe(protocol.QuiesceSubject(project), func(m *nats.Msg) {
		var q protocol.Quiesce
		if err := json.Unmarshal(m.Data, &q); err != nil {
			log.Warn("what asks for quiet cannot be read", logkey.Subject, m.Subject, logkey.Error, err)
			return
		}
		if d := time.Duration(q.Milliseconds) * time.Millisecond; g.hold(d) {
			log.Info("a backup is made: what agents write waits", logkey.Duration, d)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listen to who asks for quiet: %w", err)
	}
	return sub, nil
}

// askedWithin is how long the server has to take what is asked.
const askedWithin = 10 * time.Second

// Ask asks the processes of projects to be quiet for a while, and returns when the server knows. It does not know who hears it.
func Ask(ctx context.Context, nc *nats.Conn, projects []string, d time.Duration) error {
	body, err := json.Marshal(protocol.Quiesce{V: protocol.Version, Milliseconds: d.Milliseconds()})
	for _, project := range projects {
		if err == nil {
			err = nc.Publish(protocol.QuiesceSubject(project), body)
		}
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, askedWithin)
		defer cancel()
		err = nc.FlushWithContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("ask for quiet: %w", err)
	}
	return nil
}
