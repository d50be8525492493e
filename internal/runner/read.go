package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// Reader reads the instances of a project: their logs, folded.
type Reader struct {
	Store   *journal.Store
	Project string
	Shards  int
	// Objects has what is too large for messages. Nil: one that works over Store.
	Objects *objects.Store
	// Folds keep what was read of long logs. Nil: nothing is kept.
	Folds *Folds
}

// Status folds what the stream's leader holds of an instance. It returns journal.ErrNotFound if there is none.
func (r Reader) Status(ctx context.Context, workflow, id string) (protocol.Status, error) {
	instance := protocol.Instance{Project: r.Project, Shard: protocol.Shard(id, r.Shards), Workflow: workflow, ID: id}
	s, err := r.look(ctx, instance)
	if err != nil {
		return protocol.Status{}, err
	}
	if s.created == 0 {
		return protocol.Status{}, journal.ErrNotFound
	}
	history, err := r.load(ctx, instance, s)
	if err != nil {
		return protocol.Status{}, err
	}
	status := history.Status()
	if gone(status, time.Now()) {
		return protocol.Status{}, journal.ErrNotFound
	}
	return status, r.foresee(ctx, instance, history, &status)
}

// sight is what one read of the stream showed of an instance.
type sight struct {
	created uint64
	// createAt is the sequence of the message that holds the create now.
	createAt uint64
	create   protocol.Create
	// unreadable is why the create says nothing: nobody will ever read it.
	unreadable error

	tailAt uint64
	tail   *protocol.Append
	upTo   uint64
	at     time.Time
}

func (s sight) situation(stream string) engine.Situation {
	return engine.Situate(stream, s.created, s.tailAt, s.tail)
}

func (s *sight) add(class protocol.Class, m journal.Message) error {
	switch class {
	case protocol.ClassCreate:
		s.unreadable = json.Unmarshal(m.Data, &s.create)
		s.created, s.createAt = s.create.Incarnation(m.Sequence), m.Sequence
		if s.create.V > protocol.Version {
			return engine.ErrNewer
		}
	case protocol.ClassLog:
		s.tailAt, s.tail = m.Sequence, &protocol.Append{}
		if err := json.Unmarshal(m.Data, s.tail); err != nil {
			return err
		}
		return engine.Readable(s.tail)
	}
	return nil
}

// look reads tail and create of an instance from the leader, in this order: if the tail is still the same when it is
// appended to, the create belongs to it. The other way round the create could be of an instance that was deleted since,
// and the tail of the next one of its id.
func (r Reader) look(ctx context.Context, instance protocol.Instance) (sight, error) {
	s := sight{at: time.Now()}
	for _, part := range []struct {
		class   protocol.Class
		subject string
	}{{protocol.ClassLog, instance.LogSubject()}, {protocol.ClassCreate, instance.CreateSubject()}} {
		m, err := r.Store.Last(ctx, instance.Stream(), part.subject)
		if errors.Is(err, journal.ErrNotFound) {
			continue
		}
		if err != nil {
			return s, err
		}
		if err := s.add(part.class, *m); err != nil {
			return s, fmt.Errorf("%s: %w", part.subject, err)
		}
	}
	return s, nil
}

// load folds the whole log of an instance, at least up to the tail that s has seen.
func (r Reader) load(ctx context.Context, instance protocol.Instance, s sight) (*engine.History, error) {
	s.create.Workflow, s.create.ID = instance.Workflow, instance.ID // whatever the body says
	if s.tailAt == 0 {
		return engine.NewHistory(instance.Stream(), s.created, s.create), nil
	}
	k := r.Folds.take(instance, s)
	err := r.readOn(ctx, k, s)
	if k == nil || errors.Is(err, errAnotherLog) {
		k = &kept{instance: instance, history: engine.NewHistory(instance.Stream(), s.created, s.create)}
		err = r.readOn(ctx, k, s)
	}
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", instance, err)
	}
	h := r.Folds.keep(k)
	if h.Tail == 0 {
		h.Tail = s.tailAt // of a tombstone: nothing of this instance follows
	}
	return h, nil
}

const (
	// minPage and maxPage are how many messages one read brings. Few reads are cheaper than many, but one over scattered
	// messages takes long, and holds up appends meanwhile: so the next brings more only if the last was quick, else less.
	minPage, maxPage = 16, 1024
	quickPage        = 50 * time.Millisecond
)

// page is what one read has brought.
type page struct {
	messages []journal.Message
	more     bool
	err      error
	took     time.Duration
}

func (r Reader) page(ctx context.Context, stream, subject string, from uint64, size int) (p page) {
	asked := time.Now()
	p.messages, p.more, p.err = r.Store.Page(ctx, stream, subject, from, size)
	p.took = time.Since(asked)
	return p
}

// pageAfter is how many messages the read brings that follows one of a size.
func pageAfter(size int, took time.Duration) int {
	if took > quickPage {
		return max(size/2, minPage)
	}
	return min(2*size, maxPage)
}

