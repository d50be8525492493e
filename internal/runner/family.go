package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// tellFamily projects the end of an instance to those who hang on it: its children that nobody waits for any more, and
// the instance that called it. Telling them again is harmless: the ids of what is sent are derived.
func (r *Runner) tellFamily(ctx context.Context, instance protocol.Instance, create protocol.Create, done protocol.Done, orphans []engine.Call) error {
	if err := r.endChildren(ctx, instance, done.Incarnation, orphans); err != nil {
		return err
	}
	return r.tellParent(ctx, instance, create, done)
}

// tellParent tells the instance that called this one of its end: by the event that its call waits for.
func (r *Runner) tellParent(ctx context.Context, instance protocol.Instance, create protocol.Create, done protocol.Done) error {
	if create.Parent == nil {
		return nil
	}
	parent := create.Parent.Instance()
	ended := protocol.Ended{Parent: *create.Parent, Done: done}
	if posted, err := r.postTo(ctx, parent.Project, true, parent.ID, protocol.Post{
		Kind: protocol.DoorWorkflow, Name: parent.Workflow, Op: protocol.NewsOpEnded, Request: protocol.DoorRequest{ID: parent.ID, Ended: &ended},
	}); posted || err != nil {
		return err
	}
	var err error
	ended.Done, err = r.handOver(ctx, instance, *create.Parent, done)
	if err != nil {
		return fmt.Errorf("tell %s of the end of %s: %w", parent, instance, err)
	}
	event, err := ended.Event(instance.Project)
	if err != nil {
		return fmt.Errorf("tell %s of the end of %s: %w", parent, instance, err)
	}
	body, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("tell %s of the end of %s: %w", parent, instance, err)
	}
	return r.send(ctx, inputOf(parent, parent.EventSubject()), body)
}

// handOverWithin bounds one try to hand over a large output.
const handOverWithin = time.Minute

// handOver makes a large output one of the parent's values: it must not go before the parent does.
func (r *Runner) handOver(ctx context.Context, instance protocol.Instance, p protocol.Parent, done protocol.Done) (protocol.Done, error) {
	if done.OutputObject == nil {
		return done, nil
	}
	ctx, cancel := context.WithTimeout(ctx, handOverWithin)
	defer cancel()
	parent := p.Instance()
	m, err := r.Store.Last(ctx, parent.Stream(), parent.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) || errors.Is(err, journal.ErrNoStream) {
		return done, nil // nobody will read it
	}
	if err != nil {
		return done, err
	}
	var create protocol.Create
	if json.Unmarshal(m.Data, &create) != nil || create.Incarnation(m.Sequence) != p.Incarnation {
		return done, nil
	}
	object, err := r.Objects.Copy(ctx, instance.Project, *done.OutputObject, protocol.OwnerOf(parent, create.Input))
	if missing, ok := errors.AsType[*objects.MissingError](err); ok {
		done.State, done.OutputObject, done.Error = protocol.StateErrored, nil, protocol.NewFailure(missing)
		return done, nil
	}
	done.OutputObject = object
	return done, err
}

// endChildren tells the children of calls that nobody waits for them any more.
func (r *Runner) endChildren(ctx context.Context, parent protocol.Instance, incarnation uint64, calls []engine.Call) error {
	for _, c := range calls {
		if err := r.endChild(ctx, parent, incarnation, c); err != nil {
			return fmt.Errorf("end the child of %s: %w", parent, err)
		}
	}
	return nil
}

// endChild terminates the child of a call. One that has ended takes no notice.
func (r *Runner) endChild(ctx context.Context, parent protocol.Instance, incarnation uint64, c engine.Call) error {
	p := protocol.Parent{
		Project: parent.Project, Shard: parent.Shard, Workflow: parent.Workflow, ID: parent.ID, Incarnation: incarnation, Call: c.Type,
	}
	child := c.Callee.Instance()
	if posted, err := r.postTo(ctx, child.Project, false, child.ID, protocol.Post{
		Kind: protocol.DoorWorkflow, Name: child.Workflow, Op: protocol.DoorOpEnd, Request: protocol.DoorRequest{ID: child.ID, Parent: &p},
	}); posted || err != nil {
		return err
	}
	meant := c.Callee.Incarnation
	if meant == 0 {
		var err error
		if meant, err = r.childOf(ctx, p, child); meant == 0 || err != nil {
			return err
		}
	}
	body, err := json.Marshal(p.EndControl(meant, r.Now().UTC()))
	if err != nil {
		return err
	}
	return r.send(ctx, inputOf(child, child.ControlSubject()), body)
}

