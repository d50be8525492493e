package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Call calls a method of an agent, given as a method expression such as (*Cart).Add, and waits for its result. The method
// runs in a turn of the agent, wherever that lives; the result leaves when the turn is stored. An error of the method is a
// *CallError, and nothing of its turn is stored.
//
// A call whose answer was lost on the way is repeated until the timeout, 30 s if no option says something else, and a turn
// that was stored is not run again for it. When the time is over, errors.Is(err, context.DeadlineExceeded) holds, the error
// says whom the agent is busy with if it knows, and the call may have been applied or not.
//
// In a turn, the agent waits with it: what calls it meanwhile waits, and a call that would come back to it is refused with
// ErrCallCycle. Outside lets others in. The call is no part of the turn: it stays applied if the turn fails. Tell is one.
//
// In workflow code, between steps, a call is a step of its own, called "call" and the class and method. Agents of other
// projects allow only what their classes list with Callable.
func Call[A, P, R any](ctx context.Context, ref Ref[A], method func(A, context.Context, P) (R, error), payload P, options ...CallOption) (R, error) {
	var zero, result R
	c, err := newCaller(ctx, ref, method, payload, options)
	if err != nil {
		return zero, err
	}
	raw, err := c.asStep(ctx)
	if err != nil {
		return zero, err
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return zero, fmt.Errorf("call %s of agent %q: decode result: %w", c.call.Method, c.target, err)
	}
	return result, nil
}

// Exec is Call for a method without a result.
func Exec[A, P any](ctx context.Context, ref Ref[A], method func(A, context.Context, P) error, payload P, options ...CallOption) error {
	c, err := newCaller(ctx, ref, method, payload, options)
	if err == nil {
		_, err = c.asStep(ctx)
	}
	return err
}

// caller is one call, on the side of who calls.
type caller struct {
	project *project.Project
	target  protocol.Agent
	id      string
	timeout time.Duration
	call    protocol.AgentCall
	busy    string // what the target was last heard to be busy with
	// nobodyFor is how long it waits for the first host of the class.
	nobodyFor time.Duration
}

func newCaller[A any](ctx context.Context, ref Ref[A], method, payload any, options []CallOption) (*caller, error) {
	o := callOptions{timeout: defaultCallTimeout}
	for _, option := range options {
		if err := option.applyCall(&o); err != nil {
			return nil, err
		}
	}
	target, p, err := ref.resolve(ctx)
	if err != nil {
		return nil, err
	}
	name, raw, err := callOf[A](method, payload)
	if err != nil {
		return nil, err
	}
	c := &caller{
		project: p, target: target, id: o.id, timeout: o.timeout, nobodyFor: nobodyFor,
		call: protocol.AgentCall{From: p.Config.Name, Method: name, Payload: raw, Fresh: o.fresh, Keep: o.id != "", Chain: chainOf(ctx)},
	}
	if c.id == "" {
		c.id = uuid.NewString()
	}
	return c, c.checkChain()
}

// callOf is the name of a method and the payload as they travel.
func callOf[A any](method, payload any) (name string, raw json.RawMessage, err error) {
	if name, err = methodName[A](method); err != nil {
		return "", nil, err
	}
	if raw, err = json.Marshal(payload); err != nil {
		return "", nil, &payloadError{fmt.Errorf("payload for %s: %w", name, err)}
	}
	if len(raw) > protocol.MaxPayload {
		return "", nil, &payloadError{fmt.Errorf("payload for %s is %d bytes long as JSON, at most %d are allowed", name, len(raw), protocol.MaxPayload)}
	}
	return name, raw, nil
}

// asStep calls; in workflow code, between steps, as a step.
func (c *caller) asStep(ctx context.Context) (json.RawMessage, error) {
	if _, err := execution.From(ctx); err != nil {
		return c.run(ctx)
	}
	name := fmt.Sprintf("call %s.%s", c.target.Class, c.call.Method)
	return workflow.Do(ctx, name, func(ctx context.Context) (json.RawMessage, error) {
		c.id, c.call.Keep = workflow.Step(ctx).IdempotencyKey, true
		return c.run(ctx)
	})
}

