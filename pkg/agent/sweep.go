package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// beat is called after each renewal of the own lease: it looks at the leases of the others, and does what is due.
func (h *host) beat(ctx context.Context, regained bool) {
	if regained {
		h.crew.do(func() { h.checkTurns(ctx) })
	}
	if err := h.peers.observe(ctx, h.lease.beats()); err != nil {
		if ctx.Err() == nil {
			h.log.WarnContext(ctx, "cannot see the leases of other hosts", slog.Any(logkey.Error, err))
		}
		return
	}
	for _, id := range h.peers.expired(h.lease.beats()) {
		if id == h.id || !h.startSweep(id) {
			continue
		}
		h.crew.do(func() {
			defer h.endSweep(id)
			if err := h.sweep(ctx, id); err != nil && ctx.Err() == nil {
				h.log.WarnContext(ctx, "cannot finish what a lost host left behind, trying on",
					slog.String(logkey.Owner, id), slog.Any(logkey.Error, err))
			}
		})
	}
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

// startSweep reports whether nobody here is sweeping up after a host.
func (h *host) startSweep(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.sweeping[id] {
		return false
	}
	h.sweeping[id] = true
	return true
}

func (h *host) endSweep(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sweeping, id)
}

// sweep takes the agents of a lost host whose outbox may not be carried out, or whose end is stored, as nobody else may
// ever ask for them: what a turn has promised must not wait for the next caller. Then it removes the host's row.
func (h *host) sweep(ctx context.Context, lost string) error {
	row, sequence, err := h.hostRow(ctx, lost)
	if err != nil || row == nil || !h.peers.isExpired(lost, sequence, h.lease.beats()) {
		return err
	}
	gone, err := h.peers.doubt(ctx, *row, sequence, h.id)
	if err != nil || !gone {
		return err
	}
	if row, sequence, err = h.hostRow(ctx, lost); err != nil || row == nil || row.Doubted != h.id {
		return err
	}
	h.log.WarnContext(ctx, "host is lost, carrying out what its agents asked for", slog.String(logkey.Owner, lost))
	ids, complete, err := h.leftBy(ctx, lost)
	if err != nil {
		return err
	}
	for _, id := range ids {
		a, err := h.activate(id)
		if err == nil {
			err = a.ready(ctx)
		}
		if err != nil && !errors.Is(err, errMoved) {
			complete = false
			h.log.WarnContext(ctx, "cannot take an agent of a lost host", slog.String(logkey.Class, id.Class),
				slog.String(logkey.Agent, id.Name), slog.Any(logkey.Error, err))
		}
	}
	if !complete {
		return nil // the row stays, so that this is tried again
	}
	return h.store.Purge(ctx, h.peers.where.stream, h.peers.where.subject(lost), sequence+1)
}

// leftBy lists the agents that a host owns by their records and that somebody must look after. It is not complete if some
// are of classes that this host does not have.
func (h *host) leftBy(ctx context.Context, owner string) (ids []protocol.Agent, complete bool, err error) {
	complete = true
	rows, err := h.project.JS.KeyValue(ctx, h.records.where.name)
	if err != nil {
		return nil, false, fmt.Errorf("list agents of host %q: %w", owner, err)
	}
	watcher, err := rows.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, false, fmt.Errorf("list agents of host %q: %w", owner, err)
	}
	defer func() { err = errors.Join(err, watcher.Stop()) }()
	for {
		select {
		case entry, ok := <-watcher.Updates():
			if !ok || entry == nil { // nil: everything there was has come
				return ids, complete, nil
			}
			r, parseErr := ownedRecord(entry, owner)
			if parseErr != nil {
				h.log.WarnContext(ctx, "skipped a record", slog.Any(logkey.Error, parseErr))
			}
			if r == nil {
				continue
			}
			if isBlank(r) {
				if err := h.records.remove(ctx, protocol.Agent{Project: h.name, Class: r.Class, Name: r.Name}, entry.Revision()); err != nil {
					return nil, false, err
				}
				continue
			}
			if h.class(r.Class) == nil {
				complete = false
				continue
			}
			ids = append(ids, protocol.Agent{Project: h.name, Class: r.Class, Name: r.Name})
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// ownedRecord is the record of an entry if the owner has it and something in it waits to be done: what a turn has asked
// for, or the end of the agent. One that never stored anything is to leave nothing.
func ownedRecord(entry jetstream.KeyValueEntry, owner string) (*protocol.Record, error) {
	var r protocol.Record
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		return nil, fmt.Errorf("record of agent %q: %w", entry.Key(), err)
	}
	if r.Owner != owner || len(r.Outbox) == 0 && !r.Condemned && !isBlank(&r) {
		return nil, nil
	}
	return &r, nil
}

// isBlank reports whether a record is that of an agent that was only taken and has stored nothing.
func isBlank(r *protocol.Record) bool {
	return r.Life == 0 && r.Turn == 0 && r.State == nil && r.StateObject == nil && len(r.Outbox) == 0
}
