package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// nobodyFor is how long a caller waits for the first host of a class: as long as a deployment may take.
const nobodyFor = 10 * time.Second

// callThere lets any host of the class bring the call to the agent. It repeats the call, under the same id, until one has
// answered.
func (c *caller) callThere(ctx context.Context, deadline time.Time) (protocol.Reply, error) {
	subject := protocol.CallSubject(c.target.Project, c.project.Config.Name, c.target.Class)
	q := asker{nc: c.project.NC, answers: c.project.Answers(), times: defaultTiming(), log: c.project.Log}
	var nobody time.Time
	astray := false // a copy of the call may still be under way
	for wait := firstPause; ; wait = min(2*wait, longPause) {
		reply, err := q.ask(ctx, subject, c.request(deadline), func(r protocol.Reply) error { c.hear(r); return nil })
		if err == nil {
			if reply.Kept && !c.call.Keep && !astray {
				q.tell(ctx, subject, c.confirmation())
			}
			return reply, nil
		}
		astray = astray || mayTurnUp(err)
		switch {
		case !errors.Is(err, errNobody):
			nobody = time.Time{}
		case nobody.IsZero():
			nobody = time.Now()
			if err := c.checkTarget(ctx); err != nil {
				return reply, err
			}
		case time.Since(nobody) > c.nobodyFor:
			return reply, &NoHostError{Project: c.target.Project, Class: c.target.Class}
		}
		if again := errors.Is(err, errMoved) || errors.Is(err, errNobody) || errors.Is(err, errSilent) || errors.Is(err, errFate); !again {
			return reply, err
		}
		if err := ctxtime.Sleep(ctx, wait); err != nil {
			return reply, err
		}
	}
}

func (c *caller) hear(reply protocol.Reply) { c.busy = reply.Busy }

// checkTarget reports whether anybody has ever served the class of the target.
func (c *caller) checkTarget(ctx context.Context) error {
	row, err := streams.LookUp(ctx, c.project.JS, c.target.Project)
	if errors.Is(err, streams.ErrUnknownProject) {
		return &NoClassError{Project: c.target.Project, Class: c.target.Class}
	}
	if err != nil {
		return fmt.Errorf("look up class %q: %w", c.target.Class, err)
	}
	if _, ok := row.Agents[c.target.Class]; !ok {
		return &NoClassError{Project: c.target.Project, Class: c.target.Class, Classes: slices.Sorted(maps.Keys(row.Agents))}
	}
	return nil
}

// tell sends a request that nobody answers.
func (q asker) tell(ctx context.Context, subject string, request protocol.Request) {
	body, err := json.Marshal(request)
	if err == nil {
		err = q.nc.Publish(subject, body)
	}
	if err != nil {
		q.log.DebugContext(ctx, "confirm a call", slog.Any(logkey.Error, err))
	}
}
