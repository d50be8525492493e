package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// A body of up to maxRelayed is there before its turn begins, and travels with its request: a client that sends it slowly
// keeps no agent waiting. The rest of a longer one is read in the turn, as it comes, wherever the agent lives. Few parts of it
// are in memory at a time: who sends more waits for the handler.

// upload is such a body on its way to the handler. Parts stay in it until the handler takes them: so they can go to another
// host if the one that was asked first turns out not to own the agent.
type upload struct {
	length int64  // -1 if it is not known
	took   func() // is told when the handler takes a part; nil if nobody wants to know

	mu      sync.Mutex // guards what follows
	parts   [][]byte   // have come, and are not taken
	taken   int        // how many were, before them
	err     error      // what comes after them: io.EOF if they are all
	broken  error      // why they are not
	changed chan struct{}
	cancel  context.CancelCauseFunc // of the request's context, in its turn
}

func newUpload(length int64) *upload { return &upload{length: length, changed: make(chan struct{})} }

// change wakes who waits for something. The upload is locked.
func (u *upload) change() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// put adds a part, when there is room. It returns false if no more are wanted.
func (u *upload) put(data []byte) bool {
	for {
		u.mu.Lock()
		changed, room, over := u.changed, len(u.parts) < windowParts, u.err != nil
		if room && !over {
			u.parts = append(u.parts, data)
			u.change()
		}
		u.mu.Unlock()
		if room || over {
			return !over
		}
		<-changed
	}
}

// add is put for who knows that there is room.
func (u *upload) add(data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.parts = append(u.parts, data)
		u.change()
	}
}

// end says what comes after the parts: io.EOF, or another error if no more are wanted.
func (u *upload) end(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
		u.change()
	}
}

// cut is end for a body that breaks off. Then the context of the request ends as well.
func (u *upload) cut(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return
	}
	u.err, u.broken = err, fmt.Errorf("%w: %w", ErrClientGone, err)
	u.change()
	if u.cancel != nil {
		u.cancel(u.broken)
	}
}

// follow makes a context end if the body breaks off.
func (u *upload) follow(cancel context.CancelCauseFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cancel = cancel; u.broken != nil {
		cancel(u.broken)
	}
}

// part is the one of a number, if it has come and is not taken. If it has not come, err says what comes instead, or changed
// is closed when that may be another.
func (u *upload) part(number int) (data []byte, changed <-chan struct{}, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := number - u.taken - 1; i >= 0 && i < len(u.parts) {
		return u.parts[i], u.changed, nil
	}
	return nil, u.changed, u.err
}

// next takes the next part.
func (u *upload) next() ([]byte, error) {
	for {
		u.mu.Lock()
		number := u.taken + 1
		u.mu.Unlock()
		data, changed, err := u.part(number)
		if data != nil {
			u.take(number)
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		<-changed
	}
}

// take notes that the handler has all parts up to a number.
func (u *upload) take(number int) {
	u.mu.Lock()
	n := max(min(number-u.taken, len(u.parts)), 0)
	u.parts, u.taken = u.parts[n:], u.taken+n
	u.change()
	u.mu.Unlock()
	if u.took != nil && n > 0 {
		u.took()
	}
}

// begins is how many parts have been taken: those after them can be sent to another host.
func (u *upload) begins() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.taken
}

// isOver reports whether no more of it comes.
func (u *upload) isOver() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err != nil
}

// isWhole reports whether the client has sent all of it.
func (u *upload) isWhole() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return errors.Is(u.err, io.EOF)
}

// uploadReader is an upload as its handler reads it.
type uploadReader struct {
	upload *upload
	rest   []byte // of the part that was taken last
}

// Read returns what the client has sent, or waits for more.
func (r *uploadReader) Read(p []byte) (n int, err error) {
	if len(r.rest) == 0 && len(p) > 0 {
		if r.rest, err = r.upload.next(); err != nil {
			return 0, err
		}
	}
	n = copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close takes no more from the client.
func (r *uploadReader) Close() error {
	r.upload.end(http.ErrBodyReadAfterClose)
	return nil
}

// openBody is the body for the handler, until done is called or ctx ends. If the body breaks off, it ends ctx with cancel.
func (j *job) openBody(ctx context.Context, cancel context.CancelCauseFunc) (body io.ReadCloser, done func()) {
	if j.upload == nil {
		return io.NopCloser(bytes.NewReader(j.body)), func() {}
	}
	j.upload.follow(cancel)
	stop := context.AfterFunc(ctx, func() { j.upload.end(context.Cause(ctx)) })
	return &uploadReader{upload: j.upload}, func() {
		stop()
		j.upload.end(http.ErrBodyReadAfterClose)
	}
}

// source reads the rest of a body from its client.
type source struct {
	upload  *upload
	control *http.ResponseController
	pumping sync.WaitGroup
}

// pump begins to read, as long as parts are wanted. A client that sends nothing for some time is gone.
func (s *source) pump(body io.Reader, stall time.Duration) {
	buffer := make([]byte, partBytes)
	s.pumping.Go(func() {
		for wanted := true; wanted; {
			_ = s.control.SetReadDeadline(time.Now().Add(stall)) // without deadlines, the connection ends at some time
			n, err := body.Read(buffer)
			if n > 0 {
				wanted = s.upload.put(bytes.Clone(buffer[:n]))
			}
			switch {
			case errors.Is(err, io.EOF):
				_ = s.control.SetReadDeadline(time.Time{}) // the time to read a request must not count against its answer
				s.upload.end(io.EOF)
				return
			case err != nil:
				s.upload.cut(brokenBody(err))
				return
			}
		}
	})
}

// stop ends that: the request has its answer, or nobody waits for it.
func (s *source) stop(cause error) {
	s.upload.cut(cause)
	if !s.upload.isWhole() {
		_ = s.control.SetReadDeadline(time.Now()) // so that a read that waits for the client returns
	}
	s.pumping.Wait()
}

// closeAfter closes a connection after its answer, but not before the client had some time to read that: it may be sending.
// Only for bodies that are too large, net/http does so.
func closeAfter(w http.ResponseWriter) {
	tooLarge := http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0)
	_, _ = tooLarge.Read(make([]byte, 1))
}

// brokenBody is what a handler reads in the place of the rest of a body, given why that cannot be read.
func brokenBody(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return bodyError(&protocol.Failure{Name: protocol.FailureBodyTooLarge, Message: tooLargeText(tooLarge.Limit)})
	}
	return bodyError(&protocol.Failure{Name: protocol.FailureBodyBroken, Message: "the body breaks off: " + err.Error()})
}

func tooLargeText(limit int64) string {
	return fmt.Sprintf("the body is over %d bytes long, more are not allowed", limit)
}

// bodyError is a failure of a body as an answer.
func bodyError(f *protocol.Failure) error {
	e := &Error{Status: http.StatusBadRequest, Name: f.Name, Message: f.Message, Err: io.ErrUnexpectedEOF}
	if f.Name == protocol.FailureBodyTooLarge {
		e.Status = http.StatusRequestEntityTooLarge
	}
	return e
}

// bodyFailure is the inverse of bodyError.
func bodyFailure(err error) *protocol.Failure {
	if e, ok := errors.AsType[*Error](err); ok {
		return &protocol.Failure{Name: e.Name, Message: e.Message}
	}
	return &protocol.Failure{Name: protocol.FailureBodyBroken, Message: err.Error()}
}
