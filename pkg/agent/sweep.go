package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// takenAtATime bounds how many agents of lost hosts are brought into memory at once.
const takenAtATime = 16

// beat is called after each renewal of the own lease: it looks at the leases of the others, and does what is due.
func (h *host) beat(ctx context.Context, regained bool) {
	if regained {
		h.crew.do(func() { h.checkTurns(ctx) })
	}
	h.lookAtSockets(ctx)
	if err := h.peers.observe(ctx, h.lease.beats()); err != nil {
		if ctx.Err() == nil {
			h.log.WarnContext(ctx, "cannot see the leases of other hosts", slog.Any(logkey.Error, err))
		}
		return
	}
	lost := slices.DeleteFunc(h.peers.expired(h.lease.beats()), func(id string) bool { return id == h.id })
	if len(lost) > 0 {
		h.aside(ctx, &h.sweeping, func() error { return h.sweep(ctx, lost) })
	}
}

// aside does work in a goroutine of the crew, unless that is under way already.
func (h *host) aside(ctx context.Context, underWay *bool, work func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || *underWay {
		return
	}
	*underWay = true
	h.crew.do(func() {
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			*underWay = false
		}()
		if err := work(); err != nil && ctx.Err() == nil {
			h.log.WarnContext(ctx, "cannot finish what lost hosts left behind, trying on", slog.Any(logkey.Error, err))
		}
	})
}

// checkTurns ends the turns of agents that were taken away while this host had no lease. Agents without a running turn
// find out before their next one.
func (h *host) checkTurns(ctx context.Context) {
	for _, a := range h.all() {
		epoch := a.epoch.Load()
		if epoch == 0 {
			continue
		}
		v, err := h.records.read(ctx, a.id)
		if err != nil {
			return
		}
		if v.record.Epoch != epoch {
			a.cancel(ErrLostOwnership)
		}
	}
}

// sweep takes agents of lost hosts that nobody else may ever ask for, or only late: those who have mail, which may be in the
// hands of the lost host, and all that clearUp finds. It is called again at every renewal until that is done, and takes those
// with mail although the records are being read for others.
func (h *host) sweep(ctx context.Context, ids []string) error {
	lost := map[string]uint64{}
	for _, id := range ids {
		sequence, err := h.claimLost(ctx, id)
		if err != nil {
			return err
		}
		if sequence > 0 {
			lost[id] = sequence
		}
	}
	if len(lost) == 0 {
		return nil
	}
	mailed, err := h.inbox.agents(ctx)
	if err != nil {
		return err
	}
	h.takeLeft(ctx, h.mailedOf(ctx, lost, mailed))
	h.aside(ctx, &h.clearing, func() error { return h.clearUp(ctx, lost, mailed) })
	return nil
}

// clearUp takes the agents of lost hosts whose outbox may not be carried out, or whose end is stored: what a turn has promised
// must not wait for the next caller. Then it removes the rows of the hosts.
func (h *host) clearUp(ctx context.Context, lost map[string]uint64, mailed map[protocol.Agent]bool) error {
	for id := range lost {
		h.log.WarnContext(ctx, "host is lost, carrying out what its agents asked for", slog.String(logkey.Owner, id))
	}
	left, err := h.leftBy(ctx, lost, mailed)
	if err != nil {
		return err
	}
	h.takeLeft(ctx, left)
	for id, sequence := range lost {
		if !h.tellOfGateway(ctx, id) {
			left.open[id] = true
		}
		if left.open[id] { // the row stays, so that this is tried again: by whoever is next to find the lease over
			h.peers.putOff(id, h.lease.beats())
			continue
		}
		if err := h.store.Purge(ctx, h.peers.where.stream, h.peers.where.subject(id), sequence+1); err != nil {
			return err
		}
	}
	return nil
}

// claimLost doubts a host whose lease is over, unless this host does already, and returns the sequence of its row; 0 if it
// lives, or if somebody else sweeps up after it.
func (h *host) claimLost(ctx context.Context, id string) (uint64, error) {
	for {
		row, sequence, err := h.hostRow(ctx, id)
		switch {
		case err != nil || row == nil:
			return 0, err
		case row.Doubted == h.id:
			return sequence, nil
		case !h.peers.isExpired(id, sequence, h.lease.beats()):
			return 0, nil
		}
		if _, err := h.peers.doubt(ctx, *row, sequence); err != nil {
			return 0, err
		}
	}
}

