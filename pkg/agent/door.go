package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/porter"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// openDoor serves the door of the project for its agents: they are told of workflows that they track in projects with an account
// of their own.
func (s *HostService) openDoor(p *project.Project) (*porter.Porter, error) {
	return porter.Open(porter.Config{
		Store: p.Journal(), Objects: p.Objects(), Project: p.Config.Name, Log: p.Log, MaxValue: int64(p.Config.Settings.MaxValueSize),
		Registered: func(ctx context.Context) (*protocol.Project, error) { return streams.LookUp(ctx, p.JS, p.Config.Name) },
		Notice: func(ctx context.Context, caller string, n protocol.Notify) error {
			return takeNotice(ctx, p.Journal(), caller, n)
		},
	})
}

// takeNotice puts what a workflow of another project makes known into the inbox of the agent that tracks it, as mail of that project.
// For any other agent it is void.
func takeNotice(ctx context.Context, store *journal.Store, caller string, n protocol.Notify) error {
	to := n.Tracker.Agent()
	bucket := protocol.AgentsBucket(to.Project)
	m, err := store.Last(ctx, protocol.KVStream(bucket), protocol.KVSubject(bucket, protocol.AgentKey(to.Class, to.Name)))
	if errors.Is(err, journal.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mail to agent %q: %w", to, err)
	}
	var r protocol.Record
	if json.Unmarshal(m.Data, &r) != nil || r.Life != n.Tracker.Life || trackedAs(r.Workflows, &n.Notice) < 0 {
		return nil
	}
	return sendMail(ctx, store, to, caller, protocol.NoticeMail(n.Tracker, n.Notice, n.Sent))
}
