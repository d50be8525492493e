package agent

import (
	"context"
	"fmt"

	"github.com/skein-run/skein/internal/turn"
)

// Save stores what the turn has asked for up to now, and carries it out, before the turn ends. If the turn fails later,
// that stays; only the rest is dropped. A turn for mail is stored once, at its end: there Save returns ErrInboxTurn.
func Save(ctx context.Context) error {
	d, err := anyDraft(ctx)
	switch {
	case err != nil:
		return err
	case d.isMail:
		return ErrInboxTurn
	case d.reading:
		return ErrReads
	case d.isCondemned():
		return ErrDestroyed
	case !d.fate.hold():
		return ErrNoTurn
	}
	defer d.fate.loose()
	return d.save(ctx)
}

// Outside stores what the turn has asked for up to now, as Save does, and calls fn while other turns of the agent run.
// When fn returns, it waits for the agent again and the turn goes on: the state may be another one by then. What is
// spent outside does not count against the limit of the turn. fn is no part of the turn: with its context, calls that
// need a turn return ErrNoTurn, and workflows are started at once.
//
// In a turn for mail nothing may have been asked for before, else Outside returns ErrDraftOpen. In OnStart, nobody else
// can have the agent: fn is only called.
func Outside(ctx context.Context, fn func(ctx context.Context) error) error {
	d, err := anyDraft(ctx)
	switch {
	case err != nil:
		return err
	case d.reading:
		return fn(d.outside(ctx))
	case d.isCondemned():
		return ErrDestroyed
	case !d.fate.hold():
		return ErrNoTurn
	}
	defer d.fate.loose()
	if d.isMail && !d.isEmpty() {
		return ErrDraftOpen
	}
	if !d.isMail {
		if err := d.save(ctx); err != nil {
			return err
		}
	}
	return d.leave(d.outside(ctx), fn)
}

// letOut returns when what the turn has asked for is stored, so that what it says may leave. While the turn is outside, it
// was stored before: then this host must only be sure of its lease (O6).
func (d *draft) letOut(ctx context.Context) error {
	d.mu.Lock()
	away := d.away
	d.mu.Unlock()
	if !away {
		return Save(ctx)
	}
	select {
	case <-d.actor.gone:
		return fmt.Errorf("%w: %w", ErrLostOwnership, d.actor.verdict)
	default:
	}
	_, err := d.actor.host.lease.wait(ctx)
	return err
}

// outside is the context of a turn without the turn.
func (d *draft) outside(ctx context.Context) context.Context {
	return context.WithValue(turn.With(ctx, nil), outsideKey{}, d.agent.String())
}

// save stores the draft as it is and begins another one. The caller holds the draft.
func (d *draft) save(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := d.drainChunks(ctx); err != nil {
		return err
	}
	ctx = ownContext(ctx)
	a := d.actor
	if err := a.fit(ctx); err != nil {
		return d.lose(err)
	}
	if d.isNoted() && d.isEmpty() {
		return nil
	}
	d.forceFrame()
	stored, err := a.commit(ctx, d)
	if isEnd(err) {
		return d.lose(err)
	}
	if err != nil || !stored {
		return err
	}
	d.rebase()
	if err := a.carryOut(ctx); err != nil {
		return d.lose(err)
	}
	d.rebase()
	return nil
}

// forceFrame makes the next commit note that the frame of a client is applied: what comes after an early commit must not be begun anew.
func (d *draft) forceFrame() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.socket != nil {
		d.socket.forced = true
	}
}

// leave calls fn while others have the agent.
func (d *draft) leave(ctx context.Context, fn func(context.Context) error) (err error) {
	s := d.stint
	if s == nil || s.stays {
		return fn(ctx)
	}
	d.setAway(true)
	d.clock.stop()
	s.left <- struct{}{}
	if d.left != nil {
		d.left()
	}
	defer func() { // also if fn panics: the turn needs the agent to end
		if d.chunks != nil {
			_ = d.chunks.drain(ctx) // so that the agent need not wait for a slow client later
		}
		if lost := d.comeBack(s); lost != nil {
			err = lost
		}
	}()
	return fn(ctx)
}

func (d *draft) comeBack(s *stint) error {
	a := d.actor
	select {
	case a.returns <- s:
	case <-a.gone:
		return d.lose(&endError{fmt.Errorf("outside: %w", a.verdict)})
	}
	<-s.back
	d.rebase()
	d.setAway(false)
	d.clock.start()
	return nil
}

// lose notes that the turn must end without another look at the agent, whatever the handler makes of it.
func (d *draft) lose(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost, d.over = err, true
	return fmt.Errorf("%w: %w", ErrLostOwnership, err)
}

func (d *draft) isLost() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

func (d *draft) setAway(away bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = away
}

// isEmpty reports whether nothing has been asked for.
func (d *draft) isEmpty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state == nil && d.seen == nil && d.queue == nil && !d.untracks && len(d.out)+len(d.frames) == 0
}

// rebase makes the draft one over the record as it is now.
func (d *draft) rebase() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.actor.lay(d)
	d.state, d.seen, d.queue, d.workflows, d.untracks, d.out, d.frames = nil, nil, nil, nil, false, nil, nil
}
