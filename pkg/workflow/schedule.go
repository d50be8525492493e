package workflow

import (
	"context"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/crontab"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Schedule says which cron line of skein.jsonc has started an instance, and for which moment.
type Schedule struct {
	// Cron is the line, Zone its time zone; empty is UTC.
	Cron string
	Zone string
	// Planned is the moment of the line, Actual when the instance was created: later by the jitter, or if no scheduler could
	// do it in time.
	Planned time.Time
	Actual  time.Time
}

func scheduleOf(create protocol.Create) *Schedule {
	f := create.Schedule
	if f == nil {
		return nil
	}
	return &Schedule{Cron: f.Cron, Zone: f.Zone, Planned: f.Planned, Actual: create.Created}
}

// setSchedules stores the schedules of skein.jsonc for the schedulers, and tells what that has changed.
func setSchedules(ctx context.Context, p *project.Project, options streams.Options) error {
	now := time.Now()
	if clock := execution.SettingsOf(ctx).Hooks.Now; clock != nil {
		now = clock()
	}
	var wanted []protocol.Schedule
	for _, w := range p.Config.Own() {
		for _, s := range w.Schedules {
			wanted = append(wanted, s.Row(w.Name, now))
		}
	}
	if len(wanted) > 0 {
		if err := streams.EnsureSchedules(ctx, p.JS, p.Config.Name, options); err != nil {
			return err
		}
	}
	changes, err := crontab.Table{Store: p.Journal(), Project: p.Config.Name}.Set(ctx, wanted, now)
	for _, c := range changes {
		logChange(ctx, p.Log, c, now)
	}
	if err != nil || len(wanted) == 0 {
		return err
	}
	return streams.RegisterSchedules(ctx, p.JS, p.Config.Name)
}

func logChange(ctx context.Context, log *slog.Logger, c crontab.Change, now time.Time) {
	log = log.With(slog.String(logkey.Workflow, c.Workflow), slog.String(logkey.Schedule, c.ID),
		slog.String(logkey.Cron, c.Row.Cron), slog.String(logkey.Zone, c.Row.Zone))
	text := "schedule " + string(c.Did)
	switch c.Did {
	case crontab.Left:
		log.WarnContext(ctx, text)
	case crontab.Updated:
		log.InfoContext(ctx, text, slog.String(logkey.Changed, c.Changed()))
	default:
		log.InfoContext(ctx, text)
	}
	if c.Did == crontab.Created || c.Did == crontab.Updated {
		if plan, err := moments.Of(&c.Row); err == nil && plan.After(now).IsZero() {
			log.WarnContext(ctx, "schedule has no moment to come: its bounds have passed")
		}
	}
}