// pages gives what a replica has of a subject, from a sequence on. While one page is worked on, the next is read.
func (r Reader) pages(ctx context.Context, stream, subject string, from uint64) iter.Seq2[*journal.Message, error] {
	return func(yield func(*journal.Message, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var reading sync.WaitGroup
		defer reading.Wait()
		defer cancel()
		size := minPage
		for p := r.page(ctx, stream, subject, from, size); ; {
			if p.err != nil {
				yield(nil, p.err)
				return
			}
			next := make(chan page, 1)
			if p.more {
				size = pageAfter(size, p.took)
				from = p.messages[len(p.messages)-1].Sequence + 1
				reading.Go(func() { next <- r.page(ctx, stream, subject, from, size) })
			}
			for i := range p.messages {
				if !yield(&p.messages[i], nil) {
					return
				}
			}
			if !p.more {
				return
			}
			p = <-next
		}
	}
}

// read goes through a subject from a sequence on. It goes to the leader for what a replica does not have: everything up
// to reach, or with reach 0 everything there is.
func (r Reader) read(ctx context.Context, stream, subject string, from, reach uint64, each func(*journal.Message) error) error {
	last := from - 1
	for m, err := range r.pages(ctx, stream, subject, from) {
		if err == nil {
			err = each(m)
		}
		if err != nil {
			return err
		}
		last = m.Sequence
	}
	for stored := reach == 0; reach == 0 || last < reach; {
		m, err := r.Store.NextFromLeader(ctx, stream, subject, last+1)
		if errors.Is(err, journal.ErrNotFound) && !stored {
			if err := r.Store.AwaitStored(ctx, stream, reach); err != nil {
				return err
			}
			stored = true
			continue
		}
		if errors.Is(err, journal.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(m); err != nil {
			return err
		}
		last = m.Sequence
	}
	return nil
}

// addressee is whom events were sent to, as a history says. It is a copy: an execution goes on over snapshots, and moves
// the tail of its history, while inputs are read.
type addressee struct {
	instance    protocol.Instance
	owner       protocol.ObjectOwner
	incarnation uint64
	epoch       int
	tail        uint64
}

func addressed(instance protocol.Instance, h *engine.History) addressee {
	return addressee{instance, protocol.OwnerOf(instance, h.Create.Input), h.Incarnation, h.Epoch, h.Tail}
}

// inputs are the events sent to somebody from a sequence on, as many as the leader has. Those that his history knows to
// be taken by a wait may be left out.
func (r Reader) inputs(ctx context.Context, to addressee, from uint64) ([]engine.Input, error) {
	if from > to.incarnation {
		return r.readInputs(ctx, to, from)
	}
	known := r.Folds.sent(to)
	events, err := r.readInputs(ctx, to, max(known.to, to.incarnation))
	switch {
	case err != nil:
		return nil, err
	case known.to == 0:
	case len(events) > 0 && events[0].Sequence == known.to && events[0].ID == known.id:
		if n := len(known.events); n > 0 && known.events[n-1].Sequence == known.to { // no wait had taken the newest
			events = events[1:]
		}
		events = append(slices.Clip(known.events), events...)
	default: // not what was read before
		if events, err = r.readInputs(ctx, to, to.incarnation); err != nil {
			return nil, err
		}
	}
	r.Folds.keepSent(to, events)
	return events, nil
}

// readInputs reads the events from a sequence on. One whose payload is in the store of another instance was sent to one
// that had the same id before.
func (r Reader) readInputs(ctx context.Context, to addressee, from uint64) ([]engine.Input, error) {
	var all []engine.Input
	err := r.read(ctx, to.instance.Stream(), to.instance.EventSubject(), from, 0, func(m *journal.Message) error {
		in, err := readEvent(m.Sequence, m.Data)
		if err == nil && (in.Object == nil || to.owner.Owns(to.instance.Project, *in.Object)) {
			all = append(all, in)
		}
		return nil
	})
	return all, err
}

// maxInputID is how long the id of an input may be: it stands in the log beside the payload.
const maxInputID = 1 << 10

// readEvent reads what was sent to an instance. What gives an error is no event for this runner: it must not hold up
// those that are. Whoever may send events may send anything.
func readEvent(sequence uint64, body []byte) (engine.Input, error) {
	var e protocol.Event
	err := json.Unmarshal(body, &e)
	switch {
	case e.V > protocol.Version:
		return engine.Input{}, engine.ErrNewer
	case err != nil:
		return engine.Input{}, err
	case len(e.Input) > maxInputID:
		return engine.Input{}, fmt.Errorf("the id has %d bytes, at most %d are allowed", len(e.Input), maxInputID)
	}
	in := engine.Input{Sequence: sequence, ID: e.Input, Type: e.Type, Object: e.PayloadObject, Sent: e.Sent}
	if in.ID == "" { // sent by hand: each is one of its own
		in.ID = "#" + strconv.FormatUint(sequence, 10)
	}
	if len(e.Payload) > 0 && in.Object == nil { // in the form in which the log will hold it: a replay must not see another one
		if in.Payload, err = json.Marshal(e.Payload); err != nil {
			return engine.Input{}, err
		}
	}
	if len(in.Payload) > protocol.MaxPayload {
		return engine.Input{}, fmt.Errorf("the payload has %d bytes, at most %d are allowed", len(in.Payload), protocol.MaxPayload)
	}
	return in, nil
}
