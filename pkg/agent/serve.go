package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// job is a request, a call or a frame of a client that waits for its turn.
type job struct {
	id      string // of a call, or of a request that came over another host
	call    *protocol.AgentCall
	frame   *protocol.SocketUp
	left    func()      // called when the turn of a frame goes outside
	chunks  *chunks     // the answer to a frame, if it comes in parts
	ending  *turnSocket // of a gateway that is lost, the end that was begun last
	request *http.Request
	body    []byte
	upload  *upload // in the place of body, if it is long
	// identity is that of who sent the request.
	identity json.RawMessage
	// until is when the host gives up that has passed the request on. again says that it was begun before.
	until time.Time
	again bool
	out   *stream      // takes the answer to a request if it is streamed
	done  chan outcome // takes one, without waiting
}

// finish answers, if nobody has: whoever waited for a turn that did not return was answered without it.
func (j *job) finish(o outcome) {
	select {
	case j.done <- o:
	default:
	}
}

// lastChunk is what follows the chunks of an answer; nil if none have left.
func (j *job) lastChunk() *protocol.StreamPart {
	if j.chunks == nil {
		return nil
	}
	return j.chunks.last()
}

// what says what the job is, for those who wait.
func (j *job) what() string {
	switch {
	case j.frame != nil:
		return whatFrame(j.frame)
	case j.call == nil:
		return j.request.Method + " " + j.request.URL.Path
	case j.call.Destroy != 0:
		return "its end"
	case len(j.call.Chain) > 0:
		return fmt.Sprintf("a call of %s by agent %q", j.call.Method, j.call.Chain[len(j.call.Chain)-1].Agent)
	}
	return fmt.Sprintf("a call of %s by project %q", j.call.Method, j.call.From)
}

// outcome is an answer, or why there is none.
type outcome struct {
	reply protocol.Reply
	err   error
}

// What answers a request whose turn ran and was not stored: because the host had lost the agent, or because another turn
// had destroyed it.
var (
	errDropped = &Error{Status: http.StatusServiceUnavailable, Name: "OwnershipLost",
		Message: "the agent moved to another host while it served the request; what the request had not saved is dropped"}
	errEnded = &Error{Status: http.StatusServiceUnavailable, Name: "AgentDestroyed",
		Message: "the agent was destroyed while it served the request; what the request had not saved is dropped"}
)

// dropped is the one that holds, given what has ended the turn.
func (a *actor) dropped(end error) error {
	switch {
	case errors.Is(end, journal.ErrUnknownOutcome):
		return errFate
	case a.at.record.Condemned:
		return errEnded
	}
	return errDropped
}

// do hands a call to the agent and waits for the answer. The error is errMoved if the turn was not started.
func (a *actor) do(ctx context.Context, j *job) (protocol.Reply, error) {
	if err := a.hand(ctx, j); err != nil {
		return protocol.Reply{}, err
	}
	select {
	case o := <-j.done:
		return o.reply, o.err
	case <-ctx.Done():
		return protocol.Reply{}, context.Cause(ctx)
	}
}

