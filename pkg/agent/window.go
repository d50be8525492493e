package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// window is the parts of an answer on their way to another host, at the host of the agent: numbered, kept until the other host says that
// they are taken, and no more of them than it has room for. What it says also tells that it is there.
type window struct {
	host *host

	mu      sync.Mutex // guards what follows
	to      []string   // where the copies of the request want their answers: whoever sent it listens to one of them
	sent    int
	taken   int
	kept    []*sentPart   // what was sent and is not taken: a copy that comes late needs it
	changed chan struct{} // closed at the next word
	silence *time.Timer
	gone    context.CancelCauseFunc
	cause   error // why nobody takes any more
}

// sentPart is a part of an answer, and the message that it is once it was sent to another host.
type sentPart struct {
	part protocol.Reply
	body []byte
}

// send sends it. What is lost is missed there.
func (p *sentPart) send(nc *nats.Conn, to string) {
	if p.body == nil {
		var err error
		if p.body, err = json.Marshal(p.part); err != nil {
			panic(err) // a struct of texts, numbers and bytes
		}
	}
	send(nc, to, p.body)
}

func newWindow(h *host) window { return window{host: h, changed: make(chan struct{})} }

// start makes a context that ends when nobody takes the parts any more.
func (w *window) start(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone = cancel; w.cause != nil {
		cancel(w.cause)
	}
	return ctx, cancel
}

// leave notes that nobody takes the parts any more. The window is locked.
func (w *window) leave(cause error) {
	if w.cause != nil {
		return
	}
	w.cause = cause
	if w.gone != nil {
		w.gone(cause)
	}
	w.change()
}

// join sends what is sent to one more inbox.
func (w *window) join(to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.HasPrefix(to, protocol.InboxPrefix) {
		return
	}
	w.to = append(w.to, to)
	for _, p := range w.kept {
		p.send(w.host.nc, to)
	}
}

func (w *window) hear(word protocol.StreamWord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if word.Gone {
		w.leave(ErrClientGone)
	}
	w.taken = min(max(w.taken, word.Taken), w.sent)
	w.kept = w.kept[max(len(w.kept)-(w.sent-w.taken), 0):]
	if word.Missing {
		for _, p := range w.kept {
			w.sendOne(p)
		}
	}
	if w.silence != nil {
		w.silence.Reset(w.host.times.acceptLost)
	}
	w.change()
}

// change tells those who wait for it. The window is locked.
func (w *window) change() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// listen gives up if no words come any more. The window is locked.
func (w *window) listen() {
	if w.silence == nil {
		w.silence = time.AfterFunc(w.host.times.acceptLost, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.leave(fmt.Errorf("%w: its host is silent", ErrClientGone))
		})
	}
}

// cut breaks the answer off, if it has begun.
func (w *window) cut(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent > 0 {
		w.leave(cause)
	}
}

func (w *window) hasBegun() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent > 0
}

// room returns when there is room for one more part. The error says why nobody takes it.
func (w *window) room(ctx context.Context) error {
	for {
		w.mu.Lock()
		free, cause, changed := w.isFree(), w.cause, w.changed
		w.mu.Unlock()
		if free || cause != nil {
			return cause
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isFree reports whether one more part may be on its way. The window is locked.
func (w *window) isFree() bool {
	size := 0
	for _, p := range w.kept {
		size += len(p.part.Stream.Data)
	}
	return w.sent-w.taken < windowParts && size < windowParts*partBytes
}

// put sends the next part. The window is locked.
func (w *window) put(part protocol.Reply) {
	w.sent++
	part.V, part.Stream.Number = protocol.Version, w.sent
	p := &sentPart{part: part}
	w.kept = append(w.kept, p)
	w.sendOne(p)
}

// sendOne sends a part to all who want the answer. The window is locked.
func (w *window) sendOne(p *sentPart) {
	for _, to := range w.to {
		p.send(w.host.nc, to)
	}
}