// childOf finds the instance that a call has created; 0 if there is none: another may have its id.
func (r *Runner) childOf(ctx context.Context, parent protocol.Parent, child protocol.Instance) (incarnation uint64, err error) {
	m, err := r.Store.Last(ctx, child.Stream(), child.CreateSubject())
	switch {
	case errors.Is(err, journal.ErrNotFound), errors.Is(err, journal.ErrNoStream):
		return 0, nil
	case err != nil:
		return 0, err
	}
	var create protocol.Create
	if json.Unmarshal(m.Data, &create) != nil || create.Parent == nil || *create.Parent != parent {
		return 0, nil
	}
	return create.Incarnation(m.Sequence), nil
}

// endStrays ends the children that an execution may have made after another runner had ended its instance.
func (r *Runner) endStrays(ctx context.Context, instance protocol.Instance) {
	s, err := r.look(ctx, instance)
	if err != nil || s.situation(instance.Stream()).Phase != engine.Finished {
		return // whoever goes on with the instance finds its children
	}
	history, err := r.load(ctx, instance, s)
	if err == nil {
		err = r.endChildren(ctx, instance, history.Incarnation, history.Orphans())
	}
	if err != nil {
		r.Log.WarnContext(ctx, "children of an instance that has ended may go on", logkey.Instance, instance.String(), logkey.Error, err)
	}
}

// endStray ends the child of a call if the log does not hold the call as open.
func (r *Runner) endStray(ctx context.Context, instance protocol.Instance, incarnation uint64, c engine.Call) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	s, err := r.look(ctx, instance)
	var history *engine.History
	if err == nil {
		history, err = r.load(ctx, instance, s)
	}
	if err == nil && !history.Awaits(incarnation, c) {
		err = r.endChild(ctx, instance, incarnation, c)
	}
	if err != nil {
		r.Log.WarnContext(ctx, "a child that nobody waits for may go on", logkey.Instance, c.Callee.Instance().String(), logkey.Error, err)
	}
}

const (
	// sendWithin bounds one try to store something for another.
	sendWithin = time.Minute
	// lookAfter is after how long without an answer a runner looks whether the stream is there, and missedLooks after how many looks in a
	// row that are not answered either it is taken to have no leader.
	lookAfter, missedLooks = 5 * time.Second, 3
)

var (
	errGone     = errors.New("the stream is gone")
	errNoLeader = errors.New("the stream does not answer")
)

// destination is where something is stored for another, maybe of another project.
type destination struct {
	// whose it is, for people.
	whose           string
	stream, subject string
}

func inputOf(to protocol.Instance, subject string) destination {
	return destination{"instance " + to.String(), to.Stream(), subject}
}

// send stores something for another. It waits while that stream takes its time: what is given up is sent again, which takes no less. If
// the stream has no leader, somebody tries again later; if it is gone for a while, there is nobody to tell, and what waits here would
// wait for ever.
func (r *Runner) send(ctx context.Context, to destination, body []byte) error {
	ctx, stop := context.WithTimeout(ctx, sendWithin)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	every := min(lookAfter, r.GoneAfter)
	defer time.AfterFunc(every, func() { cancel(r.awaitGone(ctx, to, every)) }).Stop()
	_, err := r.Store.Publish(ctx, to.subject, nil, body)
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errGone):
		r.Log.WarnContext(ctx, "the stream of a project is gone, somebody there is not told", logkey.Target, to.whose, logkey.Subject, to.subject)
		return nil
	}
	return fmt.Errorf("send to %s: %w", to.whose, err)
}

// awaitGone looks at the stream of a destination until ctx ends, and returns why nothing can be sent there.
func (r *Runner) awaitGone(ctx context.Context, to destination, every time.Duration) error {
	var missing time.Time
	for missed := 0; ; {
		switch err := r.exists(ctx, to.stream); {
		case err == nil:
			missing, missed = time.Time{}, 0
		case !errors.Is(err, journal.ErrNoStream):
			if missed++; missed == missedLooks {
				return fmt.Errorf("%w: %v", errNoLeader, err) // not wrapped: it is no answer to what is sent
			}
		case missing.IsZero():
			missing = time.Now()
		case time.Since(missing) >= r.GoneAfter:
			return errGone
		}
		if err := ctxtime.Sleep(ctx, every); err != nil {
			return err
		}
	}
}

func (r *Runner) exists(ctx context.Context, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, lookAfter)
	defer cancel()
	_, err := r.Store.State(ctx, stream) // no message of it is to be read by others
	return err
}
