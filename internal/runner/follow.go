package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Follow tells what happens to an instance, from a cursor on, until it has ended, ctx ends or the loop stops. An
// incarnation of 0 is whichever instance has the id. The error is journal.ErrNotFound if the instance is gone; what was
// told before it stands.
//
// Only what is stored is told, in its order, each once: core messages are hints after which the stream is read, and a slow
// poll covers those that were lost.
func (r Reader) Follow(
	ctx context.Context, instance protocol.Instance, incarnation uint64, after protocol.Cursor,
) iter.Seq2[protocol.Notice, error] {
	return func(yield func(protocol.Notice, error) bool) {
		w, err := r.watch(instance)
		if err != nil {
			yield(protocol.Notice{}, err)
			return
		}
		defer w.close()
		f, err := r.follower(ctx, instance, incarnation, after)
		for err == nil {
			var told []protocol.Notice
			if told, err = f.next(ctx); err != nil {
				break
			}
			for _, n := range told {
				if !yield(n, nil) {
					return
				}
			}
			if f.ended {
				return
			}
			if !f.more {
				err = w.wait(ctx)
			}
		}
		yield(protocol.Notice{}, err)
	}
}

// follower reads what happens to an instance: its log, and the controls that were sent to it.
type follower struct {
	Reader
	instance protocol.Instance
	teller   *engine.Teller
	// after is the cursor of the newest notice told, upTo the sequence up to which all is told. Untold is what an answer had
	// no room for.
	after  protocol.Cursor
	upTo   uint64
	untold []protocol.Notice
	// fresh is set until something was read. Cleaned is the log of an instance that log cleaning has taken over, and of which
	// only a part may be left: what is told begins with a snapshot.
	fresh, cleaned bool
	// more is set if there is more to read now, ended if nothing follows, gone if another instance has the id.
	more, ended, gone bool
	// found is when the instance was last known to be there, newest when the newest message was stored that was told.
	found, newest time.Time
	// create is the sequence of the message that holds the create: another one if cleaning has published it again.
	create uint64
}

// follower finds an instance. One that was deleted is found only by those who were there before, to tell them.
func (r Reader) follower(ctx context.Context, instance protocol.Instance, incarnation uint64, after protocol.Cursor) (*follower, error) {
	s, err := r.look(ctx, instance)
	if err != nil {
		return nil, err
	}
	if incarnation == 0 {
		incarnation = s.created
	}
	witness := after != protocol.Cursor{} && s.deleted() && s.tail.Incarnation == incarnation
	if !witness {
		if _, err := r.glance(instance, s); err != nil {
			return nil, err
		}
		if s.created != incarnation {
			return nil, journal.ErrNotFound
		}
	}
	if s.created != incarnation { // it is the tombstone that remains
		s.create = protocol.Create{}
	}
	s.create.Workflow, s.create.ID = instance.Workflow, instance.ID
	return &follower{
		Reader: r, instance: instance, after: after, upTo: incarnation, fresh: true, cleaned: s.create.Carried != 0,
		teller: engine.NewTeller(instance.Stream(), incarnation, s.create), found: s.at, create: s.createAt,
	}, nil
}

// deleted reports whether the log ends with that.
func (s sight) deleted() bool {
	return s.tail != nil && len(s.tail.Entries) > 0 && s.tail.Entries[len(s.tail.Entries)-1].Kind == protocol.EntryDeleted
}

// maxTold is how many messages are read until they are told, roughly.
const maxTold = 256

// next reads what is new and tells it. The stream holds it up to one sequence, whichever replica says so: what a read
// does not show that is older is not there.
func (f *follower) next(ctx context.Context) ([]protocol.Notice, error) {
	if f.gone {
		return nil, journal.ErrNotFound
	}
	state, err := f.Store.LastOfMany(ctx, f.instance.Stream(), []string{f.instance.LogSubject(), f.instance.ControlSubject()})
	if err != nil {
		return nil, err
	}
	var told []protocol.Notice
	if f.fresh {
		told = append(told, f.teller.Created())
	}
	f.more = false
	if state.UpTo > f.upTo {
		news, err := f.catchUp(ctx, state)
		if err != nil {
			return nil, err
		}
		told = append(told, news...)
	}
	f.fresh = false
	told = f.unheard(told)
	switch {
	case f.more, f.ended:
		return told, nil
	case len(told) == 0 && time.Since(f.found) > maxPoll:
		return nil, f.find(ctx)
	}
	return told, f.settle(ctx)
}