// left is what lost hosts left behind.
type left struct {
	agents map[protocol.Agent]string // with the host that had it
	// open are hosts of which something is left that this host cannot do.
	open map[string]bool
}

// mailedOf looks for agents of lost hosts among those who have mail. What it does not see, leftBy does.
func (h *host) mailedOf(ctx context.Context, lost map[string]uint64, mailed map[protocol.Agent]bool) left {
	l := left{agents: map[protocol.Agent]string{}, open: map[string]bool{}}
	for ids := range slices.Chunk(slices.Collect(maps.Keys(mailed)), recordsPage) {
		subjects := make([]string, len(ids))
		for i, id := range ids {
			subjects[i] = h.records.subject(id)
		}
		batch, err := h.store.LastOfMany(ctx, h.records.where.stream, subjects)
		if err != nil {
			h.log.DebugContext(ctx, "look for agents that have mail", slog.Any(logkey.Error, err))
			return l
		}
		for _, m := range batch.Messages {
			if r := h.ownedBy(ctx, &m, lost); r != nil {
				l.agents[protocol.Agent{Project: h.name, Class: r.Class, Name: r.Name}] = r.Owner
			}
		}
	}
	return l
}

// leftBy looks for agents that lost hosts own by their records and that somebody must look after.
func (h *host) leftBy(ctx context.Context, lost map[string]uint64, mailed map[protocol.Agent]bool) (left, error) {
	l := left{agents: map[protocol.Agent]string{}, open: map[string]bool{}}
	return l, h.records.each(ctx, func(m *journal.Message) error {
		r := h.ownedBy(ctx, m, lost)
		if r == nil {
			return nil
		}
		id := protocol.Agent{Project: h.name, Class: r.Class, Name: r.Name}
		switch {
		case mailed[id] || len(r.Outbox) > 0 || r.Condemned:
			l.agents[id] = r.Owner
		case isBlank(r): // one that never stored anything is to leave nothing
			return h.records.remove(ctx, id, m.Sequence)
		default:
			h.sure.noteOpen(ctx, id, r)
		}
		return nil
	})
}

// ownedBy is the record in a message, if one of the hosts owns it.
func (h *host) ownedBy(ctx context.Context, m *journal.Message, hosts map[string]uint64) *protocol.Record {
	named := false
	for id := range hosts { // most records name none of them: this is cheaper than to decode them
		named = named || bytes.Contains(m.Data, []byte(id))
	}
	if !named {
		return nil
	}
	var r protocol.Record
	if err := json.Unmarshal(m.Data, &r); err != nil {
		h.log.WarnContext(ctx, "skipped a record", slog.String(logkey.Subject, m.Subject), slog.Any(logkey.Error, err))
		return nil
	}
	if _, owned := hosts[r.Owner]; !owned {
		return nil
	}
	return &r
}

// takeLeft takes agents, several at a time. One that is long in its OnStart does not keep the others waiting.
func (h *host) takeLeft(ctx context.Context, l left) {
	ctx, cancel := context.WithTimeout(ctx, h.times.bellWithin)
	defer cancel()
	var mu sync.Mutex // guards l.open
	var group errgroup.Group
	group.SetLimit(takenAtATime)
	for id, owner := range l.agents {
		group.Go(func() error {
			a, err := h.activate(id)
			if err == nil {
				err = a.ready(ctx)
			}
			if err == nil || errors.Is(err, errMoved) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			l.open[owner] = true
			if h.class(id.Class) != nil {
				h.log.WarnContext(ctx, "cannot take an agent of a lost host", slog.String(logkey.Class, id.Class),
					slog.String(logkey.Agent, id.Name), slog.Any(logkey.Error, err))
			}
			return nil
		})
	}
	_ = group.Wait() // none returns an error: each is logged
}

// isBlank reports whether a record is that of an agent that was only taken and has stored nothing.
func isBlank(r *protocol.Record) bool {
	return r.Life == 0 && r.Turn == 0 && r.State == nil && r.StateObject == nil && len(r.Outbox) == 0
}
