package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
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

// flow is one of them, at the host of the agent.
type flow struct {
	window
	// upload is the body, if it comes in parts; got how many have come, heard is when its sender said something last. waiting ends if it says
	// no more: see miss. unread is how many parts had come then, to all bodies, 0 if it has not ended.
	upload  *upload
	got     int
	heard   time.Time
	waiting *time.Timer
	unread  int64
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
		one = &flow{window: newWindow(h)}
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

// end is called when no more parts are sent or wanted; err is why the request has no answer. Nobody hears of the rest of the body any more.
func (f *flow) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.upload != nil {
		f.upload.cut(brokenBody(cmp.Or(err, http.ErrBodyReadAfterClose)))
	}
	for _, timer := range []*time.Timer{f.silence, f.waiting} {
		if timer != nil {
			timer.Stop()
		}
	}
}

// take sends a part, in pieces that fit into messages, and no more than the other host has room for.
func (f *flow) take(ctx context.Context, p part) error {
	for {
		piece := p.data[:min(len(p.data), partBytes)]
		p.data = p.data[len(piece):]
		if err := f.room(ctx); err != nil {
			return err
		}
		f.send(p.head, piece)
		if p.head = nil; len(p.data) == 0 {
			return nil
		}
	}
}

func (f *flow) send(head *protocol.HTTPResponse, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listen()
	part := protocol.Reply{HTTP: head, Stream: &protocol.StreamPart{Data: data}}
	if head != nil {
		part.Stream.Host = f.host.id
	}
	f.put(part)
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

// relayed is an answer that comes in parts, at the host that took the request.
type relayed struct {
	host *host
	id   string
	pass func(protocol.Reply) error // passes a part on
	gone <-chan struct{}            // closed when nobody takes more; nil if pass says so

	mu    sync.Mutex // guards what follows
	owner string     // the host that is at it; empty before one has said so
	taken int
	asked int // the number of the last part that was missed and asked for
	ended chan struct{}
	words sync.WaitGroup
}

// take passes one part on, and says so to its sender.
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
	}
	if reply.Stream.Host != "" {
		r.begin(reply.Stream.Host)
	}
	if err := r.pass(reply); err != nil {
		return err
	}
	r.took(number)
	r.say(protocol.StreamWord{})
	return nil
}

// isNext reports whether everything before a part was taken, and it was not.
func (r *relayed) isNext(number int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return number == r.taken+1
}

func (r *relayed) took(number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = number
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

// at notes which host is at it, before the first part.
func (r *relayed) at(owner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if owner != "" && r.ended == nil {
		r.owner = owner
	}
}

// begin says now and then that somebody takes the answer, also while the client is slow.
func (r *relayed) begin(owner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		r.owner = owner // who had it before has lost it
		return
	}
	r.owner, r.ended = owner, make(chan struct{})
	r.words.Go(func() {
		ticker := time.NewTicker(r.host.times.acceptEvery)
		defer ticker.Stop()
		for word, gone := (protocol.StreamWord{}), r.gone; ; {
			select {
			case <-gone:
				word.Gone, gone = true, nil
				r.say(word)
			case <-ticker.C:
				r.say(word)
			case <-r.ended:
				return
			}
		}
	})
}

func (r *relayed) hasBegun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended != nil
}

// end stops that. Unless the answer has come to its end, its sender is told that nobody takes more of it, also if it has not begun to send.
func (r *relayed) end(whole bool) {
	if r.hasBegun() {
		close(r.ended)
		r.words.Wait()
	}
	r.mu.Lock()
	owner := r.owner
	r.mu.Unlock()
	if !whole && owner != "" {
		r.say(protocol.StreamWord{Gone: true})
	}
}

// say tells the sender how much was taken, and what else there is to say.
func (r *relayed) say(word protocol.StreamWord) {
	r.mu.Lock()
	owner := r.owner
	word.Taken = r.taken
	r.mu.Unlock()
	body, err := json.Marshal(protocol.Request{V: protocol.Version, ID: r.id, Word: &word})
	if err == nil {
		err = r.host.nc.Publish(protocol.HostSubject(r.host.name, owner), body)
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
