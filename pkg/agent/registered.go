package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// registered are the classes of the project that any host has ever served, looked up at most once in a while.
type registered struct {
	mu    sync.Mutex // guards what follows, also while the registry is asked
	until time.Time
	names []string
}

// lookUpEvery is how old what is known of the registry may be.
const lookUpEvery = 2 * time.Second

// classes returns the names of all classes of the project.
func (h *host) registeredClasses(ctx context.Context) ([]string, error) {
	r := &h.registered
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.until) {
		return r.names, nil
	}
	row, err := streams.LookUp(ctx, h.project.JS, h.name)
	if err != nil {
		return nil, fmt.Errorf("look up the classes of project %q: %w", h.name, err)
	}
	r.names, r.until = slices.Sorted(maps.Keys(row.Agents)), time.Now().Add(lookUpEvery)
	return r.names, nil
}

// foreignClass is the class that a part of a path names if another host of the project serves it, or has. The error is a
// *NoClassError if none ever did.
func (h *host) foreignClass(ctx context.Context, segment string) (string, error) {
	names, err := h.registeredClasses(ctx)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if isPathOf(segment, name) {
			return name, nil
		}
	}
	routes := make([]string, len(names))
	for i, name := range names {
		routes[i] = kebab(name)
	}
	return "", &NoClassError{Project: h.name, Class: segment, Classes: slices.Sorted(slices.Values(routes))}
}

// errNoHost is that nobody listens for a class.
var errNoHost = fmt.Errorf("%w: no host has the class", errNobody)

// askOwner brings an errand to an agent of a class that this host does not have.
func (h *host) askOwner(ctx context.Context, id protocol.Agent, e errand) (protocol.Reply, error) {
	activate := &protocol.Activate{Class: id.Class, Name: id.Name}
	reply, err := h.ask(ctx, protocol.ActivateSubject(h.name, id.Class), protocol.Request{V: protocol.Version, Activate: activate})
	switch {
	case errors.Is(err, errNobody):
		return reply, errNoHost
	case err != nil:
		return reply, err
	case reply.Error != nil:
		return reply, nil
	case reply.Owner == "":
		return reply, errMoved
	}
	request, err := e.request()
	if err != nil {
		return reply, err
	}
	request.Activate = activate
	return h.askFor(ctx, e, protocol.HostSubject(h.name, reply.Owner), request)
}
