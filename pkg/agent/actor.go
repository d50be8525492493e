package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// actor is one agent in the memory of this host. One goroutine takes the agent, gives it to one stint after the other and
// lets it go.
type actor struct {
	host  *host
	class *class
	id    protocol.Agent
	log   *slog.Logger

	jobs    chan *job
	mail    *mailbox
	started chan struct{} // closed when the agent takes turns
	gone    chan struct{} // closed when it is out of memory
	verdict error         // why it is gone; set before gone is closed
	cancel  context.CancelCauseFunc
	epoch   atomic.Uint64 // 0 until the agent is taken
	returns chan *stint   // those that were outside
	busy    atomic.Pointer[stint]
	// requests counts those that wait for a turn or for the end of theirs.
	requests atomic.Int64
	stored   atomic.Pointer[snapshot]
	// confirmed are calls that the next commit may forget.
	confirmed confirmations

	// The rest belongs to the goroutine, or to the stint that it waits for.
	current *stint
	away    map[*stint]bool
	agent   Agent
	at      version         // the record as stored
	whole   json.RawMessage // its state
	states  *states
	changed bool                // the state, and OnStateChanged does not know
	taken   uint64              // the sequence of the write that took the agent
	stamp   stamp               // the lease under which at was read or written
	pending []protocol.Outgoing // stored, and not carried out yet
	stuck   map[string]bool     // concerns of pending entries that wait for retry
	again   map[string]bool     // ids of pending entries that may have been carried out already
	retry   backoff
	refused []error // to be told to the agent
	tidied  uint64  // the sequence of the record that tidyParked has seen
	deaf    bool    // it was logged that it has no OnWorkflowEvent
	stopped bool    // so many letters are parked that no new ones are tried
	// sockets are the connections that are known, of the gateways that were asked.
	sockets  map[connKey]protocol.SocketConnection
	attached map[string]bool
	// finished is set if the agent was destroyed and nothing of it is left.
	finished bool
}

// endError ends an actor: what it was about to do must not go on.
type endError struct{ error }

func (e *endError) Unwrap() error { return e.error }

func isEnd(err error) bool {
	_, ok := errors.AsType[*endError](err)
	return ok
}

// run is the life of the actor. What belongs to the agent's turns ends with ctx, what answers others with work.
func (a *actor) run(work, ctx context.Context) {
	defer a.cancel(nil)
	err := a.live(work, ctx)
	a.host.forget(a)
	if err == nil {
		err = errMoved
	}
	if isEnd(err) && !errors.Is(err, ErrShutdown) {
		err = fmt.Errorf("%w: %w", errMoved, err)
	}
	a.verdict = err
	close(a.gone)
	a.awaitAway()
}

func (a *actor) live(work, ctx context.Context) error {
	v, s, err := a.host.take(ctx, a.id)
	if err != nil {
		return err
	}
	a.at, a.taken, a.stamp, a.pending = v, v.sequence, s, v.record.Outbox
	for _, o := range a.pending {
		a.again[o.ID] = true
	}
	a.mail.resume(v.record.Parked)
	a.log = a.log.With(slog.Uint64(logkey.Life, v.record.Life), slog.Uint64(logkey.Epoch, v.record.Epoch))
	a.log.DebugContext(ctx, "took the agent")
	a.states = a.host.statesOf(a)
	a.epoch.Store(v.record.Epoch)
	if v.record.Condemned {
		return a.letGo(ctx, a.finish(ctx))
	}
	stopListening, err := a.host.listen(work, a)
	if err != nil {
		return errors.Join(err, a.release(ctx))
	}
	defer stopListening()
	starting := newStint(onStart)
	starting.stays = true
	if err = a.work(ctx, starting, a.start); err == nil {
		close(a.started)
		err = a.loop(ctx)
	}
	return a.letGo(ctx, err)
}

