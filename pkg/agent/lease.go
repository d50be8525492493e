package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// lease is this host's row among the hosts of its project, renewed by compare-and-set. While it is held, nobody may
// hold this host for gone; while it is not, the host starts no turn and releases no answer.
type lease struct {
	nc    *nats.Conn
	store *journal.Store
	where bucket
	id    string
	log   *slog.Logger
	times timing

	mu         sync.Mutex // guards what follows
	sequence   uint64
	beat       uint64
	until      time.Time // the process's own monotonic clock
	generation uint64
	changed    chan struct{} // closed at the next renewal
}

// stamp tells one uninterrupted possession of a lease, over one connection, from the next.
type stamp struct{ generation, reconnects uint64 }

func newLease(nc *nats.Conn, store *journal.Store, project, id string, times timing, log *slog.Logger) *lease {
	return &lease{
		nc: nc, store: store, where: bucketOf(protocol.HostsBucket(project)), id: id, log: log, times: times,
		changed: make(chan struct{}),
	}
}

// held returns the current stamp, and whether the lease is good and the connection up.
func (l *lease) held() (stamp, bool) {
	if !l.nc.IsConnected() {
		return stamp{}, false
	}
	reconnects := l.nc.Stats().Reconnects
	l.mu.Lock()
	defer l.mu.Unlock()
	return stamp{generation: l.generation, reconnects: reconnects}, time.Now().Before(l.until)
}

// wait returns as soon as the lease is held.
func (l *lease) wait(ctx context.Context) (stamp, error) {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if s, ok := l.held(); ok {
			return s, nil
		}
		// The connection comes back without a renewal, so look now and then.
		look := time.NewTimer(20 * time.Millisecond)
		select {
		case <-changed:
		case <-look.C:
		case <-ctx.Done():
			look.Stop()
			return stamp{}, context.Cause(ctx)
		}
		look.Stop()
	}
}

// run renews the lease until ctx ends and calls beat after every renewal, with whether the lease had been lost before.
func (l *lease) run(ctx context.Context, beat func(regained bool)) {
	for ctx.Err() == nil {
		again, regained := l.renew(ctx)
		if again {
			continue
		}
		beat(regained)
		select {
		case <-time.After(l.times.leaseEvery):
		case <-ctx.Done():
		}
	}
}

// renew writes the row once. It asks to be called again at once if the lease is not held afterwards.
func (l *lease) renew(ctx context.Context) (again, regained bool) {
	l.mu.Lock()
	expected, row := l.sequence, protocol.Host{V: protocol.Version, ID: l.id, Beat: l.beat + 1, Renewed: time.Now().UTC()}
	l.mu.Unlock()
	body, err := json.Marshal(row)
	if err != nil {
		panic(err) // a struct of texts, numbers and times
	}
	// An observer counts from when the row was stored, which is no earlier than this.
	sent := time.Now()
	sequence, err := l.store.Append(ctx, l.where.stream, l.where.subject(l.id), expected, body)
	if conflict, ok := errors.AsType[*journal.ConflictError](err); ok {
		l.refused(ctx, conflict.Tail)
		return true, false
	}
	if err != nil {
		if ctx.Err() == nil {
			l.log.ErrorContext(ctx, "renew lease", slog.Any(logkey.Error, err))
		}
		return false, false
	}
	return l.renewed(sequence, sent)
}

func (l *lease) renewed(sequence uint64, sent time.Time) (again, regained bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !now.Before(l.until) {
		l.generation++
		regained = l.generation > 1
	}
	l.sequence, l.beat, l.until = sequence, l.beat+1, sent.Add(l.times.leaseFor)
	close(l.changed)
	l.changed = make(chan struct{})
	return !now.Before(l.until), regained
}

// refused notes that the row is not what this host wrote last: another host doubts this one.
func (l *lease) refused(ctx context.Context, tail *journal.Message) {
	var row protocol.Host
	l.mu.Lock()
	l.until, l.sequence = time.Time{}, 0
	if tail != nil {
		l.sequence = tail.Sequence
		if err := json.Unmarshal(tail.Data, &row); err != nil {
			row.Doubted = "unknown"
		}
	}
	l.mu.Unlock()
	l.log.WarnContext(ctx, "lost the lease: another host holds this one for gone; its agents are checked before their next turn",
		slog.String(logkey.Host, l.id), slog.String(logkey.Doubter, row.Doubted))
}

// beats counts the renewals so far.
func (l *lease) beats() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.beat
}

// last is the sequence of the row as this host wrote it last.
func (l *lease) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sequence
}
