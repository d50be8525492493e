package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Attempt is what the body of a step is told about itself.
type Attempt struct {
	protocol.Key
	Number int
	// Config is how the step is tried, as recorded.
	Config protocol.StepConfig
	// IdempotencyKey is the same for every attempt of the step.
	IdempotencyKey string
	// Fence is the log sequence that licensed the body: it rises with every run.
	Fence uint64
	// Heartbeat is what an earlier attempt last said of itself; nil if none did.
	Heartbeat json.RawMessage

	pulse pulse
}

// AttemptFrom returns the attempt that ctx belongs to, nil outside of a body.
func AttemptFrom(ctx context.Context) *Attempt {
	a, _ := ctx.Value(bodyKey{}).(*Attempt)
	return a
}

// Body is the body of a step. It runs in a goroutine of its own.
type Body func(ctx context.Context) (json.RawMessage, error)

// errTimeout ends the context of an attempt.
var errTimeout = errors.New("the attempt timed out")

// Do runs a step until it is done: its recorded outcome, or its body with retries. The result returns at once; it is
// durable before the next effect. The step returned is done; its failure is the last one. An error says that the call
// was given up, or is a mistake.
func (s *Scope) Do(ctx context.Context, name string, config protocol.StepConfig, code Code) (*engine.Step, error) {
	s.enter()
	s.gate(ctx, protocol.OpDo, name)
	step, err := s.x.m.Do(s.branch, name, config)
	if code.Undo != nil && (err == nil || step != nil && errors.Is(err, ErrLost)) {
		s.x.learn(ctx, step.Key, code.Undo)
	}
	if err != nil {
		s.endIfLimit(err)
		err = s.refused(ctx, step, err)
		s.leave()
		return nil, err
	}
	for !step.Done {
		if err := s.attempt(ctx, step, code); err != nil {
			s.leave()
			return nil, err
		}
	}
	step, err = s.fetchResult(ctx, step)
	s.leave()
	return step, err
}

// endIfLimit ends the instance if a call went over a limit: code that does not look at errors would go on for ever.
// x.mu is held.
func (s *Scope) endIfLimit(err error) {
	if engine.OverLimit(err) {
		s.x.conclude(outcome{failure: protocol.NewFailure(err)})
		s.exit()
	}
}

// attempt waits until the next attempt may begin, runs it and records its outcome. x.mu is held before and after. It
// returns an error only if ctx ended, or the branch has lost a race: then it has no outcome.
func (s *Scope) attempt(ctx context.Context, step *engine.Step, code Code) error {
	x := s.x
	if x.recall.on {
		return s.block(ctx, step.Key)
	}
	if step.Until != nil {
		x.due()
	}
	for step.Until != nil {
		if err := s.block(ctx, step.Key); err != nil {
			return err
		}
	}
	if s.out() || x.phase != running && !x.wakeUp() || x.ctx.Err() != nil {
		s.exit()
	}
	if ctx.Err() != nil {
		s.abandon(ctx, step.Key)
		return context.Cause(ctx)
	}
	if step.Overtaken() {
		return lostCause(ctx, ErrLost)
	}
	a := s.begin(step)
	switch { // while that was stored
	case step.Overtaken():
		return lostCause(ctx, ErrLost)
	case ctx.Err() != nil:
		s.abandon(ctx, step.Key)
		return context.Cause(ctx)
	}
	x.bodies++
	s.lane.resting++
	x.armSoft()
	x.stir()
	x.mu.Unlock()
	o := x.stow(ctx, x.run(ctx, a, code.Body))
	o = x.judge(ctx, step, a, code, o)
	x.mu.Lock()
	x.bodies--
	s.lane.resting--
	s.lane.calls++
	x.activity++
	x.changed.Broadcast()
	a.pulse.end(o.failure == nil)
	switch {
	case x.phase == over || x.phase == finishing:
		s.exit()
	case step.Overtaken(): // whatever it returned: too late
		return lostCause(ctx, ErrLost)
	case o.object != nil:
		x.m.CompleteObject(step, o.object, s.x.Now().UTC())
		return nil
	case o.failure == nil:
		x.m.Complete(step, o.result, s.x.Now().UTC())
		return nil
	case ctx.Err() != nil:
		if x.phase == releasing || x.ctx.Err() != nil {
			s.exit()
		}
		s.abandon(ctx, step.Key)
		return context.Cause(ctx)
	case o.again:
		x.m.FailAttempt(step, o.failure, s.x.Now().UTC(), o.delay)
	default:
		x.m.Fail(step, o.failure)
	}
	return nil
}