// find reports, with journal.ErrNotFound, whether the instance is gone: the log of one that cleaning has taken away says
// nothing of that.
func (f *follower) find(ctx context.Context) error {
	s, err := f.look(ctx, f.instance)
	incarnation := f.teller.History().Incarnation
	switch {
	case err != nil:
		return err
	case s.created != incarnation && !(s.deleted() && s.tail.Incarnation == incarnation):
		return journal.ErrNotFound
	}
	f.found = s.at
	return nil
}

// unheard leaves out what was told before.
func (f *follower) unheard(told []protocol.Notice) []protocol.Notice {
	for len(told) > 0 && told[0].Cursor.Compare(f.after) <= 0 {
		told = told[1:]
	}
	if len(told) > 0 {
		f.after = told[len(told)-1].Cursor
	}
	return told
}

// settle finds out whether something follows what was told. What has ended may have been told to begin again.
func (f *follower) settle(ctx context.Context) error {
	h := f.teller.History()
	if h.Phase != engine.Finished {
		return nil
	}
	_, entries, err := f.pending(ctx, f.instance, h)
	f.ended = err == nil && len(entries) == 0
	return err
}

// news is what was read of an instance.
type news struct {
	log      []appended
	controls []engine.Control
}

type appended struct {
	sequence uint64
	stored   time.Time
	append   protocol.Append
}

// errEnough ends a read.
var errEnough = errors.New("enough for now")

// catchUp reads the messages between what was told and a state of the stream, and tells them.
func (f *follower) catchUp(ctx context.Context, state journal.Batch) ([]protocol.Notice, error) {
	log, controls := uint64(0), uint64(0) // the newest of each
	for _, m := range state.Messages {
		if m.Subject == f.instance.LogSubject() {
			log = m.Sequence
		} else {
			controls = m.Sequence
		}
	}
	all, whole, err := f.readLog(ctx, log)
	if err != nil {
		return nil, err
	}
	if len(all.log) > 0 && time.Since(f.newest) > safeAge {
		if overtaken, err := f.overtaken(ctx); overtaken || err != nil {
			return nil, err
		}
	}
	upTo := state.UpTo
	if !whole {
		if len(all.log) == 0 {
			return nil, nil // it was a moment ago, and will be seen again, or it was purged
		}
		upTo, f.more = all.log[len(all.log)-1].sequence, true
	}
	if controls > f.upTo {
		if all.controls, err = f.controls(ctx, f.instance, f.upTo+1, min(controls, upTo)); err != nil {
			return nil, err
		}
	}
	told, err := f.tell(ctx, all, upTo)
	if err == nil {
		f.upTo = upTo
	}
	return told, err
}

// safeAge is how old a message may be that nothing is cleaned away after: cleaning leaves what is younger than a day.
const safeAge = 12 * time.Hour

