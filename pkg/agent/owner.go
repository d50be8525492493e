package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// ownedError says which other host owns an agent.
type ownedError struct{ owner string }

func (e *ownedError) Error() string { return fmt.Sprintf("host %q owns the agent", e.owner) }

// Is makes it a kind of errMoved.
func (e *ownedError) Is(target error) bool { return target == errMoved }

// take makes this host the owner of an agent and raises the epoch. If another host owns the agent and is not gone, the
// error is an *ownedError.
func (h *host) take(ctx context.Context, id protocol.Agent) (version, stamp, error) {
	for {
		v, err := h.records.read(ctx, id)
		if err != nil {
			return version{}, stamp{}, err
		}
		if owner := v.record.Owner; owner != "" && owner != h.id {
			gone, err := h.isGone(ctx, owner, id)
			if err != nil {
				return version{}, stamp{}, err
			}
			if !gone {
				return version{}, stamp{}, &ownedError{owner: owner}
			}
		}
		s, err := h.lease.wait(ctx)
		if err != nil {
			return version{}, stamp{}, err
		}
		taken, err := h.records.write(ctx, id, v.sequence, h.claim(id, v))
		if isConflict(err) {
			continue // somebody was faster: see who
		}
		return taken, s, err
	}
}

// claim is the record with which this host takes the agent.
func (h *host) claim(id protocol.Agent, v version) protocol.Record {
	r := v.record
	if !v.exists {
		r = protocol.Record{V: protocol.Version, Class: id.Class, Name: id.Name}
	}
	r.Owner, r.Epoch = h.id, 0
	r.Commit, r.Updated = uuid.NewString(), time.Now().UTC()
	return r
}

// isGone reports whether a host has lost its agents: its row is away or doubted already; or it has no process, which
// the missing subscription shows; or its lease is over. In the last two cases the doubt is written down first, so that
// a host that was wrongly suspected learns it at its next renewal.
func (h *host) isGone(ctx context.Context, owner string, id protocol.Agent) (bool, error) {
	row, sequence, err := h.hostRow(ctx, owner)
	if err != nil || row == nil || row.Doubted != "" {
		return err == nil, err
	}
	if !h.peers.isExpired(owner, sequence, h.lease.beats()) {
		nobody, err := h.isAbsent(ctx, owner, id)
		if err != nil || !nobody {
			return false, err
		}
	}
	h.log.WarnContext(ctx, "host is gone, taking its agent", slog.String(logkey.Owner, owner), slog.String(logkey.Agent, id.String()))
	return h.declareGone(ctx, *row, sequence)
}

// declareGone doubts a host whose row was at a sequence. If that is refused, it has renewed its lease and is not gone, or
// somebody else was faster to doubt it.
func (h *host) declareGone(ctx context.Context, row protocol.Host, sequence uint64) (bool, error) {
	if gone, err := h.peers.doubt(ctx, row, sequence); gone || err != nil {
		return gone, err
	}
	now, _, err := h.hostRow(ctx, row.ID)
	return err == nil && (now == nil || now.Doubted != ""), err
}

// hostRow reads the row of a host from the leader; nil if there is none.
func (h *host) hostRow(ctx context.Context, id string) (*protocol.Host, uint64, error) {
	m, err := h.store.Last(ctx, h.peers.where.stream, h.peers.where.subject(id))
	if errors.Is(err, journal.ErrNotFound) || err == nil && m.Header.Get(protocol.HeaderKVOperation) != "" {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read lease of host %q: %w", id, err)
	}
	var row protocol.Host
	if err := json.Unmarshal(m.Data, &row); err != nil {
		return nil, 0, fmt.Errorf("lease of host %q: %w", id, err)
	}
	return &row, m.Sequence, nil
}

// isAbsent reports whether the host's own subject has no listener, twice in a row. If it has one, the request makes it
// bring the agent into memory.
func (h *host) isAbsent(ctx context.Context, owner string, id protocol.Agent) (bool, error) {
	request := protocol.Request{V: protocol.Version, Activate: &protocol.Activate{Class: id.Class, Name: id.Name}}
	for try := range 2 {
		if try > 0 {
			if err := ctxtime.Sleep(ctx, h.times.absentGap); err != nil {
				return false, err
			}
		}
		_, err := h.ask(ctx, protocol.HostSubject(h.name, owner), request)
		if !errors.Is(err, errNobody) {
			return false, ctx.Err()
		}
	}
	return true, nil
}
