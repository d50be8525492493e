package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// flows are the answers that leave this host in parts, for other hosts, and the bodies that come so, by the ids of their
// requests.
type flows struct {
	mu    sync.Mutex // guards known
	known map[string]*flow
}

// flow is one of them, at the host of the agent. The other host says what it has taken, and so that it is there.
type flow struct {
	host *host
	id   string

	mu      sync.Mutex // guards what follows
	to      []string   // where the copies of the request want their answers: whoever sent it listens to one of them
	sent    int
	taken   int
	kept    [][]byte      // what was sent and is not taken: a copy that comes late needs it
	changed chan struct{} // closed at the next word
	silence *time.Timer
	gone    context.CancelCauseFunc
	// upload is the body, if it comes in parts; got how many have come. waiting ends if no more do.
	upload  *upload
	got     int
	waiting *time.Timer
}

// open returns the flow of a request, whose answer goes also to the copy of it that asks now.
func (f *flows) open(h *host, request protocol.Request, to string) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = map[string]*flow{}
	}
	one := f.known[request.ID]
	if one == nil {
		one = &flow{host: h, id: request.ID, changed: make(chan struct{})}
		f.known[request.ID] = one
		one.await(request.HTTP.Length)
	}
	one.join(to)
	return one
}

func (f *flows) close(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, id)
}

// end breaks all off that have begun.
func (f *flows) end(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.known {
		one.cut(cause)
	}
}

// find returns the flow of a request; nil if there is none.
func (f *flows) find(id string) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known[id]
}

// start makes a context that ends when the other host is gone, once parts have been sent.
func (f *flow) start(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = cancel
	return ctx, cancel
}

// join sends what is sent to one more inbox.
func (f *flow) join(to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !strings.HasPrefix(to, protocol.InboxPrefix) {
		return
	}
	f.to = append(f.to, to)
	for _, body := range f.kept {
		send(f.host.nc, to, body)
	}
}

