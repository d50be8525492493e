package runner

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/porter"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// openDoor serves the door of the project for its workflows, until shut is called.
func (r *Runner) openDoor() (shut func(), err error) {
	if r.Doors == nil {
		return func() {}, nil
	}
	p, err := porter.Open(porter.Config{
		Store: r.Store, Objects: r.Objects, Project: r.Project, Log: r.Log, MaxValue: r.MaxValueSize,
		Registered: func(ctx context.Context) (*protocol.Project, error) { return streams.LookUp(ctx, r.JS, r.Project) },
		Workflows:  &porter.Workflows{Ask: r.askedFor, Expects: r.expects},
	})
	if err != nil {
		return nil, err
	}
	return func() {
		if err := p.Close(); err != nil {
			r.Log.WarnContext(context.Background(), "close the door", logkey.Error, err)
		}
	}, nil
}

// askedFor answers a question of another project.
func (r *Runner) askedFor(ctx context.Context, ask protocol.Ask) []byte {
	question, err := json.Marshal(ask)
	var body []byte
	if err == nil {
		body, err = fitted(r.reply(ctx, question))
	}
	if err != nil {
		r.Log.WarnContext(ctx, "cannot answer a question about an instance", logkey.Error, err)
	}
	return body
}

// expects reports whether an instance waits for the end of what a call of it has created in another project. Only then may that one
// say so: it could end the calls of others.
func (r *Runner) expects(ctx context.Context, caller string, e protocol.Ended) (bool, error) {
	parent := protocol.Instance{Project: r.Project, Shard: e.Parent.Shard, Workflow: e.Parent.Workflow, ID: e.Parent.ID}
	s, err := r.look(ctx, parent)
	if err != nil || s.created != e.Parent.Incarnation || s.tail == nil {
		return false, err
	}
	history, err := r.load(ctx, parent, s)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(history.OpenCalls(), func(c engine.Call) bool {
		return c.Type == e.Parent.Call && c.Callee.Project == caller && c.Callee.Workflow == e.Done.Workflow && c.Callee.ID == e.Done.ID &&
			(c.Callee.Incarnation == 0 || c.Callee.Incarnation == e.Done.Incarnation)
	}), nil
}

// postWithin bounds one try to keep something that is to be said: a stream that is slow for longer is tried again.
const postWithin = 30 * time.Second

// postTo keeps what is to be said to a project at its door, if it has one: with news, that is something which it has asked for.
func (r *Runner) postTo(ctx context.Context, project string, news bool, id string, p protocol.Post) (posted bool, err error) {
	through, err := r.Doors.Through(ctx, project)
	if !through || err != nil {
		return false, err
	}
	to := r.Doors.To(project)
	if news {
		to = r.Doors.News(project)
	}
	ctx, cancel := context.WithTimeout(ctx, postWithin)
	defer cancel()
	return true, r.Post.Add(ctx, to, id, p)
}
