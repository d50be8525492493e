package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// inform tells the agent that started an instance what a message of its log makes known, by mail. Telling it again is
// harmless: the numbers derive from the message.
//
// Whoever appends to a log has told what its newest message makes known, and whoever acks the wake that an instance is held
// under has, too. So nothing but the newest message can be untold, and mail comes in the order of the log.
func (r *Runner) inform(ctx context.Context, instance protocol.Instance, create protocol.Create, sequence uint64, a *protocol.Append) error {
	if create.Tracker == nil || a == nil {
		return nil
	}
	notices := engine.Reports(sequence, a)
	if len(notices) == 0 {
		return nil
	}
	testsignal.At(testsignal.RunnerUninformed)
	agent := create.Tracker.Agent()
	to := destination{"agent " + agent.String(), protocol.InboxStream(agent.Project), agent.InboxSubject(r.Project)}
	for _, n := range notices {
		n.Project, n.Workflow, n.ID, n.Input = instance.Project, instance.Workflow, instance.ID, create.Input
		if posted, err := r.postTo(ctx, agent.Project, true, agent.Name, protocol.Post{
			Kind: protocol.DoorAgent, Name: agent.Class, Op: protocol.NewsOpNotice,
			Request: protocol.DoorRequest{Notice: &protocol.Notify{Tracker: *create.Tracker, Notice: n, Sent: r.Now().UTC()}},
		}); err != nil {
			return fmt.Errorf("inform the agent of %s: %w", instance, err)
		} else if posted {
			continue
		}
		body, err := json.Marshal(protocol.NoticeMail(*create.Tracker, n, r.Now().UTC()))
		if err != nil {
			return fmt.Errorf("inform the agent of %s: %w", instance, err)
		}
		if err := r.send(ctx, to, body); err != nil {
			return fmt.Errorf("inform the agent of %s: %w", instance, err)
		}
	}
	testsignal.At(testsignal.RunnerInformed)
	return nil
}

// informAt tells what the newest message of a log makes known, as somebody has seen it.
func (r *Runner) informAt(ctx context.Context, instance protocol.Instance, s sight) error {
	if s.tail == nil || s.tail.Incarnation != s.created {
		return nil // a tombstone
	}
	return r.inform(ctx, instance, s.create, s.tailAt, s.tail)
}

// mayBeUntold reports whether a wake that is to be acked may have left the agent of a paused instance without news, should
// the runner have died that paused it.
func (s sight) mayBeUntold(h *held, at engine.Situation) bool {
	return s.create.Tracker != nil && at.Phase == engine.Paused && at.Holder == h.Wake.Wake
}

const (
	firstInformDelay = 100 * time.Millisecond
	maxInformDelay   = 5 * time.Second
)

// informer tells the agent of an instance what an execution appends. It goes on until that is done or the execution is over:
// an instance that went on would tell things out of their order.
func (r *Runner) informer(instance protocol.Instance, create protocol.Create) func(context.Context, uint64, *protocol.Append) error {
	if create.Tracker == nil {
		return nil
	}
	return func(ctx context.Context, sequence uint64, a *protocol.Append) error {
		for delay := firstInformDelay; ; delay = min(2*delay, maxInformDelay) {
			err := r.inform(ctx, instance, create, sequence, a)
			if err == nil || ctx.Err() != nil {
				return err
			}
			r.Log.WarnContext(ctx, "an instance waits until its agent can be told what has happened",
				logkey.Instance, instance.String(), logkey.Delay, delay, logkey.Error, err)
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(delay):
			}
		}
	}
}
