package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// startInstance starts the instance of a workflow for a planned moment, once: its id and its create follow from schedule
// and moment. An id that somebody else has taken does not hold up the schedule.
func (s *Scheduler) startInstance(ctx context.Context, k key, r *row, t *protocol.Tick, now time.Time) error {
	planned := t.Planned.UTC()
	at, err := s.instanceOf(ctx, k, planned)
	if err != nil {
		return err
	}
	create := r.CronCreate(k.agent.Project, planned, now)
	_, _, err = client.Client{Store: s.store}.Create(ctx, at, create, protocol.ExistingFail)
	if errors.Is(err, client.ErrExists) {
		s.taken.Add(1)
		s.metrics.taken.WithLabelValues(k.agent.Project).Inc()
		s.log.WarnContext(ctx, "schedule could not start its instance, somebody else has taken the id", k.attr(),
			slog.String(logkey.Instance, create.ID), slog.Time(logkey.Planned, planned))
		return nil
	}
	if err != nil {
		return fmt.Errorf("start instance %s: %w", at, err)
	}
	due := r.plan.Due(planned)
	if t.Since != nil {
		due = now // it has waited for an earlier instance, and not for a scheduler
	}
	s.count(ctx, k, r, due, now)
	return nil
}

// instanceOf is the instance of a planned moment.
func (s *Scheduler) instanceOf(ctx context.Context, k key, planned time.Time) (protocol.Instance, error) {
	shards, err := s.shardsOf(ctx, k.agent.Project)
	id := protocol.CronInstance(k.id, planned)
	return protocol.Instance{Project: k.agent.Project, Shard: protocol.Shard(id, shards), Workflow: k.agent.Name, ID: id}, err
}

// shardsOf asks the registry once for the number of shards of a project, which is fixed for good.
func (s *Scheduler) shardsOf(ctx context.Context, project string) (int, error) {
	if n, ok := s.shards.Load(project); ok {
		return n.(int), nil
	}
	row, err := streams.LookUp(ctx, s.js, project)
	if err != nil {
		return 0, err
	}
	if row.Shards > 0 {
		s.shards.Store(project, row.Shards)
	}
	return row.Shards, nil
}