// letGo ends the agent's stay on this host, which err has ended if it is not nil.
func (a *actor) letGo(ctx context.Context, err error) error {
	a.mail.close(a.host.nc, err == nil)
	if isEnd(err) {
		a.cancel(ErrLostOwnership)
		a.log.WarnContext(ctx, "dropped the agent", slog.Any(logkey.Error, err))
		return err
	}
	if err != nil && ctx.Err() == nil {
		a.log.ErrorContext(ctx, "agent cannot start", slog.Any(logkey.Error, err))
	}
	if releaseErr := a.release(ctx); releaseErr != nil {
		a.log.WarnContext(ctx, "could not let the agent go, another host will take it", slog.Any(logkey.Error, releaseErr))
	}
	return err
}

// start carries out what an earlier owner left, then brings the agent into memory.
func (a *actor) start(ctx context.Context) error {
	if err := a.carryOut(ctx); err != nil {
		return err
	}
	if len(a.pending) == 0 { // a former owner may not have told the gateways
		a.host.sure.noteOpen(ctx, a.id, &a.at.record)
	}
	if a.at.record.Large {
		if err := a.states.list(ctx, a.at.record); err != nil {
			a.log.WarnContext(ctx, "cannot look for states that were replaced", slog.Any(logkey.Error, err))
		}
	}
	var err error
	if a.whole, err = a.states.open(ctx, a.at.record); err != nil {
		return err
	}
	if err := a.make(ctx); err != nil {
		return err
	}
	a.expose()
	return a.afterTurn(ctx)
}

// make makes the agent in memory and runs its OnStart.
func (a *actor) make(ctx context.Context) error {
	made, err := a.class.instance(a.id.Name, a.whole, a.at.record.Revision)
	if err != nil {
		return err
	}
	a.agent = made
	if starter, ok := made.(Starter); ok {
		_, err := a.turn(ctx, nil, func(ctx context.Context, _ *draft) error { return starter.OnStart(ctx) })
		if err != nil {
			return fmt.Errorf("OnStart of agent %q: %w", a.id.Name, err)
		}
	}
	return nil
}

// loop serves until the agent is idle or the host drains (nil), or it must be dropped.
func (a *actor) loop(ctx context.Context) error {
	active := time.Now()
	for {
		select {
		case <-a.draining():
			return nil
		case <-ctx.Done():
			return &endError{context.Cause(ctx)}
		default:
		}
		if a.at.record.Condemned {
			return a.finish(ctx)
		}
		if err := a.mail.load(ctx, a.host.inbox, a.id); err != nil {
			return err
		}
		if err := a.tidyParked(ctx); err != nil {
			return err
		}
		more := true
		l, due := a.mail.next(time.Now(), a.isStopped(ctx))
		var err error
		if l != nil {
			err = a.receiveOne(ctx, l)
		} else {
			more, err = a.wait(ctx, due, active)
		}
		if err != nil || !more {
			return err
		}
		active = time.Now()
	}
}

// draining is closed when the agent must be let go: not while a turn of it is outside.
func (a *actor) draining() <-chan struct{} {
	if len(a.away) > 0 {
		return nil
	}
	return a.host.draining
}

// receiveOne applies one letter and then gives one waiting caller its turn, so that much mail does not keep callers out.
func (a *actor) receiveOne(ctx context.Context, l *letter) error {
	s := newStint("mail from " + l.lane)
	s.giveUp = func(ctx context.Context) error { l.busy = false; return a.tryAgain(ctx, l, errStuck) }
	l.busy = true
	err := a.work(ctx, s, func(ctx context.Context) error {
		defer func() { l.busy = false }()
		return a.receive(ctx, l)
	})
	if err != nil || a.at.record.Condemned {
		return err
	}
	select {
	case s := <-a.returns:
		return a.takeBack(ctx, s)
	case j := <-a.jobs:
		return a.serveOne(ctx, j)
	default:
		return nil
	}
}

// serveOne gives a request its turn.
func (a *actor) serveOne(ctx context.Context, j *job) error {
	s := newStint(j.what())
	s.call = j.id
	s.giveUp = func(context.Context) error { j.finish(outcome{err: errStuck}); return nil }
	if j.frame != nil {
		s.giveUp = func(ctx context.Context) error { return a.giveUpFrame(ctx, j) }
	}
	return a.work(ctx, s, func(ctx context.Context) error { return a.serve(ctx, j) })
}

