package scheduler

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// key names one schedule: where its row stands, where it is armed and where it fires to.
type key struct {
	// agent has, for a schedule of a workflow, the class protocol.ClassCron and the name of the workflow.
	agent protocol.Agent
	id    string
}

// parseRowSubject is the inverse of rowSubject for the rows of project.
func parseRowSubject(project, subject string) (key, error) {
	row, ok := strings.CutPrefix(subject, protocol.KVSubject(protocol.SchedulesBucket(project), ""))
	if !ok {
		return key{}, fmt.Errorf("%w: subject %q: not of a schedule of project %q", protocol.ErrName, subject, project)
	}
	return parseKey(project, row)
}

func parseKey(project, row string) (key, error) {
	class, name, id, err := protocol.ParseScheduleKey(row)
	if err != nil {
		return key{}, err
	}
	return key{agent: protocol.Agent{Project: project, Class: class, Name: name}, id: id}, nil
}

func parseDueSubject(subject string) (key, error) {
	agent, id, err := protocol.ParseClockDueSubject(subject)
	return key{agent: agent, id: id}, err
}

func (k key) rowStream() string {
	return protocol.KVStream(protocol.SchedulesBucket(k.agent.Project))
}

func (k key) rowSubject() string {
	bucket := protocol.SchedulesBucket(k.agent.Project)
	return protocol.KVSubject(bucket, protocol.ScheduleKey(k.agent.Class, k.agent.Name, k.id))
}

func (k key) clockSubject() string {
	return protocol.ClockSubject(k.agent.Project, k.agent.Class, k.agent.Name, k.id)
}

func (k key) dueSubject() string {
	return protocol.ClockDueSubject(k.agent.Project, k.agent.Class, k.agent.Name, k.id)
}

// source says who starts and steers the instances of the schedule of a workflow.
func (k key) source() protocol.Source {
	return protocol.Source{Kind: "cron", Project: k.agent.Project, Class: k.agent.Name, Name: k.id}
}

// address is how the commands of skein name the schedule.
func (k key) address() string {
	if k.agent.Class == protocol.ClassCron {
		return k.agent.Name + "/" + k.id
	}
	return k.agent.Class + "/" + k.agent.Name + "/" + k.id
}

// attr says, in a log line, which schedule it is about.
func (k key) attr() slog.Attr {
	if k.agent.Class == protocol.ClassCron {
		return slog.GroupAttrs("",
			slog.String(logkey.Project, k.agent.Project),
			slog.String(logkey.Workflow, k.agent.Name),
			slog.String(logkey.Schedule, k.id),
		)
	}
	return slog.GroupAttrs("",
		slog.String(logkey.Project, k.agent.Project),
		slog.String(logkey.Class, k.agent.Class),
		slog.String(logkey.Agent, k.agent.Name),
		slog.String(logkey.Schedule, k.id),
	)
}
