// Package door is how a project speaks to others that have an account of NATS of their own: it finds out which those are, and
// brings requests to their doors until they are answered. Package porter serves the other side.
//
// It must never decide what is allowed: that is for whoever owns the door. And it must never send anything that is harmful
// twice, since an answer that is lost makes it ask again.
package door

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// tryTimeout bounds one try of a request. It is above what a door takes for anything but an answer that waits.
	tryTimeout = 7 * time.Second
	// patience is how long nobody may answer until a caller is told so who waits: as long as a deployment may take.
	patience = 10 * time.Second
	// firstPause and maxPause are between two tries.
	firstPause = 10 * time.Millisecond
	maxPause   = time.Second
	// behindFor is how long it is remembered that a project is behind a door. One that is not stays so while the process lives.
	behindFor = 30 * time.Second
)

// AwayError says that nobody answered at the door of a project.
type AwayError struct {
	Project string
	// Err is what the last try came to.
	Err error
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("project %q does not answer at its door: none of its processes runs, or it has not granted this project access; "+
		"whether what was sent is stored is not known, to send it again with the same id is safe (last try: %v)", e.Project, e.Err)
}

// Is makes errors.Is(err, journal.ErrUnknownOutcome) true.
func (e *AwayError) Is(target error) bool { return target == journal.ErrUnknownOutcome }

// Unwrap gives what the last try came to.
func (e *AwayError) Unwrap() error { return e.Err }

// Caller speaks at the doors of others in the name of a project. It is safe for concurrent use.
type Caller struct {
	*ways
	hasty bool
}

// ways are how projects are reached, as far as it is known.
type ways struct {
	nc      *nats.Conn
	project string
	// registered reports whether the account has a row of a project: then it is reached directly.
	registered func(ctx context.Context, project string) (bool, error)

	mu     sync.Mutex           // guards what follows
	direct map[string]bool      // for good
	behind map[string]time.Time // until when it is believed
}

// Open makes a Caller for a project. Registered reports whether another project has a row in the registry of the account.
func Open(nc *nats.Conn, project string, registered func(ctx context.Context, project string) (bool, error)) *Caller {
	return &Caller{ways: &ways{
		nc: nc, project: project, registered: registered, direct: map[string]bool{project: true}, behind: map[string]time.Time{},
	}}
}

// Hasty returns a Caller that tries once and does not wait for doors that are away: for those who keep what they have to say.
func (c *Caller) Hasty() *Caller {
	if c == nil {
		return nil
	}
	return &Caller{ways: c.ways, hasty: true}
}

// Project is the one in whose name it speaks.
func (c *Caller) Project() string { return c.project }

// Through reports whether a project is reached through its door. Without a Caller every project is reached directly.
func (c *Caller) Through(ctx context.Context, project string) (bool, error) {
	if c == nil {
		return false, nil
	}
	c.mu.Lock()
	direct, until := c.direct[project], c.behind[project]
	c.mu.Unlock()
	if direct || time.Now().Before(until) {
		return !direct, nil
	}
	registered, err := c.registered(ctx, project)
	if err != nil {
		return false, fmt.Errorf("find the way to project %q: %w", project, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if registered {
		c.direct[project] = true
	} else {
		c.behind[project] = time.Now().Add(behindFor)
	}
	return !registered, nil
}

// doubt lets the way to a project be looked up again: it may have moved.
func (c *Caller) doubt(project string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.behind, project)
}

// To is the door of another project, where this one speaks.
func (c *Caller) To(project string) protocol.Door {
	return protocol.Door{Owner: project, Caller: c.project}
}

// News is where this project tells another what that one has asked for.
func (c *Caller) News(project string) protocol.Door {
	return protocol.Door{News: true, Owner: project, Caller: c.project}
}

// Do brings a request to a door until it is answered, ctx ends, or nobody has answered for some time: then the error is an
// *AwayError. What the door says is wrong is a *protocol.Failure.
func (c *Caller) Do(ctx context.Context, at protocol.Door, subject string, request protocol.DoorRequest) (protocol.DoorAnswer, error) {
	var answer protocol.DoorAnswer
	request.V = protocol.Version
	body, err := json.Marshal(request)
	if err != nil {
		return answer, err
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		data, err := c.Request(ctx, at, subject, body, time.Duration(request.Wait))
		if err != nil {
			return answer, err
		}
		answer = protocol.DoorAnswer{}
		switch err := json.Unmarshal(data, &answer); {
		case err != nil:
			return answer, fmt.Errorf("answer at the door of project %q: %w", at.Owner, err)
		case answer.V > protocol.Version:
			return answer, fmt.Errorf("answer at the door of project %q: has version %d, this program knows %d", at.Owner, answer.V, protocol.Version)
		case answer.Error == nil:
			return answer, nil
		case answer.Error.Name != protocol.FailureBusy || c.hasty:
			return answer, answer.Error
		}
		if err := ctxtime.Sleep(ctx, jitter(pause)); err != nil {
			return answer, &AwayError{Project: at.Owner, Err: errors.Join(err, answer.Error)}
		}
	}
}

// Request is Do for what is no DoorRequest. Wait is how long the answer may keep waiting, beyond what any answer takes.
func (c *Caller) Request(ctx context.Context, at protocol.Door, subject string, body []byte, wait time.Duration) ([]byte, error) {
	silence := time.Time{}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		data, err := c.try(ctx, subject, body, wait)
		if err == nil {
			return data, nil
		}
		switch {
		case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrMaxPayload):
			return nil, fmt.Errorf("ask at the door of project %q: %w", at.Owner, err)
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrTimeout):
			c.doubt(at.Owner)
			if silence.IsZero() {
				silence = time.Now()
			}
		}
		if c.hasty || !silence.IsZero() && time.Since(silence) > patience {
			return nil, &AwayError{Project: at.Owner, Err: err}
		}
		if stop := ctxtime.Sleep(ctx, jitter(pause)); stop != nil {
			return nil, &AwayError{Project: at.Owner, Err: fmt.Errorf("%w (%w)", stop, err)}
		}
	}
}

func (c *Caller) try(ctx context.Context, subject string, body []byte, wait time.Duration) ([]byte, error) {
	inner, cancel := context.WithTimeout(ctx, tryTimeout+wait)
	defer cancel()
	m, err := c.nc.RequestWithContext(inner, subject, body)
	if err != nil {
		if inner.Err() != nil && ctx.Err() == nil {
			err = nats.ErrTimeout
		}
		return nil, err
	}
	return m.Data, nil
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// Is reports whether err is what a door has said, by the name of the failure.
func Is(err error, name string) bool {
	f, ok := errors.AsType[*protocol.Failure](err)
	return ok && f.Name == name
}
