package porter

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// knownFor is how old the row of the project may be that requests are judged by.
const knownFor = 2 * time.Second

// known is the row of the project, read at most once in a while.
type known struct {
	mu    sync.Mutex // guards what follows, also while the registry is asked
	until time.Time
	row   *protocol.Project
}

func (p *Porter) project(ctx context.Context) (*protocol.Project, error) {
	p.row.mu.Lock()
	defer p.row.mu.Unlock()
	if time.Now().Before(p.row.until) {
		return p.row.row, nil
	}
	row, err := p.Registered(ctx)
	if err != nil {
		return nil, err
	}
	p.row.row, p.row.until = row, time.Now().Add(knownFor)
	return row, nil
}

// registry tells a caller what there is: names of workflows with their classes, and of classes of agents.
func (p *Porter) registry(ctx context.Context, _ *visit) (protocol.DoorAnswer, error) {
	row, err := p.project(ctx)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	answer := protocol.DoorAnswer{Workflows: map[string]string{}, Agents: slices.Sorted(maps.Keys(row.Agents))}
	for name, class := range row.Workflows {
		answer.Workflows[name] = class.Class
	}
	return answer, nil
}

// instance finds the instance that a request is about, of a workflow that the project has. There need not be one.
func (p *Porter) instance(ctx context.Context, v *visit) (protocol.Instance, error) {
	if err := protocol.CheckInstance(v.request.ID); err != nil {
		return protocol.Instance{}, refused("%v", err)
	}
	row, err := p.project(ctx)
	if err != nil {
		return protocol.Instance{}, err
	}
	if _, ok := row.Workflows[v.Name]; !ok {
		return protocol.Instance{}, refused("project %q has no workflow %q", p.Project, v.Name)
	}
	return v.at(row.Shards), nil
}
