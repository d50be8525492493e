package workflow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/crontab"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Schedules are the cron lines that start instances of a project's workflows, for those who operate it: see SchedulesOf.
type Schedules struct{ project *project.Project }

// SchedulesOf gives access to the schedules of a project's workflows, as its runners have stored them. What they are stands in
// skein.jsonc: nobody else can change or delete them. What is asked of it happens at once, also in an agent's turn.
func SchedulesOf(p *project.Project) Schedules { return Schedules{p} }

// ScheduleStatus is a schedule of a workflow, and what it has done so far.
type ScheduleStatus = crontab.Status

// ErrNoSchedule is wrapped if there is no schedule of an id.
var ErrNoSchedule = crontab.ErrNone

// ScheduleError says what about a schedule cannot be.
type ScheduleError struct {
	// Field is "id", "note", "from", "until" or "kind".
	Field  string
	Value  string
	Reason string
}

func (e *ScheduleError) Error() string {
	return fmt.Sprintf("schedule: %s %s: %s", e.Field, e.Value, e.Reason)
}

// FailureName is how the error is called where it is stored or answered.
func (e *ScheduleError) FailureName() string { return "ScheduleError" }

func (s Schedules) table() crontab.Table {
	return crontab.Table{Store: s.project.Journal(), Project: s.project.Config.Name}
}

// List returns the schedules, by workflow and id.
func (s Schedules) List(ctx context.Context) ([]ScheduleStatus, error) { return s.table().List(ctx) }

// Get returns one schedule. The id of that and of all other calls is "<workflow>/<id>". The error wraps ErrNoSchedule if there is
// none.
func (s Schedules) Get(ctx context.Context, id string) (ScheduleStatus, error) {
	workflow, schedule, err := splitSchedule(id)
	if err != nil {
		return ScheduleStatus{}, err
	}
	return s.table().Get(ctx, workflow, schedule)
}

// Upcoming returns the next n moments of a schedule; fewer if it has not so many, none if it is paused.
func (s Schedules) Upcoming(ctx context.Context, id string, n int) ([]time.Time, error) {
	status, err := s.Get(ctx, id)
	if err != nil || status.Over {
		return nil, err
	}
	row, err := s.table().Row(ctx, status.Workflow, status.ID)
	if err != nil {
		return nil, err
	}
	return moments.Upcoming(row, status.Runs, time.Now(), n)
}

func splitSchedule(id string) (workflow, schedule string, err error) {
	workflow, schedule, _ = strings.Cut(id, "/")
	if protocol.CheckWorkflow(workflow) != nil || schedule == "" || strings.Contains(schedule, "/") {
		return "", "", &ScheduleError{Field: "id", Value: fmt.Sprintf("%q", id), Reason: "wanted is <workflow>/<id>, with both as List has them"}
	}
	return workflow, schedule, nil
}

// Pause lets a schedule start nothing any more; the note, of up to 1 KiB, says why. To pause it again changes the note. It stays
// paused when runners start that have something else to say of it, until Resume.
func (s Schedules) Pause(ctx context.Context, id, note string) error {
	if len(note) > protocol.MaxNote {
		return &ScheduleError{Field: "note", Value: fmt.Sprintf("of %d bytes", len(note)), Reason: fmt.Sprintf("at most %d are allowed", protocol.MaxNote)}
	}
	return s.change(ctx, id, func(row *protocol.Schedule) bool { return row.Pause(time.Now(), note) })
}

// Resume lets a schedule that is paused start instances again. What was planned meanwhile starts none, nor is it missed.
func (s Schedules) Resume(ctx context.Context, id string) error {
	return s.change(ctx, id, func(row *protocol.Schedule) bool { return row.Resume(time.Now()) })
}

func (s Schedules) change(ctx context.Context, id string, change func(*protocol.Schedule) bool) error {
	workflow, schedule, err := splitSchedule(id)
	if err != nil {
		return err
	}
	return s.table().Change(ctx, workflow, schedule, change)
}

// Trigger lets a schedule start an instance now, also if it is paused or over, and returns its id. Event.Schedule tells now as
// the planned moment. The plan of the schedule and its counts stay as they are.
func (s Schedules) Trigger(ctx context.Context, id string) (instance string, err error) {
	row, shards, err := s.row(ctx, id)
	if err != nil {
		return "", err
	}
	now, unique := time.Now().UTC(), uuid.NewString()
	create := row.CronCreate(s.project.Config.Name, now, now)
	create.ID, create.Input = protocol.TriggeredInstance(row.ID, now, unique[:8]), create.Input+"/"+unique
	if err := s.start(ctx, create, shards); err != nil {
		return "", fmt.Errorf("trigger schedule %q: %w", id, err)
	}
	return create.ID, nil
}

// row is the row of a schedule, and the number of shards that its instances are spread over.
func (s Schedules) row(ctx context.Context, id string) (*protocol.Schedule, int, error) {
	workflow, schedule, err := splitSchedule(id)
	if err != nil {
		return nil, 0, err
	}
	row, err := s.table().Row(ctx, workflow, schedule)
	if err != nil {
		return nil, 0, err
	}
	registered, err := streams.LookUp(ctx, s.project.JS, s.project.Config.Name)
	return row, registered.Shards, err
}

func (s Schedules) start(ctx context.Context, create protocol.Create, shards int) error {
	at := protocol.Instance{
		Project: s.project.Config.Name, Shard: protocol.Shard(create.ID, shards), Workflow: create.Workflow, ID: create.ID,
	}
	_, _, err := s.project.Instances().Create(journal.Refusing(ctx), at, create, protocol.ExistingFail)
	if errors.Is(err, client.ErrExists) {
		return &ExistsError{Workflow: at.Workflow, ID: at.ID}
	}
	return err
}
