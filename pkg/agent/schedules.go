package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Schedules are the schedules of a project's agents, for those who operate it: see SchedulesOf.
type Schedules struct{ project *project.Project }

// SchedulesOf gives access to the schedules of all agents of a project. What is asked of it happens at once, also in a turn.
// Only Trigger and Delete wake an agent.
func SchedulesOf(p *project.Project) Schedules { return Schedules{p} }

// AgentTask is a schedule of one of a project's agents. Its ID is "<class>/<agent>/<id>".
type AgentTask struct {
	Class string `json:"class"`
	Agent string `json:"agent"`
	Task
}

// AgentTaskFilter says which schedules to list. The zero value takes all.
type AgentTaskFilter struct {
	// Class of the agents.
	Class string
	// Agent is the name of one agent of the class.
	Agent string
}

// ErrNoSchedule is wrapped if there is no schedule of an id: it has fired for the last time, or was cancelled.
var ErrNoSchedule = errors.New("no such schedule")

// List returns the schedules, by class, agent and id. One that is made or goes meanwhile may be missing.
func (s Schedules) List(ctx context.Context, filter AgentTaskFilter) iter.Seq2[AgentTask, error] {
	return func(yield func(AgentTask, error) bool) {
		if filter.Class == "" && filter.Agent != "" {
			yield(AgentTask{}, &ScheduleError{Field: "filter", Value: filter.Agent, Reason: "the agent's class is missing"})
			return
		}
		bucket := bucketOf(protocol.SchedulesBucket(s.project.Config.Name))
		for m, err := range rowsOf(ctx, s.project.Journal(), bucket, bucket.subject(protocol.ScheduleKeys(filter.Class, filter.Agent))) {
			if strings.HasPrefix(m.Subject, bucket.subject(protocol.ClassCron+".")) {
				continue // of a workflow
			}
			var task AgentTask
			if err == nil {
				task, err = s.task(ctx, &m)
			}
			if !yield(task, err) || err != nil {
				return
			}
		}
	}
}

// task is the schedule of a row, with what it has done so far.
func (s Schedules) task(ctx context.Context, m *journal.Message) (AgentTask, error) {
	row, err := parseScheduleRow(m)
	if err != nil {
		return AgentTask{}, err
	}
	task := AgentTask{Class: row.Class, Agent: row.Name, Task: taskOf(row, time.Now())}
	if row.Kind.Recurs() {
		agent := protocol.Agent{Project: s.project.Config.Name, Class: row.Class, Name: row.Name}
		if err := addProgress(ctx, s.project.Journal(), agent, []*Task{&task.Task}); err != nil {
			return AgentTask{}, err
		}
	}
	task.ID = row.Class + "/" + row.Name + "/" + row.ID
	return task, nil
}

func parseScheduleRow(m *journal.Message) (*protocol.Schedule, error) {
	row := new(protocol.Schedule)
	if err := json.Unmarshal(m.Data, row); err != nil {
		return nil, fmt.Errorf("schedule at %s: %w", m.Subject, err)
	}
	if row.V > protocol.ScheduleVersion {
		return nil, fmt.Errorf("schedule at %s is of version %d, known is %d", m.Subject, row.V, protocol.ScheduleVersion)
	}
	return row, nil
}

// Get returns one schedule. The error wraps ErrNoSchedule if there is none.
func (s Schedules) Get(ctx context.Context, id string) (AgentTask, error) {
	m, err := s.find(ctx, id)
	if err != nil {
		return AgentTask{}, err
	}
	return s.task(ctx, m)
}

// Upcoming returns the next n moments of a schedule; fewer if it has not so many, none if it is paused.
func (s Schedules) Upcoming(ctx context.Context, id string, n int) ([]time.Time, error) {
	m, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	row, err := parseScheduleRow(m)
	if err != nil {
		return nil, err
	}
	task, err := s.task(ctx, m)
	if err != nil {
		return nil, err
	}
	return moments.Upcoming(row, task.Runs, time.Now(), n)
}