// overtaken reports whether cleaning has begun to take the log over since the follower knows it: then what was read may lack
// something, and the follower begins anew. The create is published again before anything is taken away.
func (f *follower) overtaken(ctx context.Context) (bool, error) {
	m, err := f.Store.Last(ctx, f.instance.Stream(), f.instance.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) || err == nil && m.Sequence == f.create {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	anew, err := f.Reader.follower(ctx, f.instance, f.teller.History().Incarnation, f.after)
	if err == nil {
		*f, f.more = *anew, true
	}
	return true, err
}

// readLog reads the log up to its newest message, or a part of it: then it is not whole.
func (f *follower) readLog(ctx context.Context, newest uint64) (all news, whole bool, err error) {
	if newest <= f.upTo {
		return all, true, nil
	}
	err = f.read(ctx, f.instance.Stream(), f.instance.LogSubject(), f.upTo+1, newest, func(m *journal.Message) error {
		if m.Sequence > newest || len(all.log) >= maxTold && !f.cleaned {
			return errEnough
		}
		var a protocol.Append
		if err := json.Unmarshal(m.Data, &a); err != nil {
			return fmt.Errorf("log of %s: entry %d: %w", f.instance, m.Sequence, err)
		}
		if s := engine.SnapshotOf(&a); f.cleaned && s != nil { // what was read before it may lack something
			all.log, f.cleaned = nil, s.Object != nil // and if there is a newer one, its object may be gone
		}
		all.log = append(all.log, appended{m.Sequence, m.Time, a})
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return all, false, err
	}
	n := len(all.log)
	whole = n > 0 && all.log[n-1].sequence == newest
	if f.cleaned && !whole {
		return news{}, false, nil // there may be a snapshot in the rest
	}
	f.cleaned = false // there is none: nothing was taken away
	return all, whole, nil
}

// tell tells what was read up to a sequence, in the order of the stream.
func (f *follower) tell(ctx context.Context, all news, upTo uint64) ([]protocol.Notice, error) {
	var told []protocol.Notice
	asked := func(before uint64) {
		for len(all.controls) > 0 && all.controls[0].Sequence < before {
			told = append(told, f.teller.Asked(all.controls[0])...)
			all.controls = all.controls[1:]
		}
	}
	incarnation := f.teller.History().Incarnation
	for _, m := range all.log {
		asked(m.sequence)
		if m.append.Incarnation > incarnation {
			f.gone, f.more = true, true
			return told, nil
		}
		notices, err := f.logged(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("log of %s: %w", f.instance, err)
		}
		told = append(told, notices...)
		if f.teller.History().End == protocol.EntryDeleted {
			f.ended = true
			return told, nil
		}
	}
	asked(upTo + 1)
	return told, nil
}

// logged tells of one message of the log. A snapshot with which the log begins is told only to those whom it keeps from
// something.
func (f *follower) logged(ctx context.Context, m appended) ([]protocol.Notice, error) {
	s := engine.SnapshotOf(&m.append)
	if s != nil && s.Object != nil && !f.teller.Begun() {
		if err := f.fetchSnapshot(ctx, s); err != nil {
			return nil, err
		}
	}
	f.newest = m.stored
	notices, err := f.teller.Logged(m.sequence, &m.append)
	if s != nil && f.after.Compare(protocol.Cursor{Sequence: s.Over}) >= 0 {
		return nil, err
	}
	return notices, err
}

// Times of a watch. A core message is heard before what it tells of is stored: what follows it is looked for soon, and
// again with growing gaps, the last of them longer than any append takes that is not held up.
const (
	firstPoll = 20 * time.Millisecond
	maxPoll   = 5 * time.Second
	firstLook = time.Millisecond
	maxLook   = time.Second
)

// watch hears that something may have happened to an instance.
type watch struct {
	heard chan *nats.Msg
	subs  []*nats.Subscription
	// poll is when to look although nothing was heard; look when to look again because something was, 0 if nothing was.
	poll, look time.Duration
}

// watch listens to what is published to the log of an instance, and to the controls. Some of it may be refused.
func (r Reader) watch(instance protocol.Instance) (*watch, error) {
	w := &watch{heard: make(chan *nats.Msg, 16), poll: firstPoll}
	for _, subject := range []string{instance.LogSubject(), instance.ControlSubject()} {
		sub, err := r.Store.Conn().ChanSubscribe(subject, w.heard)
		if err != nil {
			w.close()
			return nil, fmt.Errorf("listen to instance %s: %w", instance, err)
		}
		w.subs = append(w.subs, sub)
	}
	return w, nil
}

func (w *watch) close() {
	for _, sub := range w.subs {
		_ = sub.Unsubscribe() // the connection may be gone, and with it the subscription
	}
}

// wait returns when it is time to look.
func (w *watch) wait(ctx context.Context) error {
	silence := w.poll
	if w.look > 0 {
		silence = min(silence, w.look)
	}
	timer := time.NewTimer(silence)
	defer timer.Stop()
	select {
	case <-w.heard:
		w.drain()
		w.look = firstLook
		return ctxtime.Sleep(ctx, firstLook)
	case <-timer.C:
		switch {
		case w.look == 0:
			w.poll = min(2*w.poll, maxPoll)
		case w.look >= maxLook:
			w.look = 0
		default:
			w.look *= 4
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *watch) drain() {
	for {
		select {
		case <-w.heard:
		default:
			return
		}
	}
}
