//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/test/lab/world"
)

// How long NATS has to mend itself once nothing is broken any more, and how long after each thing that an operator does then.
const (
	healsWithin  = 3 * time.Minute
	remedyWithin = 90 * time.Second
)

// errNoQuorum ends a run without a judgement.
var errNoQuorum = errors.New("NATS does not recover, and without it nothing can be judged")

// finding is a NATS server that did not mend itself, while a quorum of every stream was well. It says something about the setup; no
// promise of Skein is broken by it.
type finding struct {
	Server string `json:"server"`
	// Ailments are what the server said before anything was done about it.
	Ailments []world.Ailment `json:"ailments"`
	// Tried are the remedies, in the order in which they were tried. The last one has helped, if Healed.
	Tried  []string `json:"tried"`
	Healed bool     `json:"healed"`
}

func (f finding) String() string {
	outcome := "none has helped: it was stopped, and the others judged"
	if f.Healed {
		outcome = "the last one has healed it"
	}
	var ailments []string
	for _, a := range f.Ailments {
		ailments = append(ailments, a.String())
	}
	return fmt.Sprintf("%s did not mend itself (%s); tried: %s; %s", f.Server, strings.Join(ailments, "; "), strings.Join(f.Tried, ", "), outcome)
}

// remedy is what an operator does about a server that stays sick.
type remedy struct {
	// what is done, with the command if there is one. %s is a stream, if it is done for each stream.
	what string
	do   func(l *laboratory, ctx context.Context, server *world.Process, stream string) error
	// each says that it is done for each stream that has a sick replica.
	each bool
}

// remedies, the mildest first.
var remedies = []remedy{
	{what: "restart", do: (*laboratory).restart},
	{what: "nats stream cluster step-down %s", do: (*laboratory).stepDown, each: true},
	{what: "start with an empty store_dir", do: (*laboratory).empty},
}

// heal waits until all NATS servers are healthy. For one that stays sick it does what an operator would, and tells: a quorum is enough to
// go on. It is an error if a stream or consumer has none.
func (l *laboratory) heal(ctx context.Context) error {
	servers := l.world.Processes(world.Server)
	if err := l.awaitHealthy(ctx, healsWithin, servers...); err != nil {
		return err
	}
	for _, server := range servers {
		f := finding{Server: server.Name, Ailments: server.Ailments(ctx)}
		if len(f.Ailments) == 0 {
			continue
		}
		l.say("%s is still not healthy: %v", f.Server, f.Ailments)
		err := l.treat(ctx, server, &f)
		l.report.Findings = append(l.report.Findings, f)
		if err != nil {
			return err
		}
		l.say("%v", f)
	}
	return nil
}

// treat tries one remedy after the other. A server that none of them heals is stopped: what it has must not be taken for what the others
// have. Nothing is done that would take the quorum from others.
func (l *laboratory) treat(ctx context.Context, server *world.Process, f *finding) error {
	for _, r := range remedies {
		names := []string{""}
		if r.each {
			names = streamsOf(server.Ailments(ctx))
		}
		for _, stream := range names {
			what := r.what
			if r.each {
				what = fmt.Sprintf(r.what, stream)
			}
			if err := r.do(l, ctx, server, stream); err != nil {
				what += fmt.Sprintf(" (%v)", err)
			}
			f.Tried = append(f.Tried, what)
			l.say("%s: %s", f.Server, what)
		}
		if len(names) == 0 {
			continue
		}
		if err := l.awaitHealthy(ctx, remedyWithin, server); err != nil {
			return err
		}
		if f.Healed = len(server.Ailments(ctx)) == 0; f.Healed {
			return nil
		}
	}
	_, err := server.Terminate(ctx)
	return errors.Join(err, l.awaitQuorum(ctx))
}

func streamsOf(ailments []world.Ailment) []string {
	names := map[string]bool{}
	for _, a := range ailments {
		if a.Stream != "" {
			names[a.Stream] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// awaitHealthy waits until servers are healthy, or the time is over, and then until everything has a quorum. It is an error only if that
// is not so.
func (l *laboratory) awaitHealthy(ctx context.Context, atMost time.Duration, servers ...*world.Process) error {
	deadline := time.Now().Add(atMost)
	for time.Now().Before(deadline) {
		if !slices.ContainsFunc(servers, func(p *world.Process) bool { return len(p.Ailments(ctx)) > 0 }) {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
	return l.awaitQuorum(ctx)
}

// awaitQuorum gives every stream and consumer some time to have a leader and a quorum.
func (l *laboratory) awaitQuorum(ctx context.Context) error {
	deadline := time.Now().Add(time.Minute)
	for {
		found := crippled(ctx, l.js)
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %s", errNoQuorum, strings.Join(found, "; "))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

func (l *laboratory) restart(ctx context.Context, server *world.Process, _ string) error {
	if _, err := server.Terminate(ctx); err != nil {
		return err
	}
	return server.Start()
}

func (l *laboratory) stepDown(ctx context.Context, _ *world.Process, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := l.nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.LEADER.STEPDOWN."+stream, nil)
	if err != nil {
		return err
	}
	if bytes.Contains(answer.Data, []byte(`"error"`)) {
		return errors.New(string(answer.Data))
	}
	return nil
}

// empty has a server begin anew, from what the others have. They must have a quorum without it, and be healthy: it forgets what it has
// voted for. (To remove its replica from the stream is refused where there are no more servers than replicas: peer remap failed, 10075.)
func (l *laboratory) empty(ctx context.Context, server *world.Process, _ string) error {
	for _, p := range l.world.Processes(world.Server) {
		if ailments := p.Ailments(ctx); p != server && len(ailments) > 0 {
			return fmt.Errorf("not done: %s is not healthy either: %v", p.Name, ailments)
		}
	}
	if _, err := server.Terminate(ctx); err != nil {
		return err
	}
	err := l.awaitQuorum(ctx)
	if err == nil {
		err = os.RemoveAll(filepath.Join(server.Machine.Disk.Path, "jetstream"))
	}
	return errors.Join(err, server.Start())
}