// wait waits for the next thing to do, and does it if it is a request. It returns false when the agent is idle.
func (a *actor) wait(ctx context.Context, due, active time.Time) (more bool, err error) {
	until := active.Add(a.class.idle)
	idle := len(a.pending) == 0 && (due.IsZero() || due.After(until)) && len(a.away) == 0
	switch {
	case !idle:
		until = earliest(earliest(due, a.retry.at), time.Now().Add(a.class.idle))
	case a.host.sure.waits(a.id): // as long as the record names an owner, whoever sweeps up after that one tells the gateways
		idle, until = false, time.Now().Add(max(a.class.idle, a.host.times.sureEvery))
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case s := <-a.returns:
		return true, a.takeBack(ctx, s)
	case j := <-a.jobs:
		return true, a.serveOne(ctx, j)
	case <-a.mail.rung:
		return true, nil
	case <-timer.C:
		if idle {
			return false, nil
		}
		return true, a.work(ctx, newStint("what earlier turns asked for"), a.afterTurn)
	case <-a.draining():
		return true, nil
	case <-ctx.Done():
		return true, nil
	}
}

// earliest is the earlier of two moments; the zero time is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// fit returns when this host holds its lease and the agent is still its own. It is asked before every turn, before
// every answer of a turn that wrote nothing, before mail is dropped, and before anything is carried out.
func (a *actor) fit(ctx context.Context) error {
	s, err := a.host.lease.wait(ctx)
	if err != nil {
		return &endError{err}
	}
	if s == a.stamp {
		return nil
	}
	now, err := a.host.records.read(ctx, a.id)
	if err != nil {
		return &endError{err}
	}
	if now.sequence != a.at.sequence {
		return &endError{ErrLostOwnership}
	}
	a.stamp = s
	a.expose()
	return nil
}

// hasStarted reports whether the agent takes turns.
func (a *actor) hasStarted() bool {
	select {
	case <-a.started:
		return true
	default:
		return false
	}
}

// release gives the agent up: without an owner, and without what is carried out. An agent that never stored anything
// leaves nothing behind.
func (a *actor) release(ctx context.Context) error {
	if a.finished {
		return nil
	}
	if a.at.record.Condemned {
		a.host.leftBehind.Store(true)
		return errors.New("it is destroyed, and not everything of it is taken away yet")
	}
	if len(a.pending) > 0 {
		a.host.leftBehind.Store(true)
		return errors.New("something that its turns asked for could not be carried out yet")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.host.times.release)
	defer cancel()
	if a.at.record.Turn == 0 && a.at.sequence == a.taken {
		return a.host.records.remove(ctx, a.id, a.at.sequence)
	}
	a.states.tidy(ctx)
	r := a.states.tidied(a.at.record)
	r.Owner, r.Outbox, r.Gateways = "", nil, withoutIdle(r.Gateways)
	rememberCalls(&r, a.confirmed.all(), time.Now(), nil)
	r.Commit, r.Updated = uuid.NewString(), time.Now().UTC()
	_, err := a.host.records.write(ctx, a.id, a.at.sequence, r)
	if isConflict(err) {
		return nil // another host has it
	}
	return err
}

// backoff is when to try something again.
type backoff struct {
	at   time.Time
	wait time.Duration
}

func (b *backoff) again(first, most time.Duration) {
	b.wait = min(max(2*b.wait, first), most)
	b.at = time.Now().Add(b.wait)
}

// draft is an empty one for the next turn.
func (a *actor) draft(firing *Moment) *draft {
	d := &draft{agent: a.id, class: a.class, self: a.agent, core: a.agent.base(), firing: firing, actor: a, stint: a.current}
	a.lay(d)
	return d
}

// lay lays a draft over the record as it is.
func (a *actor) lay(d *draft) {
	d.stored, d.whole, d.pending = a.at.record, a.whole, slices.Clone(a.pending)
	d.log = a.log.With(slog.Uint64(logkey.Turn, a.at.record.Turn+1))
}
