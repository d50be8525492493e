package workflow

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// Backfill is an order to start instances for all moments that a schedule plans in a range: see Schedules.Backfill.
type Backfill = moments.Backfill

// Backfilled is what a backfill has done.
type Backfilled = moments.Backfilled

// BackfillError says that a backfill broke off. To repeat it is harmless.
type BackfillError = moments.BackfillError

// Backfill starts an instance for each moment that a schedule plans in a range, up to 10,000, in the order of time, also if it is paused
// or over. The instance of a moment has the id that the scheduler would give it: if it is there, also because it was started in
// time, none is started for the moment. What bounds the schedule (from, until, times, overlap) does not bound this, nor is it
// counted. If the call breaks off, the error is a *BackfillError.
func (s Schedules) Backfill(ctx context.Context, id string, order Backfill) (Backfilled, error) {
	row, shards, err := s.row(ctx, id)
	if err != nil {
		return Backfilled{}, err
	}
	planned, err := backfilled(row, order)
	if err != nil {
		return Backfilled{}, err
	}
	if order.ID == "" {
		order.ID = uuid.NewString()
	}
	done := Backfilled{ID: order.ID, Moments: len(planned)}
	for _, moment := range planned {
		there, err := s.fill(ctx, row.CronCreate(s.project.Config.Name, moment, time.Now()), shards)
		if err != nil {
			return done, &BackfillError{Backfilled: done, Err: err}
		}
		if there {
			done.There++
		} else {
			done.Sent++
		}
		if order.Progress != nil {
			order.Progress(done.Sent+done.There, done.Moments)
		}
	}
	return done, nil
}

// BackfillMoments are the moments that a backfill would start instances for, or has.
func (s Schedules) BackfillMoments(ctx context.Context, id string, order Backfill) ([]time.Time, error) {
	row, _, err := s.row(ctx, id)
	if err != nil {
		return nil, err
	}
	return backfilled(row, order)
}

func backfilled(row *protocol.Schedule, order Backfill) ([]time.Time, error) {
	planned, err := order.Moments(row, time.Now())
	if refused, ok := errors.AsType[*moments.FieldError](err); ok {
		return nil, &ScheduleError{Field: refused.Field, Value: refused.Value, Reason: refused.Reason}
	}
	return planned, err
}

// fill starts the instance of a moment, unless it is there.
func (s Schedules) fill(ctx context.Context, create protocol.Create, shards int) (there bool, err error) {
	at := protocol.Instance{
		Project: s.project.Config.Name, Shard: protocol.Shard(create.ID, shards), Workflow: create.Workflow, ID: create.ID,
	}
	_, err = s.project.Instances().Look(ctx, at)
	if !errors.Is(err, client.ErrNotFound) {
		return err == nil, err
	}
	err = s.start(ctx, create, shards)
	if errors.Is(err, ErrExists) {
		return true, nil
	}
	return false, err
}