func (f *flow) hear(word protocol.StreamWord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if word.Gone && f.gone != nil {
		f.gone(ErrClientGone)
	}
	f.taken = min(max(f.taken, word.Taken), f.sent)
	f.kept = f.kept[max(len(f.kept)-(f.sent-f.taken), 0):]
	if word.Missing {
		for _, body := range f.kept {
			f.sendOne(body)
		}
	}
	if f.silence != nil {
		f.silence.Reset(f.host.times.acceptLost)
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// cut breaks the answer off, if it has begun.
func (f *flow) cut(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sent > 0 {
		f.gone(cause)
	}
}

// end is called when no more parts are sent or wanted.
func (f *flow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, timer := range []*time.Timer{f.silence, f.waiting} {
		if timer != nil {
			timer.Stop()
		}
	}
}

func (f *flow) hasBegun() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent > 0
}

// take sends a part, in pieces that fit into messages, and no more than the other host has room for.
func (f *flow) take(ctx context.Context, p part) error {
	for {
		piece := p.data[:min(len(p.data), partBytes)]
		p.data = p.data[len(piece):]
		if err := f.room(ctx); err != nil {
			return err
		}
		if err := f.send(p.head, piece); err != nil {
			return err
		}
		if p.head = nil; len(p.data) == 0 {
			return nil
		}
	}
}

// room returns when there is room for one more.
func (f *flow) room(ctx context.Context) error {
	for {
		f.mu.Lock()
		free, changed := f.sent-f.taken < windowParts, f.changed
		f.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *flow) send(head *protocol.HTTPResponse, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
	if f.silence == nil {
		f.silence = time.AfterFunc(f.host.times.acceptLost, func() { f.gone(fmt.Errorf("%w: its host is silent", ErrClientGone)) })
	}
	reply := protocol.Reply{V: protocol.Version, HTTP: head, Stream: &protocol.StreamPart{Number: f.sent, Data: data}}
	if head != nil {
		reply.Stream.Host = f.host.id
	}
	body, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	f.kept = append(f.kept, body)
	f.sendOne(body)
	return nil
}

// sendOne sends to all who want the answer. What is lost is missed there. The flow is locked.
func (f *flow) sendOne(body []byte) {
	for _, to := range f.to {
		send(f.host.nc, to, body)
	}
}

// last is the reply after all parts. An error breaks the answer off.
func (f *flow) last(err error, kept bool) protocol.Reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := &protocol.StreamPart{Number: f.sent + 1, End: err == nil}
	if err != nil {
		end.Broken = protocol.NewFailure(err).Message
	}
	return protocol.Reply{Stream: end, Kept: kept}
}

// errBroken is that a streamed answer does not come to its end.
var errBroken = errors.New("the answer broke off")

// relayed is a streamed answer at the host that took the request.
type relayed struct {
	host   *host
	id     string
	client *reader

	mu    sync.Mutex // guards what follows
	owner string     // the host that sends; empty before the first part
	taken int
	asked int // the number of the last part that was missed and asked for
	ended chan struct{}
	words sync.WaitGroup
}

// take passes one part on to the client, and says so to its sender.
func (r *relayed) take(reply protocol.Reply) error {
	r.mu.Lock()
	number := r.taken + 1
	r.mu.Unlock()
	switch n := reply.Stream.Number; {
	case n < number:
		return nil // it came twice
	case n > number && number == r.asked:
		return nil // it will come again
	case n > number:
		return r.miss()
	case (reply.HTTP != nil) != (number == 1):
		return fmt.Errorf("%w: part %d is none that begins or goes on", errBroken, n)
	}
	if reply.HTTP != nil {
		r.begin(reply.Stream.Host)
	}
	if err := r.client.take(part{head: reply.HTTP, data: reply.Stream.Data}); err != nil {
		return err
	}
	r.mu.Lock()
	r.taken = number
	r.mu.Unlock()
	r.say(protocol.StreamWord{})
	return nil
}

// check finds out whether parts are missing of those that were sent.
func (r *relayed) check(sent int) error {
	r.mu.Lock()
	taken := r.taken
	r.mu.Unlock()
	if sent <= taken {
		return nil
	}
	return r.miss()
}

// miss asks for what is missing. Who has not even the first part has to ask for the answer again.
func (r *relayed) miss() error {
	if !r.hasBegun() {
		return errFate
	}
	r.mu.Lock()
	r.asked = r.taken + 1
	r.mu.Unlock()
	r.say(protocol.StreamWord{Missing: true})
	return nil
}

// begin says now and then that somebody takes the answer, also while the client is slow.
func (r *relayed) begin(owner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owner, r.ended = owner, make(chan struct{})
	r.words.Go(func() {
		ticker := time.NewTicker(r.host.times.acceptEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				r.say(protocol.StreamWord{})
			case <-r.ended:
				return
			}
		}
	})
}

func (r *relayed) hasBegun() bool { return r.owner != "" }

// end stops that. Unless the answer has come to its end, its sender is told that nobody takes more of it.
func (r *relayed) end(whole bool) {
	if r.owner == "" {
		return
	}
	close(r.ended)
	r.words.Wait()
	if !whole {
		r.say(protocol.StreamWord{Gone: true})
	}
}

// say tells the sender how much was taken, and what else there is to say.
func (r *relayed) say(word protocol.StreamWord) {
	r.mu.Lock()
	word.Taken = r.taken
	r.mu.Unlock()
	body, err := json.Marshal(protocol.Request{V: protocol.Version, ID: r.id, Word: &word})
	if err == nil {
		err = r.host.nc.Publish(protocol.HostSubject(r.host.name, r.owner), body)
	}
	if err != nil {
		r.host.log.DebugContext(context.Background(), "say what was taken of an answer", slog.Any(logkey.Error, err))
	}
}

// complete reports whether the last reply comes after the last part that was taken.
func (r *relayed) complete(last *protocol.StreamPart) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case last == nil || r.taken == 0:
		return fmt.Errorf("%w: it does not end as it began", errBroken)
	case last.End && last.Number == r.taken+1:
		return nil
	}
	return fmt.Errorf("%w after part %d: %s", errBroken, r.taken, last.Broken)
}