// begin records the start of an attempt and makes durable what must be before its body runs.
func (s *Scope) begin(step *engine.Step) *Attempt {
	x := s.x
	n := x.m.Begin(step, s.x.Now().UTC())
	need := x.m.Hard()
	if x.m.StartIsHard() {
		need = x.m.Position()
	}
	if !x.flush(need) || s.out() || x.phase != running && !x.wakeUp() { // meanwhile it may even have parked
		s.exit()
	}
	return &Attempt{
		Key: step.Key, Number: n, Config: *step.Config, Fence: max(x.expected, x.History.Incarnation),
		IdempotencyKey: x.idempotencyKey(step), Heartbeat: step.Heartbeat,
		pulse: pulse{x: x, step: step, timeout: time.Duration(step.Config.Heartbeat)},
	}
}

// idempotencyKey names the effect of a step: whoever restarts an instance wants the effects of the steps that run again
// to happen again.
func (x *Execution) idempotencyKey(step *engine.Step) string {
	life := x.keys
	if step.Epoch > 0 {
		life += "." + strconv.Itoa(step.Epoch)
	}
	key := life + "/" + step.Name + "/" + strconv.Itoa(step.Count)
	if step.Op == protocol.OpRollback {
		key += "/rollback"
	}
	return key
}

// run calls the body in a goroutine of its own, bounded by the timeouts of the attempt.
func (x *Execution) run(ctx context.Context, a *Attempt, body Body) outcome {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, bodyKey{}, a))
	defer cancel(nil)
	if a.Config.Timeout > 0 {
		t := time.AfterFunc(time.Duration(a.Config.Timeout), func() { cancel(errTimeout) })
		defer t.Stop()
	}
	a.pulse.watch(cancel)
	var o outcome
	ended := x.call(ctx, a, body)
	select {
	case o = <-ended:
	case <-ctx.Done():
		o = x.grace(ctx, ended)
	}
	if o.failure == nil {
		return o
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeout):
		return failed(a.lateFailure(protocol.FailureTimeout, "timed out after", a.Config.Timeout, o.failure))
	case errors.Is(cause, errSilent):
		return failed(a.lateFailure(protocol.FailureHeartbeat, "gave no sign of life for", a.Config.Heartbeat, o.failure))
	}
	return o
}

func (a *Attempt) lateFailure(name, what string, after protocol.Duration, cause *protocol.Failure) *protocol.Failure {
	return &protocol.Failure{
		Name: name, Message: fmt.Sprintf("attempt %d %s %v", a.Number, what, time.Duration(after)),
		Causes: []protocol.Cause{{Name: cause.Name, Message: cause.Message}},
	}
}

// call calls the body in a goroutine of its own.
func (x *Execution) call(ctx context.Context, a *Attempt, body Body) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() {
		var o outcome
		var err error
		var returned bool
		defer func() {
			if !returned {
				o = failed(&protocol.Failure{Name: protocol.FailurePanic, Message: "the body ended its goroutine"})
			}
			ended <- o
		}()
		o.result, o.failure, returned = protect(func() (result json.RawMessage, _ error) {
			if x.Body != nil {
				result, err = x.Body(ctx, a, body)
			} else {
				result, err = body(ctx)
			}
			return result, err
		})
		switch {
		case err != nil:
			o.err = err
		case o.failure != nil: // a panic
			o = failed(o.failure)
		}
	}()
	return ended
}

func failed(f *protocol.Failure) outcome { return outcome{failure: f, err: f} }

// grace gives a body whose context ended a moment to return; then its result no longer counts.
func (x *Execution) grace(ctx context.Context, ended <-chan outcome) outcome {
	t := time.NewTimer(x.Grace)
	defer t.Stop()
	select {
	case o := <-ended:
		return o
	case <-t.C:
		x.Logger().WarnContext(ctx, "a step body goes on although its context has ended")
		return failed(protocol.NewFailure(context.Cause(ctx)))
	}
}