// hand waits until the agent takes a job.
func (a *actor) hand(ctx context.Context, j *job) error {
	select {
	case a.jobs <- j:
		return nil
	case <-a.gone:
		return a.verdict
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// request is do for a request. What is streamed of its answer is given to take; the reply has the rest.
func (a *actor) request(ctx context.Context, j *job, take func(part) error) (protocol.Reply, error) {
	if err := a.queueUp(); err != nil {
		return protocol.Reply{}, err
	}
	defer a.requests.Add(-1)
	j.out, j.done = newStream(), make(chan outcome, 1)
	if err := a.hand(ctx, j); err != nil {
		return protocol.Reply{}, err
	}
	return j.out.pipe(ctx, j.done, take)
}

// queueUp counts a request that waits for its turn or its end.
func (a *actor) queueUp() error {
	if most := a.host.edge.maxRequests; a.requests.Add(1) > most {
		a.requests.Add(-1)
		return &Error{Status: http.StatusServiceUnavailable, Name: "AgentBusy", RetryAfter: time.Second,
			Message: fmt.Sprintf("%d requests wait for agent %q of class %q, more are not allowed", most, a.id.Name, a.id.Class)}
	}
	return nil
}

// serve runs the turn of a job.
func (a *actor) serve(ctx context.Context, j *job) error {
	if j.frame != nil {
		return a.serveFrame(ctx, j)
	}
	if j.call != nil {
		return a.serveCall(ctx, j)
	}
	return a.serveHTTP(ctx, j)
}

func (a *actor) serveHTTP(ctx context.Context, j *job) error {
	if err := a.fit(ctx); err != nil {
		j.finish(outcome{err: errMoved}) // not started: another host may
		return err
	}
	mark := newHTTPMark(j)
	if o, ok := a.recall(j, mark); ok {
		j.finish(o)
		return nil
	}
	var w *answer
	stored, err := a.turn(journal.Refusing(ctx), nil, func(ctx context.Context, d *draft) error {
		d.call = mark
		w = newAnswer(maxBody)
		w.save, w.send = func() error { return d.letOut(ctx) }, func(p part) error { return j.out.put(ctx, p) }
		handler, ok := d.self.(Requester)
		if !ok {
			return &Error{Status: http.StatusNotFound, Name: "NotFound", Message: "agents of this class take no requests"}
		}
		if j.identity != nil {
			ctx = context.WithValue(ctx, identityKey{}, j.identity)
		}
		read, cancel := j.out.follow(ctx)
		defer cancel(nil)
		r := j.request.WithContext(read)
		var done func()
		r.Body, done = j.openBody(read, cancel)
		defer done()
		if err := handler.OnRequest(w, r); err != nil {
			return err
		}
		return cmp.Or(w.err, mark.endHTTP(w))
	})
	if isEnd(err) {
		j.finish(outcome{err: a.dropped(err)})
		return err
	}
	if err != nil {
		a.logFailed(ctx, j, err)
	}
	if !stored && !errors.Is(err, ErrNoSpace) { // a stored turn is its own proof that the agent was ours
		if err := a.fit(ctx); err != nil {
			j.finish(outcome{err: a.dropped(err)})
			return err
		}
	}
	o := w.outcome(err)
	o.reply.Kept = mark != nil && (stored || mark.stored)
	j.finish(o)
	return a.afterTurn(ctx)
}

// outcome is the answer of a turn that has ended with err. Of a streamed one it is the rest, or that there is none.
func (a *answer) outcome(err error) outcome {
	switch {
	case a == nil: // the turn did not begin
		return outcome{reply: protocol.Reply{HTTP: failed(err)}}
	case err != nil && a.begun:
		return outcome{err: fmt.Errorf("%w: %w", errBroken, err)}
	case err != nil:
		return outcome{reply: protocol.Reply{HTTP: failed(err)}}
	case a.begun:
		return outcome{reply: protocol.Reply{HTTP: &protocol.HTTPResponse{Body: a.body}}}
	}
	return outcome{reply: protocol.Reply{HTTP: a.response()}}
}

// logFailed tells what a caller is only told with status 500.
func (a *actor) logFailed(ctx context.Context, j *job, err error) {
	if e, ok := errors.AsType[*Error](err); ok && e.status() < http.StatusInternalServerError {
		return
	}
	attrs := []any{slog.Uint64(logkey.Turn, a.at.record.Turn+1), slog.String(logkey.Method, j.request.Method), slog.String(logkey.Path, j.request.URL.Path), slog.Any(logkey.Error, err)}
	if p, ok := errors.AsType[*PanicError](err); ok {
		attrs = append(attrs, slog.String(logkey.Stack, string(p.Stack)))
	}
	a.log.ErrorContext(ctx, "OnRequest failed, its turn is dropped", attrs...)
}
