package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// An answer is streamed from its first flush on: it leaves in parts, while its turn goes on. The handler puts the parts into
// a stream, and waits if nobody takes them; the host that took the request takes them, here or over a flow.

// part is one piece of a streamed answer. The first one has the status and the header.
type part struct {
	head *protocol.HTTPResponse
	data []byte
}

// windowParts is how many parts may be on their way, partBytes how large one is.
const (
	windowParts = 8
	partBytes   = 128 << 10
)

// stream is an answer on its way from its turn to whoever passes it on.
type stream struct {
	parts chan part
	gone  chan struct{} // closed when nobody takes parts any more

	mu     sync.Mutex // guards what follows
	begun  bool       // a part was put
	cause  error      // why nobody takes them
	cancel context.CancelCauseFunc
}

func newStream() *stream {
	return &stream{parts: make(chan part, windowParts), gone: make(chan struct{})}
}

// ErrClientGone is the cause with which the context of a streamed answer ends if nobody reads it any more, and that of a request
// whose body breaks off.
var ErrClientGone = errors.New("nobody reads the answer any more")

// follow makes a context end when nobody takes the parts any more. Before the first part, whoever leaves ends no turn.
func (s *stream) follow(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = cancel
	return ctx, cancel
}

// leave says that nobody takes parts any more.
func (s *stream) leave(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return
	}
	s.cause = cause
	close(s.gone)
	if s.begun {
		s.cancel(cause)
	}
}

// begin notes that the answer is streamed. The error says why nobody takes it.
func (s *stream) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun = true; s.cause != nil {
		s.cancel(s.cause)
	}
	return s.cause
}

// put hands a part over, if that is still wanted, and waits until there is room.
func (s *stream) put(ctx context.Context, p part) error {
	if err := s.begin(); err != nil {
		return err
	}
	select {
	case s.parts <- p:
		return nil
	case <-s.gone:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.cause
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pipe gives the parts to take, in their order, until the job is done. If take fails or ctx ends, the turn is told.
func (s *stream) pipe(ctx context.Context, done <-chan outcome, take func(part) error) (protocol.Reply, error) {
	defer s.leave(ErrClientGone)
	for {
		select {
		case p := <-s.parts:
			if err := take(p); err != nil {
				s.leave(err)
				return protocol.Reply{}, err
			}
		case o := <-done:
			return s.rest(o, take)
		case <-ctx.Done():
			cause := context.Cause(ctx)
			if errors.Is(cause, context.Canceled) { // as net/http does when the connection is closed
				cause = ErrClientGone
			}
			s.leave(cause)
			return protocol.Reply{}, cause
		}
	}
}

// rest gives what was put before the job was done.
func (s *stream) rest(o outcome, take func(part) error) (protocol.Reply, error) {
	for {
		select {
		case p := <-s.parts:
			if err := take(p); err != nil {
				return protocol.Reply{}, err
			}
		default:
			return o.reply, o.err
		}
	}
}

// streaming are the answers that this host streams to clients of its own.
type streaming struct {
	mu      sync.Mutex // guards what follows
	cancels map[*reader]context.CancelCauseFunc
	cause   error // why they have all ended
}

func (s *streaming) add(r *reader, cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		cancel(s.cause)
		return
	}
	if s.cancels == nil {
		s.cancels = map[*reader]context.CancelCauseFunc{}
	}
	s.cancels[r] = cancel
}

func (s *streaming) remove(r *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cancels, r)
}

// end breaks all off, and what comes later.
func (s *streaming) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cause = cause
	for _, cancel := range s.cancels {
		cancel(cause)
	}
}

// reader is who sent a request to this host and reads the answer. An answer that has begun cannot be taken back: what goes wrong later breaks
// the connection off.
type reader struct {
	w      http.ResponseWriter
	method string
	stall  time.Duration
	begin  func()  // called before the first part
	status int     // 0 until the answer has begun
	body   *source // the rest of a long body; nil if it is read
	left   bool    // the client has closed the connection
}

// closeUnread closes the connection after the answer, if the client may still be sending: nobody reads the rest.
func (r *reader) closeUnread() {
	if r.body != nil && !r.body.upload.isWhole() {
		closeAfter(r.w)
	}
}

// stopBody reads no more of the body.
func (r *reader) stopBody(err error) {
	if r.body != nil {
		r.body.stop(brokenBody(cmp.Or(err, http.ErrBodyReadAfterClose)))
	}
}

// take passes a part on. A client that takes none of it for some time is gone.
func (r *reader) take(p part) error {
	control := http.NewResponseController(r.w)
	if err := control.SetWriteDeadline(time.Now().Add(r.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	if p.head != nil {
		r.begin()
		r.status = p.head.Status
		maps.Copy(r.w.Header(), p.head.Header)
		r.closeUnread()
		r.w.WriteHeader(p.head.Status)
	}
	if bodyAllowed(r.method, r.status) {
		if _, err := r.w.Write(p.data); err != nil {
			return fmt.Errorf("%w: %w", ErrClientGone, err)
		}
	}
	if err := control.Flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	return nil
}

// pass takes a part that has come from another host.
func (r *reader) pass(reply protocol.Reply) error {
	if (reply.HTTP != nil) != (reply.Stream.Number == 1) {
		return fmt.Errorf("%w: part %d is none that begins or goes on", errBroken, reply.Stream.Number)
	}
	return r.take(part{head: reply.HTTP, data: reply.Stream.Data})
}

func (r *reader) hasBegun() bool { return r.status != 0 }
