package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// forward sends an upload on to the agent's host, which says what its handler has taken. It also says now and then that there
// is more to come. What is lost on the way is missed there, and the body breaks off.
type forward struct {
	host   *host
	id     string // of the request
	upload *upload

	owner   string
	halted  chan struct{} // nil: nothing is sent
	sending sync.WaitGroup
	ended   bool // the last host has what comes last; belongs to who sends
}

// heard takes what a host says that has accepted the request.
func (f *forward) heard(reply protocol.Reply) {
	if f.upload == nil || reply.Owner == "" {
		return
	}
	f.upload.take(reply.Taken)
	if f.halted == nil {
		f.owner, f.halted, f.ended = reply.Owner, make(chan struct{}), false
		f.sending.Go(func() { f.send(f.upload.begins()+1, f.halted) })
	}
}

// halt sends no more to that host.
func (f *forward) halt() {
	if f.halted != nil {
		close(f.halted)
		f.sending.Wait()
		f.halted = nil
	}
}

// giveUp tells the host that was asked last that no more will come, and why.
func (f *forward) giveUp(cause error) {
	if f.upload != nil && f.owner != "" && !f.ended {
		f.say(&protocol.BodyPart{Broken: bodyFailure(brokenBody(cause))})
	}
}

func (f *forward) send(number int, halted <-chan struct{}) {
	ticker := time.NewTicker(f.host.times.acceptEvery)
	defer ticker.Stop()
	for {
		data, changed, err := f.upload.part(number)
		switch {
		case data != nil:
			f.say(&protocol.BodyPart{Number: number, Data: data})
			number++
			continue
		case err == io.EOF:
			f.say(&protocol.BodyPart{Number: number, End: true})
			f.ended = true
			return
		case err != nil:
			f.say(&protocol.BodyPart{Number: number, Broken: bodyFailure(err)})
			f.ended = true
			return
		}
		select {
		case <-changed:
		case <-ticker.C:
			f.say(&protocol.BodyPart{Number: number - 1})
		case <-halted:
			return
		}
	}
}

func (f *forward) say(part *protocol.BodyPart) {
	body, err := json.Marshal(protocol.Request{V: protocol.Version, ID: f.id, Part: part})
	if err != nil {
		panic(err) // a struct of texts and bytes
	}
	send(f.host.nc, protocol.BodySubject(f.host.name, f.owner), body)
}

// receive takes a part of the body of a request whose handler is here.
func (f *flow) receive(part protocol.BodyPart) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.upload
	if u == nil {
		return
	}
	f.heard, f.unread = time.Now(), 0
	f.waiting.Reset(f.host.times.acceptLost)
	sends := part.End || len(part.Data) > 0
	switch {
	case part.Broken != nil:
		u.cut(bodyError(part.Broken))
	case sends && part.Number <= f.got: // of a sender that began again
	case sends && part.Number > f.got+1, !sends && part.Number > f.got:
		u.cut(bodyError(&protocol.Failure{Name: protocol.FailureBodyBroken, Message: "the body breaks off: a part of it is lost on its way"}))
	case part.End:
		f.got++
		f.waiting.Stop()
		u.end(io.EOF)
	case sends:
		f.got++
		u.add(part.Data)
	}
}

// await lets the body of a request come in parts.
func (f *flow) await(length int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.upload != nil || length == 0 {
		return
	}
	u := newUpload(length)
	u.took = f.accept
	f.upload, f.heard = u, time.Now()
	f.waiting = time.AfterFunc(f.host.times.acceptLost, f.miss)
}

// miss is called when the sender of a body has said nothing for acceptLost. The body breaks off, unless this host has not read all that had
// come, or the sender's process is still there: then that is slow, and has as long as a client may send nothing.
func (f *flow) miss() {
	if !f.isRead() {
		return
	}
	f.mu.Lock()
	heard, to := f.heard, slices.Clone(f.to)
	f.mu.Unlock()
	waits := time.Since(heard) < f.host.times.stallFor && slices.ContainsFunc(to, f.isListening)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.heard != heard || f.upload.isOver():
	case waits:
		f.unread = 0
		f.waiting.Reset(f.host.times.acceptLost)
	default:
		f.upload.cut(bodyError(&protocol.Failure{Name: protocol.FailureBodyBroken, Message: "the body breaks off: the host that took the request is silent"}))
	}
}

// isRead reports whether this host has read all parts that had come when the sender was missed first. Until it has, that is looked at again.
func (f *flow) isRead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unread == 0 {
		f.unread = f.host.parts.come()
	}
	if f.host.parts.read.Load() < f.unread {
		f.waiting.Reset(f.host.times.acceptLost)
		return false
	}
	return true
}

// isListening reports whether the process is there that waits for an answer to an inbox: it is told once more that this host is at it.
func (f *flow) isListening(inbox string) bool {
	wait := f.host.project.Answers().Wait()
	defer wait.Close()
	if err := f.host.nc.PublishRequest(inbox, wait.Subject, f.word()); err != nil {
		return false // this host is leaving
	}
	_, err := nextReply(context.Background(), wait, f.host.times.acceptWithin)
	return !errors.Is(err, errNobody)
}

// parts are those of bodies that other hosts send to this one, in the order in which they come.
type parts struct {
	sub *nats.Subscription
	// read is how many were read.
	read atomic.Int64
}

// come is how many have come, read or not.
func (p *parts) come() int64 {
	delivered, err := p.sub.Delivered()
	if err != nil {
		return 0 // the host takes no more
	}
	pending, _, err := p.sub.Pending()
	if err != nil {
		return 0
	}
	return delivered + int64(pending)
}

// accepted is what says that the request is here, how much of its body the handler has, and how much of the answer was sent.
func (f *flow) accepted() protocol.Reply {
	f.mu.Lock()
	reply, u := protocol.Reply{Accepted: true, Owner: f.host.id, Sent: f.sent}, f.upload
	f.mu.Unlock()
	if u != nil {
		reply.Taken = u.begins()
	}
	return reply
}

// word is that as a message.
func (f *flow) word() []byte {
	reply := f.accepted()
	reply.V = protocol.Version
	body, err := json.Marshal(reply)
	if err != nil {
		panic(err) // a struct of texts and numbers
	}
	return body
}

// accept says so to all who want the answer.
func (f *flow) accept() {
	body := f.word()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, to := range f.to {
		send(f.host.nc, to, body)
	}
}