// run calls until there is an answer, or the time is over.
func (c *caller) run(ctx context.Context) (json.RawMessage, error) {
	if t := waitingTurn(ctx); t != nil {
		target := c.target.String()
		t.awaits.Store(&target)
		defer t.awaits.Store(nil)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	var reply protocol.Reply
	var err error
	if through, lost := c.project.Doors().Through(ctx, c.target.Project); through || lost != nil {
		if err = lost; err == nil {
			reply, err = c.callAtDoor(ctx, deadline)
		}
	} else if h := hostOf(ctx); h != nil && h.name == c.target.Project && h.class(c.target.Class) != nil {
		reply, err = h.callHere(ctx, c, deadline)
		if errors.Is(err, ErrShutdown) && ctx.Err() == nil { // the turn is finished all the same: others may have the agent
			reply, err = c.callThere(ctx, deadline)
		}
	} else {
		reply, err = c.callThere(ctx, deadline)
	}
	switch {
	case ctx.Err() != nil && reply.Error == nil:
		return nil, c.failed(c.late(ctx))
	case err != nil:
		return nil, fmt.Errorf("call %s of agent %q: %w", c.call.Method, c.target, err)
	case reply.Error != nil:
		return nil, c.failed(reply.Error)
	}
	return reply.Result, nil
}

func (c *caller) failed(f *protocol.Failure) error {
	return &CallError{Agent: c.target.String(), Method: c.call.Method, Failure: f}
}

// late is the failure of a call without an answer.
func (c *caller) late(ctx context.Context) *protocol.Failure {
	cause := context.Cause(ctx)
	if cause != context.DeadlineExceeded {
		return protocol.NewFailure(cause)
	}
	return &protocol.Failure{Name: protocol.FailureTimeout, Message: lateText(c.timeout, c.busy)}
}

// lateText says why there is no answer yet.
func lateText(within time.Duration, busy string) string {
	if busy == "" {
		return fmt.Sprintf("no answer within %s; whether the call was applied is not known", within)
	}
	return fmt.Sprintf("no answer within %s: the agent is busy with %s", within, busy)
}

// request is the call as it travels, for whoever answers until the deadline.
func (c *caller) request(deadline time.Time) protocol.Request {
	call := c.call
	call.Within, call.Until = protocol.Duration(max(time.Until(deadline), time.Millisecond)), deadline.UTC()
	return protocol.Request{
		V: protocol.Version, ID: c.id, Call: &call, Activate: &protocol.Activate{Class: c.target.Class, Name: c.target.Name},
	}
}

// confirmation tells the agent that the answer is here.
func (c *caller) confirmation() protocol.Request {
	return protocol.Request{
		V: protocol.Version, Confirm: c.id, Activate: &protocol.Activate{Class: c.target.Class, Name: c.target.Name},
	}
}

// checkChain refuses a call that its own turn would wait for.
func (c *caller) checkChain() error {
	if c.call.Waits(c.target.String()) || len(c.call.Chain) > protocol.MaxCallChain {
		return c.failed(cycle(c.call.Chain, c.target))
	}
	return nil
}

// cycle is the failure of a call that would wait for itself, or whose chain is too long.
func cycle(chain []protocol.CallLink, target protocol.Agent) *protocol.Failure {
	var text strings.Builder
	for _, link := range chain {
		text.WriteString(link.Agent + " > ")
	}
	why := "the agent waits for this call itself"
	if len(chain) > protocol.MaxCallChain {
		why = fmt.Sprintf("more than %d agents wait for each other", protocol.MaxCallChain)
	}
	return &protocol.Failure{Name: protocol.FailureCallCycle, Message: why + ": " + text.String() + target.String(), Terminal: true}
}

type (
	chainKey   struct{}
	outsideKey struct{}
	hostKey    struct{}
)

// chainOf is who waits for what code does with ctx.
func chainOf(ctx context.Context) []protocol.CallLink {
	chain, _ := ctx.Value(chainKey{}).([]protocol.CallLink)
	if d, err := anyDraft(ctx); err == nil {
		return append(slices.Clone(chain), protocol.CallLink{Agent: d.agent.String(), Outside: d.reading})
	}
	if agent, ok := ctx.Value(outsideKey{}).(string); ok {
		return append(slices.Clone(chain), protocol.CallLink{Agent: agent, Outside: true})
	}
	return chain
}

// waitingTurn is the stint that waits with its agent for what code does with ctx; nil if none does.
func waitingTurn(ctx context.Context) *stint {
	d, err := anyDraft(ctx)
	if err != nil {
		return nil
	}
	return d.stint
}

// hostOf is the host that the code runs in, if it is an agent's.
func hostOf(ctx context.Context) *host {
	h, _ := ctx.Value(hostKey{}).(*host)
	return h
}