// find reads the row of an id at the leader.
func (s Schedules) find(ctx context.Context, id string) (*journal.Message, error) {
	class, rest, _ := strings.Cut(id, "/")
	slash := strings.LastIndexByte(rest, '/')
	err := protocol.CheckClass(class)
	if err == nil && slash >= 0 {
		err = protocol.CheckAgent(rest[:slash])
	}
	if err != nil || slash < 0 || rest[slash+1:] == "" {
		return nil, &ScheduleError{Field: "id", Value: fmt.Sprintf("%q", id), Reason: "wanted is <class>/<agent>/<id>, as List has it"}
	}
	bucket := bucketOf(protocol.SchedulesBucket(s.project.Config.Name))
	m, err := s.project.Journal().Last(ctx, bucket.stream, bucket.subject(protocol.ScheduleKey(class, rest[:slash], rest[slash+1:])))
	if errors.Is(err, journal.ErrNotFound) || errors.Is(err, journal.ErrNoStream) || err == nil && m.Header.Get(protocol.HeaderKVOperation) != "" {
		return nil, fmt.Errorf("schedule %q of project %q: %w", id, s.project.Config.Name, ErrNoSchedule)
	}
	if err != nil {
		return nil, fmt.Errorf("read schedule %q: %w", id, err)
	}
	return m, nil
}

// Pause lets a schedule not fire any more, as PauseSchedule does.
func (s Schedules) Pause(ctx context.Context, id, note string) error {
	if err := checkNote(note); err != nil {
		return err
	}
	return s.change(ctx, id, func(row *protocol.Schedule) bool { return row.Pause(time.Now(), note) })
}

// Resume lets a schedule fire again, as ResumeSchedule does.
func (s Schedules) Resume(ctx context.Context, id string) error {
	return s.change(ctx, id, func(row *protocol.Schedule) bool { return row.Resume(time.Now()) })
}

// change changes the row of a schedule.
func (s Schedules) change(ctx context.Context, id string, change func(*protocol.Schedule) bool) error {
	for {
		m, err := s.find(ctx, id)
		if err != nil {
			return err
		}
		row, err := parseScheduleRow(m)
		if err != nil || !change(row) {
			return err
		}
		body, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("change schedule %q: %w", id, err)
		}
		_, err = s.project.Journal().Append(ctx, protocol.KVStream(protocol.SchedulesBucket(s.project.Config.Name)), m.Subject, m.Sequence, body)
		if isConflict(err) {
			continue // somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("change schedule %q: %w", id, err)
		}
		return nil
	}
}

// Trigger lets a schedule fire now, once, also if it is paused. Its plan and its counts stay as they are.
func (s Schedules) Trigger(ctx context.Context, id string) error {
	return s.tell(ctx, id, func(row *protocol.Schedule, now time.Time) protocol.Mail {
		return triggerOf(row, uuid.NewString(), now)
	})
}

// deleteAhead is by how much the clock of who deletes a schedule may be behind that of the schedulers: its end comes after
// all that has fired.
const deleteAhead = time.Minute

// Delete takes a schedule away. Its agent forgets it with the next turn; firings that came before still count.
func (s Schedules) Delete(ctx context.Context, id string) error {
	// In this order: a schedule that its agent does not know any more is taken away when it fires.
	err := s.tell(ctx, id, func(row *protocol.Schedule, now time.Time) protocol.Mail {
		return protocol.Mail{
			V: protocol.Version, Source: protocol.ScheduleSource(row.ID), Number: protocol.FiringNumber(now.Add(deleteAhead)), Life: row.Life,
			Planned: &now, Sent: now, Last: true,
		}
	})
	if err != nil {
		return err
	}
	m, err := s.find(ctx, id)
	if errors.Is(err, ErrNoSchedule) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := dropRow(ctx, s.project.Journal(), s.project.Config.Name, m.Subject, anyLife); err != nil {
		return fmt.Errorf("delete schedule %q: %w", id, err)
	}
	return nil
}

// tell sends the agent of a schedule mail about it.
func (s Schedules) tell(ctx context.Context, id string, mailOf func(*protocol.Schedule, time.Time) protocol.Mail) error {
	m, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	row, err := parseScheduleRow(m)
	if err != nil {
		return err
	}
	to := protocol.Agent{Project: s.project.Config.Name, Class: row.Class, Name: row.Name}
	return sendMail(ctx, s.project.Journal(), to, to.Project, mailOf(row, time.Now().UTC()))
}
