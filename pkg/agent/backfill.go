package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// Backfill is an order to fire all moments that a schedule plans in a range: see Schedules.Backfill.
type Backfill = moments.Backfill

// Backfilled is what a backfill has done.
type Backfilled = moments.Backfilled

// BackfillError says that a backfill broke off. To repeat it with the same id, from and until is harmless.
type BackfillError = moments.BackfillError

const (
	// roomEvery is after how many firings of a backfill it is looked how full the inbox is. With more than leaveRoom in it, the backfill
	// waits: what else the agent gets needs room, too.
	roomEvery = 100
	leaveRoom = protocol.MaxWaiting / 2
	// roomPoll is how long that waits before it looks again.
	roomPoll = 250 * time.Millisecond
)

// Backfill lets a schedule fire once for each moment that it plans in a range, up to 10,000, in the order of time, also if it is paused.
// A moment that has fired before fires again. What bounds the schedule (From, Until, Times) does not bound this, nor is it counted; but the moments
// of Every begin when the schedule was made, or with From. Firing tells the planned moment.
//
// The firings wait in the agent's inbox, one behind the other; an inbox that is half full is waited for. An agent that cancels the schedule takes what is left of them
// with it. If the call breaks off, the error is a *BackfillError; repeated with the same id and range, each moment fires once,
// if that is within a week.
func (s Schedules) Backfill(ctx context.Context, id string, order Backfill) (Backfilled, error) {
	row, planned, err := s.backfilled(ctx, id, order)
	if err != nil {
		return Backfilled{}, err
	}
	if order.ID == "" {
		order.ID = uuid.NewString()
	}
	done := Backfilled{ID: order.ID, Moments: len(planned)}
	source := protocol.BackfillSource(order.ID, row.ID, order.From, order.Until)
	for _, moment := range planned {
		if err := s.fill(ctx, row, source, moment, done.Sent); err != nil {
			return done, &BackfillError{Backfilled: done, Err: err}
		}
		if done.Sent++; order.Progress != nil {
			order.Progress(done.Sent, done.Moments)
		}
	}
	return done, nil
}

// BackfillMoments are the moments that a backfill would fire.
func (s Schedules) BackfillMoments(ctx context.Context, id string, order Backfill) ([]time.Time, error) {
	_, planned, err := s.backfilled(ctx, id, order)
	return planned, err
}

func (s Schedules) backfilled(ctx context.Context, id string, order Backfill) (*protocol.Schedule, []time.Time, error) {
	m, err := s.find(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	row, err := parseScheduleRow(m)
	if err != nil {
		return nil, nil, err
	}
	planned, err := order.Moments(row, time.Now())
	if refused, ok := errors.AsType[*moments.FieldError](err); ok {
		err = &ScheduleError{Field: refused.Field, Value: refused.Value, Reason: refused.Reason}
	}
	return row, planned, err
}

// fill sends the firing of one moment of a backfill that has sent so many.
func (s Schedules) fill(ctx context.Context, row *protocol.Schedule, source string, planned time.Time, sent int) error {
	to := protocol.Agent{Project: s.project.Config.Name, Class: row.Class, Name: row.Name}
	mail := protocol.Mail{
		V: protocol.Version, Source: source, Number: protocol.FiringNumber(planned), Life: row.Life, Schedule: row.ID,
		Callback: row.Callback, Payload: row.Payload, Retry: row.Retry, Planned: &planned,
	}
	for look := sent%roomEvery == 0; ; look = true {
		full := false
		if look {
			status, err := Inbox(ctx, s.project, to.Class, to.Name)
			if err != nil {
				return err
			}
			full = status.Waiting >= leaveRoom
		}
		if !full {
			mail.Sent = time.Now().UTC()
			err := sendMail(ctx, s.project.Journal(), to, to.Project, mail)
			if _, full = errors.AsType[*InboxFullError](err); !full {
				return err
			}
		}
		if err := ctxtime.Sleep(ctx, roomPoll); err != nil {
			return fmt.Errorf("wait for room in the inbox of agent %q: %w", to, err)
		}
	}
}
