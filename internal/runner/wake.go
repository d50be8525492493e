package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// held is a wake that this runner has and has not acked.
type held struct {
	engine.Wake
	instance protocol.Instance
	// again is set if the wake was delivered before: a log that is still empty may hide a lost run.
	again bool
	// deliveries is how often the server has given it to somebody, stored when it got it.
	deliveries uint64
	stored     time.Time
	// action is what a control asks for.
	action protocol.Action
	// void is why an event or a control counts for nothing.
	void error
	// room is where it is counted; guarded by the runner's mutex.
	room room

	mu  sync.Mutex
	msg *nats.Msg // the newest delivery: its reply subject acks; nil if there was none here
	end bool      // acked or given back: no more marks
}

func (h *held) inProgress() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.end && h.msg != nil {
		_ = h.msg.InProgress() // a lost mark costs a redelivery, which the table handles
	}
}

func (h *held) redelivered(msg *nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.msg = msg
	if !h.end {
		_ = msg.InProgress()
	}
}

// settle ends the holding by ack or nak. A lost ack costs a redelivery.
func (h *held) settle(how func(*nats.Msg) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.end && h.msg != nil {
		_ = how(h.msg)
	}
	h.end = true
}

// ack drops the wake: what it asked for is durable.
func (r *Runner) ack(h *held) { r.settle(h, func(m *nats.Msg) error { return m.Ack() }) }

// later gives the wake back for a while.
func (r *Runner) later(h *held, delay time.Duration) {
	r.settle(h, func(m *nats.Msg) error { return m.NakWithDelay(delay) })
}

// giveBack returns the wake at once; only at shutdown, when this runner will not take it again.
func (r *Runner) giveBack(h *held) { r.settle(h, func(m *nats.Msg) error { return m.Nak() }) }

// giveBackUntouched returns a wake that nobody has decided about, or whose instance has not been begun.
func (r *Runner) giveBackUntouched(ctx context.Context, h *held) {
	r.untouched(ctx, h)
	r.giveBack(h)
}

// untouchedWithin bounds the time in which a wake is noted as untouched.
const untouchedWithin = 3 * time.Second

// untouched notes that the instance of a create is given back without having been begun: delivered again with an empty
// log, it would look like a run that was lost. Only the first to get it knows. The log may end with the delete of an
// instance that had the id before. If that cannot be noted, no harm is done.
func (r *Runner) untouched(ctx context.Context, h *held) {
	if h.Kind != engine.WakeCreate || h.again || !r.nc.IsConnected() {
		return
	}
	body, err := json.Marshal(protocol.Append{
		V: protocol.Version, ID: r.nextID(), Incarnation: h.Sequence, Holder: h.Wake.Wake, Runner: r.ID,
		Time: r.Now().UTC(), Entries: []protocol.Entry{{Kind: protocol.EntryReleased}},
	})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), untouchedWithin)
	defer cancel()
	_, err = r.Store.Append(ctx, h.instance.Stream(), h.instance.LogSubject(), 0, body)
	if refused, ok := errors.AsType[*journal.ConflictError](err); ok && refused.Tail != nil && refused.Tail.Sequence < h.Sequence {
		_, _ = r.Store.Append(ctx, h.instance.Stream(), h.instance.LogSubject(), refused.Tail.Sequence, body)
	}
}

// drop forgets the wake without a word: somebody else works under it, or the server will deliver it again.
func (r *Runner) drop(h *held) { r.settle(h, func(*nats.Msg) error { return nil }) }

func (r *Runner) settle(h *held, how func(*nats.Msg) error) {
	h.settle(how)
	r.letGo(h)
}

// fetch takes wakes while there is room for them. What is fetched is read at once: a wake that ages in a buffer is
// delivered to somebody else as well.
func (r *Runner) fetch(ctx context.Context, from source) error {
	receive := func(msg *nats.Msg) { r.receive(ctx, msg) }
	p, err := newPull(r.nc, from.Consumer, r.capacity(from.room))
	if err != nil {
		return err
	}
	defer p.leave(receive)
	for failures := 0; ctx.Err() == nil; {
		n := r.waitForRoom(ctx, from.room)
		if n == 0 {
			break
		}
		err := p.take(ctx, max(1, n/from.share), receive)
		if err == nil {
			failures = 0
			continue
		}
		if failures++; failures == 3 {
			r.Log.WarnContext(ctx, "cannot fetch wakes, trying again", logkey.Stream, from.CachedInfo().Stream, logkey.Error, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(time.Duration(failures)*20*time.Millisecond, time.Second)):
		}
	}
	return nil
}

// receive takes a delivery in hand. A wake that is in hand already only gets its new reply subject.
func (r *Runner) receive(ctx context.Context, msg *nats.Msg) {
	h, err := read(msg)
	if err != nil {
		r.Log.ErrorContext(ctx, "a wake that cannot be read is left alone", logkey.Subject, msg.Subject, logkey.Error, err)
		_ = msg.NakWithDelay(time.Minute)
		return
	}
	if h.void != nil {
		r.Log.WarnContext(ctx, "an input counts for nothing", logkey.Instance, h.instance.String(),
			logkey.Wake, h.Wake.Wake.String(), logkey.Error, h.void)
	}
	r.mu.Lock()
	if known := r.inHand[h.Wake.Wake]; known != nil {
		r.mu.Unlock()
		known.redelivered(msg)
		return
	}
	r.hold(h)
	r.mu.Unlock()
	select {
	case r.incoming <- h:
	case <-ctx.Done():
		r.giveBackUntouched(ctx, h)
	}
}

// read makes a wake of a delivery.
func read(msg *nats.Msg) (*held, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	h := &held{msg: msg, again: meta.NumDelivered > 1, deliveries: meta.NumDelivered, stored: meta.Timestamp}
	h.Wake.Wake = protocol.Wake{Stream: meta.Stream, Sequence: meta.Sequence.Stream}
	instance, class, err := protocol.ParseInstanceSubject(msg.Subject)
	if err != nil { // seldom: other wakes should not pay for it that timers are told by their subject
		return h, h.readDue(msg)
	}
	h.instance, h.Kind = instance, engine.WakeCreate
	switch class {
	case protocol.ClassCreate:
		if carried(msg.Data) {
			h.Kind = engine.WakeCarried
		}
	case protocol.ClassControl:
		c, err := readControl(h.Sequence, h.stored, msg.Data)
		if errors.Is(err, engine.ErrNewer) {
			return nil, fmt.Errorf("control: %w", err)
		}
		h.Kind, h.room, h.action, h.void = engine.WakeControl, forControls, c.Action, err
	case protocol.ClassNudge:
		h.Kind = engine.WakeNudge
	case protocol.ClassEvent:
		in, err := readEvent(h.Sequence, msg.Data)
		if errors.Is(err, engine.ErrNewer) {
			return nil, fmt.Errorf("event: %w", err)
		}
		h.Kind, h.EventType, h.void = engine.WakeEvent, in.Type, err // without a type it ends no wait: the table drops it
	}
	return h, nil
}

// readDue makes h the wake of a timer that fired.
func (h *held) readDue(msg *nats.Msg) error {
	instance, park, err := protocol.ParseDueSubject(msg.Subject)
	if err != nil {
		return err
	}
	var t protocol.Timer
	if err := json.Unmarshal(msg.Data, &t); err != nil {
		return fmt.Errorf("timer: %w", err)
	}
	h.instance, h.Kind, h.Park, h.Incarnation, h.Due = instance, engine.WakeDue, park, t.Incarnation, t.Due
	return nil
}
