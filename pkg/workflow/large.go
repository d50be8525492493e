package workflow

import (
	"context"
	"encoding/json"

	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// maxValue is the most bytes that a value of a project may have as JSON.
func maxValue(p *project.Project) int64 { return int64(p.Config.Settings.MaxValueSize) }

// fit puts a value into the object store of the instance that it is for, if it is too large for a message. In an agent's
// turn that is before the commit: the outbox refers to it.
func fit(ctx context.Context, p *project.Project, owner protocol.ObjectOwner, raw json.RawMessage) (json.RawMessage, *protocol.Object, error) {
	if t, ok := turn.From(ctx); ok {
		s := t.Source()
		return keep(ctx, p, objects.Value{Owner: owner, JSON: raw, Keeper: objects.Keeper{Project: s.Project, Key: protocol.AgentKey(s.Class, s.Name)}})
	}
	return p.Objects().Fit(ctx, objects.Value{Owner: owner, JSON: raw})
}

// fitToKeep is fit for what may have to wait for the project that it is for.
func fitToKeep(ctx context.Context, p *project.Project, owner protocol.ObjectOwner, raw json.RawMessage) (json.RawMessage, *protocol.Object, error) {
	return keep(ctx, p, objects.Value{Owner: owner, JSON: raw})
}

// keep puts a value into the own store if its owner is behind a door: it is handed over with the message that refers to it, which
// may have to wait.
func keep(ctx context.Context, p *project.Project, v objects.Value) (json.RawMessage, *protocol.Object, error) {
	behind, err := p.Doors().Through(ctx, v.Owner.Project)
	if err != nil {
		return nil, nil, err
	}
	if behind {
		v.Owner.Project = p.Config.Name
	}
	return p.Objects().Fit(ctx, v)
}

// unfit takes away the params of a create that was refused. What is left behind, should that fail, goes when the
// project's log is cleaned.
func unfit(ctx context.Context, p *project.Project, owner protocol.ObjectOwner, params *protocol.Object) {
	if params != nil {
		_ = p.Objects().DeleteInstance(ctx, owner)
	}
}
