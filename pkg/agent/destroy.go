package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// ErrDestroyed is returned by Save and Outside in a turn that has destroyed its agent: all that the turn stores is the end.
var ErrDestroyed = errors.New("the agent is destroyed with this turn, which is stored at its end")

// Destroy ends the agent when the turn is stored: nothing is left of its state, schedules, queue and dead letters, nor of
// the mail that this life of it has applied or sent to itself. What its turns have asked of others (instances, what they
// told other agents) still goes out, and workflows go on. Who asks for the agent meanwhile waits, and then meets a new one,
// which also gets the mail of others that was not applied.
func (b *Base[S]) Destroy(ctx context.Context, options ...EndOption) error {
	d, err := draftOf(ctx, &b.core)
	if err != nil {
		return err
	}
	return d.change(func() error {
		d.condemned = true
		for _, option := range options {
			option.applyEnd(d)
		}
		return nil
	})
}

// EndOption is an option of the method Destroy.
type EndOption interface {
	DestroyOption
	applyEnd(*draft)
}

// TerminateWorkflows terminates the workflows that the agent tracks and that have not ended. Else they go on, and nobody
// is told of them.
func TerminateWorkflows() EndOption { return terminateWorkflows{} }

type terminateWorkflows struct{}

func (terminateWorkflows) applyEnd(d *draft)                 { d.terminates = true }
func (terminateWorkflows) applyDestroy(o *callOptions) error { o.terminate = true; return nil }

// DestroyOption is an option of Destroy.
type DestroyOption interface{ applyDestroy(*callOptions) error }

// Destroy ends an agent of the own project, as the agent's own method Destroy does, after the turns that it has begun, and
// returns when nothing of it is left. It ends the life that it finds, and no later one, however often it is tried; an agent
// that does not exist is none that has to end. An agent cannot wait for its own end: a turn of it uses the method.
//
// In workflow code, between steps, it is two steps: the first finds out which life is to end.
func Destroy[A any](ctx context.Context, ref Ref[A], options ...DestroyOption) error {
	o := callOptions{timeout: defaultCallTimeout}
	for _, option := range options {
		if err := option.applyDestroy(&o); err != nil {
			return err
		}
	}
	target, p, err := ref.resolve(ctx)
	if err != nil {
		return err
	}
	if target.Project != p.Config.Name {
		return fmt.Errorf("destroy agent %q: only its own project may", target)
	}
	c := &caller{project: p, target: target, timeout: o.timeout, nobodyFor: nobodyFor}
	c.call = protocol.AgentCall{From: target.Project, Chain: chainOf(ctx), Terminate: o.terminate}
	if err := c.checkChain(); err != nil {
		return err
	}
	records := &records{store: p.Journal(), where: bucketOf(protocol.AgentsBucket(target.Project))}
	find := func(ctx context.Context) (uint64, error) {
		v, err := records.read(ctx, target)
		if err == nil && !v.exists {
			err = c.checkTarget(ctx)
		}
		return v.record.Life, err
	}
	if _, err := execution.From(ctx); err != nil {
		life, err := find(ctx)
		if err != nil || life == 0 {
			return err
		}
		return c.destroy(ctx, records, life)
	}
	life, err := workflow.Do(ctx, "find "+target.Class, find)
	if err != nil || life == 0 {
		return err
	}
	return workflow.Exec(ctx, "destroy "+target.Class, func(ctx context.Context) error { return c.destroy(ctx, records, life) })
}

// destroy ends a life of the target and waits until nothing of it is left.
func (c *caller) destroy(ctx context.Context, records *records, life uint64) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	c.call.Destroy = life
	for wait := firstPause; ; wait = min(2*wait, longPause) {
		v, err := records.read(ctx, c.target)
		switch {
		case err != nil:
			return fmt.Errorf("destroy agent %q: %w", c.target, err)
		case !v.exists || v.record.Life != life:
			return nil
		case !v.record.Condemned:
			if err := c.condemn(ctx); err != nil {
				return err
			}
			continue
		}
		if err := ctxtime.Sleep(ctx, wait); err != nil {
			return fmt.Errorf("destroy agent %q: it is condemned, but not everything of it is taken away yet: %w", c.target, err)
		}
	}
}

// condemn asks the owner to store that the life is over. Each time it is another call: a repetition of one does no harm.
func (c *caller) condemn(ctx context.Context) error {
	c.id = uuid.NewString()
	_, err := c.run(ctx)
	if failed, ok := errors.AsType[*CallError](err); ok {
		return fmt.Errorf("destroy agent %q: %w", c.target, failed.Failure)
	}
	return err
}

// serveDestroy runs the turn of a call that ends a life of the agent.
func (a *actor) serveDestroy(ctx context.Context, j *job) error {
	var answer protocol.Reply
	switch {
	case j.call.From != a.id.Project:
		answer = refuse(fmt.Sprintf("project %q may not destroy agents of project %q", j.call.From, a.id.Project))
	case j.call.Destroy != a.at.record.Life: // it is over, and this is another one
	default:
		_, err := a.turn(ctx, nil, func(_ context.Context, d *draft) error {
			return d.change(func() error {
				d.condemned, d.terminates = true, j.call.Terminate
				return nil
			})
		})
		if isEnd(err) {
			j.finish(outcome{err: errMoved})
			return err
		}
		if err != nil {
			answer = protocol.Reply{Error: protocol.NewFailure(err)}
		}
	}
	j.finish(outcome{reply: answer})
	return nil
}

// isCondemned reports whether the turn has destroyed the agent.
func (d *draft) isCondemned() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condemned
}

// condemn makes a record that of an agent whose end is stored. It keeps what tells which mail and calls were applied, and
// what turns have asked of others. The draft is locked.
func (d *draft) condemn(r protocol.Record, commit string, now time.Time) protocol.Record {
	r.Condemned, r.State, r.StateObject, r.Large = true, nil, nil, false
	r.Parked, r.Queue = nil, nil
	if d.seen != nil {
		r.Seen = d.seen
	}
	if d.actor != nil {
		rememberCalls(&r, d.actor.confirmed.all(), now, d.call)
	}
	if d.terminates {
		d.terminateAll(now)
	}
	r.Outbox = slices.DeleteFunc(slices.Concat(d.pending, d.out), func(o protocol.Outgoing) bool { return isOwn(o.Kind) })
	r.Turn, r.Commit, r.Updated = d.number(), commit, now
	return r
}

// isOwn reports whether entries of a kind concern nobody but the agent.
func isOwn(k protocol.OutgoingKind) bool {
	switch k {
	case protocol.OutgoingSchedule, protocol.OutgoingCancelSchedule, protocol.OutgoingQueue, protocol.OutgoingDead, protocol.OutgoingDropDead,
		protocol.OutgoingFrames:
		return true
	case protocol.OutgoingCreate, protocol.OutgoingEvent, protocol.OutgoingControl, protocol.OutgoingMail:
	}
	return false
}

// isOver reports whether a letter belongs to a life that is over: the agent's present one, which is condemned, or one
// before it. What strangers have sent and nobody has applied does not.
func (a *actor) isOver(l *letter) bool {
	life := a.at.record.Life
	switch {
	case l.malformed != nil:
		return false
	case l.redrive != "":
		return protocol.OutgoingLife(l.redrive) <= life
	case l.mail.Life != 0:
		return l.mail.Life <= life
	}
	return a.isVoid(l) != ""
}

// lifeOfRow is the life that a stored schedule belongs to.
func lifeOfRow(data json.RawMessage) (uint64, error) {
	var row protocol.Schedule
	err := json.Unmarshal(data, &row)
	return row.Life, err
}
