//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	{what: "nats stream cluster peer-remove %s", do: (*laboratory).removePeer, each: true},
}

// heal waits until all NATS servers are healthy. For one that stays sick it does what an operator would, and tells: a quorum is enough to
// go on. It is an error if a stream or consumer has none.
func (l *laboratory) heal(ctx context.Context) error {
	sick, err := l.awaitHealthy(ctx, healsWithin)
	for _, name := range slices.Sorted(maps.Keys(sick)) {
		if err != nil {
			break
		}
		f := finding{Server: name, Ailments: sick[name]}
		l.say("%s is still not healthy: %v", name, sick[name])
		err = l.treat(ctx, &f)
		l.report.Findings = append(l.report.Findings, f)
		l.say("%v", f)
	}
	return err
}

// treat tries one remedy after the other. A server that none of them heals is stopped: what it has must not be taken for what the others
// have. Nothing is done that would take the quorum from others.
func (l *laboratory) treat(ctx context.Context, f *finding) error {
	server := l.world.Machine(f.Server).Processes[0]
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
		sick, err := l.awaitHealthy(ctx, remedyWithin)
		if err != nil {
			return err
		}
		if _, still := sick[f.Server]; !still {
			f.Healed = true
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

// awaitHealthy waits until all servers are healthy and everything has a quorum. Servers that are not at the end are returned with what
// they say; what has no quorum then is an error.
func (l *laboratory) awaitHealthy(ctx context.Context, atMost time.Duration) (map[string][]world.Ailment, error) {
	deadline := time.Now().Add(atMost)
	for {
		sick := map[string][]world.Ailment{}
		for _, p := range l.world.Processes(world.Server) {
			if ailments := p.Ailments(ctx); len(ailments) > 0 {
				sick[p.Name] = ailments
			}
		}
		late := time.Now().After(deadline)
		if len(sick) == 0 || late {
			return sick, l.awaitQuorum(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
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
			return fmt.Errorf("NATS does not recover, and without it nothing can be judged: %s", strings.Join(found, "; "))
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
	return l.api(ctx, "STREAM.LEADER.STEPDOWN."+stream, nil)
}

func (l *laboratory) removePeer(ctx context.Context, server *world.Process, stream string) error {
	return l.api(ctx, "STREAM.PEER.REMOVE."+stream, map[string]string{"peer": server.Machine.Name})
}

// api asks JetStream for something that its client library does not offer.
func (l *laboratory) api(ctx context.Context, what string, request any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var data []byte
	if request != nil {
		var err error
		if data, err = json.Marshal(request); err != nil {
			return err
		}
	}
	answer, err := l.nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+what, data)
	if err != nil {
		return err
	}
	if bytes.Contains(answer.Data, []byte(`"error"`)) {
		return errors.New(string(answer.Data))
	}
	return nil
}
