package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// listen subscribes to pokes and to questions about instances, until deaf is called.
func (r *Runner) listen() (deaf func(), err error) {
	pokes, err := r.nc.Subscribe(protocol.PokeSubject(r.Project), r.poked)
	if err != nil {
		return nil, fmt.Errorf("listen for pokes: %w", err)
	}
	ask := func(m *nats.Msg) {
		if !strings.HasPrefix(m.Reply, protocol.InboxPrefix) {
			return // answered, it would be stored wherever the asker points
		}
		go r.answer(m) // bounded by answerWithin and maxFollow, and by the connection
	}
	asks, err := r.nc.QueueSubscribe(protocol.AskSubject(r.Project), "runners", ask)
	if err != nil {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	own, err := r.nc.Subscribe(protocol.AskRunnerSubject(r.Project, r.ID), ask)
	if err != nil {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	return func() {
		for _, sub := range []*nats.Subscription{pokes, asks, own} {
			_ = sub.Unsubscribe() // the connection may be gone; nothing depends on it
		}
	}, nil
}

// poke tells whoever executes the instance of the wake that it has input: a hint.
func (r *Runner) poke(h *held) {
	body, err := json.Marshal(protocol.Poke{
		V: protocol.Version, Shard: h.instance.Shard, Workflow: h.instance.Workflow, ID: h.instance.ID, Input: h.Sequence,
	})
	if err == nil {
		_ = r.nc.Publish(protocol.PokeSubject(r.Project), body)
	}
}

func (r *Runner) poked(m *nats.Msg) {
	var p protocol.Poke
	if json.Unmarshal(m.Data, &p) != nil {
		return
	}
	r.mu.Lock()
	x := r.active[protocol.Instance{Project: r.Project, Shard: p.Shard, Workflow: p.Workflow, ID: p.ID}]
	r.mu.Unlock()
	switch {
	case x == nil:
	case p.Control > 0:
		go r.controlled(m, x.Execution, p.Control) // ends with the execution
	case p.Wake == nil:
		go x.Refresh() // ends with the execution
	case x.Holds(*p.Wake) && strings.HasPrefix(m.Reply, protocol.InboxPrefix):
		r.markNow(*p.Wake)
		_ = m.Respond(nil) // unheard, the asker claims, and this execution is refused
	}
}

func (r *Runner) markNow(wake protocol.Wake) {
	r.mu.Lock()
	h := r.inHand[wake]
	r.mu.Unlock()
	if h != nil {
		h.inProgress()
	}
}

// answerSoon is how long a runner that executes an instance may take to say so.
const answerSoon = 200 * time.Millisecond

// executedElsewhere asks whether a healthy runner executes the instance under this very wake: then the wake came again
// only because its marks were lost, as when a server's leader changes. Silence costs a repeated body at worst.
func (r *Runner) executedElsewhere(ctx context.Context, h *held) bool {
	body, err := json.Marshal(protocol.Poke{
		V: protocol.Version, Shard: h.instance.Shard, Workflow: h.instance.Workflow, ID: h.instance.ID, Wake: &h.Wake.Wake,
	})
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerSoon)
	defer cancel()
	_, err = r.nc.RequestWithContext(ctx, protocol.PokeSubject(r.Project), body)
	return err == nil
}

// answerWithin bounds how long a question may take.
const answerWithin = 5 * time.Second

func (r *Runner) answer(m *nats.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin+maxFollow)
	defer cancel()
	body, err := fitted(r.reply(ctx, m.Data))
	if err == nil {
		err = m.Respond(body)
	}
	if err != nil {
		r.Log.WarnContext(ctx, "cannot answer a question about an instance", logkey.Error, err)
	}
}

// fitted encodes an answer, or why that cannot be.
func fitted(answer protocol.Answer) ([]byte, error) {
	body, err := fit(answer)
	if err != nil {
		body, err = json.Marshal(protocol.Answer{V: protocol.Version, Error: protocol.NewFailure(err)})
	}
	return body, err
}

func (r *Runner) reply(ctx context.Context, question []byte) protocol.Answer {
	var ask protocol.Ask
	if err := json.Unmarshal(question, &ask); err != nil {
		return protocol.Answer{V: protocol.Version, Error: protocol.NewFailure(err)}
	}
	if ask.Follow != nil {
		return r.tellMore(ctx, ask)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if ask.Steps != nil {
		return r.steps(ctx, ask)
	}
	return r.status(ctx, ask)
}

func (r *Runner) status(ctx context.Context, ask protocol.Ask) protocol.Answer {
	status, err := r.Status(ctx, ask.Workflow, ask.ID)
	if err != nil {
		return refusal(ask, err)
	}
	if ask.Step != nil {
		narrow(&status, *ask.Step)
	}
	return protocol.Answer{V: protocol.Version, Status: &status}
}

// refusal is the answer if there is none.
func refusal(ask protocol.Ask, err error) protocol.Answer {
	failure := protocol.NewFailure(err)
	if errors.Is(err, journal.ErrNotFound) {
		failure = &protocol.Failure{
			Name: protocol.FailureNotFound, Message: fmt.Sprintf("there is no instance %q of workflow %q", ask.ID, ask.Workflow),
		}
	}
	return protocol.Answer{V: protocol.Version, Error: failure}
}
