package agent

import (
	"context"
	"log/slog"
	"strings"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// dropLate takes a letter away that is for a life of an agent that is over, if there is no agent now. It must not bring one
// into being: the callback of a workflow can come long after its agent was destroyed.
func (h *host) dropLate(ctx context.Context, id protocol.Agent, b protocol.Bell) (dropped bool, err error) {
	v, err := h.records.read(ctx, id)
	if err != nil || v.exists {
		return false, err
	}
	m, err := h.inbox.store.NextFromLeader(ctx, h.inbox.stream, id.MailSubject(), b.Sequence)
	if isNotFound(err) || err == nil && m.Sequence != b.Sequence {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	l := parseLetter(h.name, *m)
	if l.malformed != nil || l.mail.Life == 0 && l.redrive == "" {
		return false, nil // of a stranger
	}
	if none, err := h.isNone(ctx, id); err != nil || !none {
		return false, err
	}
	schedule, ok := strings.CutPrefix(l.lane, protocol.ScheduleSource(""))
	if !ok && l.from == h.name && l.isAlone() {
		schedule, ok = l.mail.Schedule, true
	}
	if ok {
		rows := bucketOf(protocol.SchedulesBucket(h.name))
		if err := dropRow(ctx, h.store, h.name, rows.subject(protocol.ScheduleKey(id.Class, id.Name, schedule)), l.mail.Life); err != nil {
			return false, err
		}
	}
	h.dropped.Add(1)
	h.log.DebugContext(ctx, "dropped mail for a life that is over", slog.String(logkey.Class, id.Class),
		slog.String(logkey.Agent, id.Name), slog.String(logkey.Source, l.lane), slog.Uint64(logkey.Number, l.mail.Number))
	return true, h.inbox.store.Delete(ctx, h.inbox.stream, b.Sequence)
}

// isNone makes sure that there is no agent: a read could be that of a server which does not know yet that it no longer
// leads, a write cannot.
func (h *host) isNone(ctx context.Context, id protocol.Agent) (bool, error) {
	v, _, err := h.take(ctx, id)
	if err != nil {
		return false, err
	}
	if v.record.Life != v.sequence {
		return false, nil // it is this host's now, and whoever delivers the mail takes it again
	}
	return true, h.records.remove(ctx, id, v.sequence)
}
