package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/skein-run/skein/internal/logkey"
)

// stint is one piece of an agent's work: a request, a letter, what follows a turn. It has the agent from its begin to its
// end, except while it is outside (see Outside): then the agent goes on with others, until it takes the stint back. So
// whatever belongs to the actor's goroutine belongs to the stint that has the agent.
type stint struct {
	what string // for those who wait
	call string // the id of the call that it is for, if it is for one
	// awaits is the agent that it waits for in a call.
	awaits atomic.Pointer[string]
	// stays is set if nobody else may have the agent before it ends.
	stays bool
	// giveUp does what is left to do for a stint whose code never returns. The agent is another one in memory by then.
	giveUp func(context.Context) error

	ended chan error            // takes one, without waiting
	left  chan struct{}         // it goes outside
	back  chan struct{}         // it has the agent again
	stuck chan struct{}         // takes one, without waiting: its turn should have ended long ago
	draft atomic.Pointer[draft] // of its turn, if it is in one
}

var (
	errGoexit = errors.New("the handler ended its goroutine")
	// errStuck is what whoever waits for a turn is told if its code does not return after its context has ended.
	errStuck = fmt.Errorf("%w and does not return", ErrTurnTooLong)
)

func newStint(what string) *stint {
	return &stint{
		what: what, ended: make(chan error, 1), left: make(chan struct{}), back: make(chan struct{}), stuck: make(chan struct{}, 1),
	}
}

// work runs fn as a stint, in a goroutine of its own. It returns when the agent is free again.
func (a *actor) work(ctx context.Context, s *stint, fn func(context.Context) error) error {
	a.current = s
	a.busy.Store(s)
	a.host.stage.Begin()
	go func() { // its end, or that nobody waits for it any more, is seen by follow and by run
		defer a.host.stage.End()
		err := error(&endError{errGoexit})
		defer func() { s.ended <- err }()
		err = fn(ctx)
	}()
	return a.follow(ctx, s)
}

// follow waits for the end of a stint that has the agent, or until it leaves.
func (a *actor) follow(ctx context.Context, s *stint) error {
	defer a.busy.Store(nil)
	a.host.working.Add(1)
	defer a.host.working.Add(-1)
	for {
		select {
		case err := <-s.ended:
			return err
		case <-s.left:
			a.away[s] = true
			return nil
		case <-s.stuck:
			if d := s.draft.Load(); d != nil && d.fate.abandon() {
				return a.goOnWithout(ctx, s, d)
			}
		}
	}
}

// takeBack gives the agent to a stint that was outside.
func (a *actor) takeBack(ctx context.Context, s *stint) error {
	delete(a.away, s)
	a.current = s
	a.busy.Store(s)
	s.back <- struct{}{}
	return a.follow(ctx, s)
}

// onStart is the stint in which an agent comes into memory.
const onStart = "OnStart"

// goOnWithout goes on with a new agent in memory: the old one belongs to code that does not return.
func (a *actor) goOnWithout(ctx context.Context, s *stint, d *draft) error {
	d.end()
	d.logger().ErrorContext(ctx, "turn was over its limit and does not return; the agent goes on without it",
		slog.Duration(logkey.Duration, a.class.limit))
	if s.stays {
		return fmt.Errorf("%s of agent %q: %w", s.what, a.id.Name, errStuck)
	}
	starting := newStint(onStart)
	starting.stays = true
	if err := a.work(ctx, starting, a.make); err != nil {
		return &endError{fmt.Errorf("make the agent anew: %w", err)}
	}
	if s.giveUp == nil {
		return nil
	}
	return a.work(ctx, newStint("what follows "+s.what), s.giveUp)
}

// awaitAway returns when the stints that were outside have found out that the agent is gone.
func (a *actor) awaitAway() {
	for s := range a.away {
		<-s.ended
	}
}

// fate says who may end a draft: its turn, or whoever does not want to wait for it any more.
type fate struct{ state atomic.Int32 }

const (
	fateOpen      = iota // the handler runs
	fateHeld             // the turn itself is at work, or outside
	fateReturned         // the handler has returned
	fateAbandoned        // nobody waits for the handler
)

// hold keeps the draft from being abandoned until loose is called. It returns false if it was.
func (f *fate) hold() bool    { return f.state.CompareAndSwap(fateOpen, fateHeld) }
func (f *fate) loose()        { f.state.CompareAndSwap(fateHeld, fateOpen) }
func (f *fate) returns() bool { return f.state.CompareAndSwap(fateOpen, fateReturned) }
func (f *fate) abandon() bool { return f.state.CompareAndSwap(fateOpen, fateAbandoned) }
