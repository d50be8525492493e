package project

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/post"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// Doors lead to projects that have an account of NATS of their own: for the services, and of no use to others.
func (p *Project) Doors() *door.Caller { return p.doors }

// Post keeps what runners have to say at the doors of others: for the services, and of no use to others.
func (p *Project) Post() *post.Office { return p.post }

// Instances reaches instances of workflows, of this project and of others: for the services, and of no use to others.
func (p *Project) Instances() client.Client {
	return client.Client{Store: p.store, Doors: p.doors, Objects: p.objects}
}

// isRegistered reports whether another project has a row in the registry of the account.
func (p *Project) isRegistered(ctx context.Context, project string) (bool, error) {
	_, err := streams.LookUp(ctx, p.JS, project)
	if errors.Is(err, streams.ErrUnknownProject) {
		return false, nil
	}
	return err == nil, err
}

// askWithin bounds the question what another project has, rememberWithin the note of its answer.
const (
	askWithin      = 3 * time.Second
	rememberWithin = 5 * time.Second
)

// AskDoor asks another project what it has, at its door: for the services, and of no use to others. If it does not answer, what it
// said before counts. The error is a *door.AwayError if it never has.
func (p *Project) AskDoor(ctx context.Context, project string) (protocol.KnownDoor, error) {
	asking, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	at := p.doors.To(project)
	answer, err := p.doors.Hasty().Do(asking, at, at.RegistrySubject(), protocol.DoorRequest{})
	if err == nil {
		known := protocol.KnownDoor{Workflows: answer.Workflows, Agents: answer.Agents}
		p.rememberDoor(ctx, project, known)
		return known, nil
	}
	row, lookErr := streams.LookUp(ctx, p.JS, p.Config.Name)
	if known, ok := row.DoorOf(project); lookErr == nil && ok {
		return known, nil
	}
	return protocol.KnownDoor{}, err
}

// WorkflowsOf tells the workflows of a project with their classes, and its number of shards, as the registry of the account has them. If
// it has not, its door tells, and to its callers a project has one shard: for the services, and of no use to others. If neither tells,
// the error wraps streams.ErrUnknownProject, and what AskDoor says.
func (p *Project) WorkflowsOf(ctx context.Context, project string) (classes map[string]string, shards int, err error) {
	row, err := streams.LookUp(ctx, p.JS, project)
	if errors.Is(err, streams.ErrUnknownProject) {
		known, doorErr := p.AskDoor(ctx, project)
		if doorErr != nil {
			return nil, 0, fmt.Errorf("%w (%w)", err, doorErr)
		}
		return known.Workflows, 1, nil
	}
	if err != nil {
		return nil, 0, err
	}
	classes = make(map[string]string, len(row.Workflows))
	for workflow, class := range row.Workflows {
		classes[workflow] = class.Class
	}
	return classes, row.Shards, nil
}

// RemembersDoors says that this program may write the row of its project.
func (p *Project) RemembersDoors() { p.remembers.Store(true) }

// rememberDoor notes what a project has said, for the time when it does not answer.
func (p *Project) rememberDoor(ctx context.Context, project string, known protocol.KnownDoor) {
	if !p.remembers.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, rememberWithin)
	defer cancel()
	if err := streams.RememberDoor(ctx, p.JS, p.Config.Name, project, known); err != nil {
		p.Log.DebugContext(ctx, "remember what a project has", slog.String(logkey.Target, project), slog.Any(logkey.Error, err))
	}
}
