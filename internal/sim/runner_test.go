package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// runner is a process that executes instances.
type runner struct {
	w        *world
	id       string
	store    *journal.Store
	offset   time.Duration // how wrong its clock is
	latest   time.Time     // the latest that it ever showed
	inHand   map[protocol.Wake]*held
	active   map[protocol.Instance]*execution
	memory   map[protocol.Instance]*execution      // what is parked, and was not forgotten
	folds    map[protocol.Instance]*engine.History // logs as they were read
	sent     map[protocol.Instance]sent
	appends  int
	dead     bool
	frozen   bool
	contact  time.Time // when it was frozen
	stopping bool
}

// sent are the events that an incarnation was sent, as far as they were read, but those that the log says are taken, up
// to its tail in an epoch.
type sent struct {
	incarnation, to, tail uint64
	epoch                 int
	events                []engine.Input
}

// retryDelay is how long a wake waits that cannot be served now.
const retryDelay = 5 * time.Second

func (w *world) startRunner() {
	store, err := journal.OpenOn(newNetwork(w))
	if err != nil {
		panic(err)
	}
	r := &runner{
		w: w, id: fmt.Sprint("R", len(w.runners)), store: store, inHand: map[protocol.Wake]*held{},
		active: map[protocol.Instance]*execution{}, memory: map[protocol.Instance]*execution{}, folds: map[protocol.Instance]*engine.History{}, sent: map[protocol.Instance]sent{},
	}
	w.tell("%s starts", r.id)
	w.runners = append(w.runners, r)
}

func (r *runner) now() time.Time {
	now := r.w.now.Add(r.offset)
	if now.After(r.latest) {
		r.latest = now
	}
	return now
}

func (r *runner) nextID() string {
	r.appends++
	return fmt.Sprint(r.id, ".", r.appends)
}

// must is for what only ends when it is done: nothing here ends a context.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// append stores an append at the end of a log.
func (r *runner) append(i protocol.Instance, expected uint64, a *protocol.Append) (uint64, error) {
	a.V, a.ID, a.Runner, a.Time = protocol.Version, r.nextID(), r.id, r.now()
	for n := range a.Entries {
		a.Entries[n].InputID, _, _ = strings.Cut(a.Entries[n].InputID, "#")
	}
	return r.store.Append(context.Background(), workflows, i.LogSubject(), expected, encode(a))
}

// sight is what one read of the stream showed of an instance.
type sight struct {
	created uint64
	create  protocol.Create
	tailAt  uint64
	tail    *protocol.Append
	upTo    uint64
}

func (s sight) situation() engine.Situation {
	return engine.Situate(workflows, s.created, s.tailAt, s.tail)
}

func (s *sight) add(class protocol.Class, m *journal.Message) {
	switch class {
	case protocol.ClassCreate:
		decode(m.Data, &s.create)
		s.created = s.create.Incarnation(m.Sequence)
	case protocol.ClassLog:
		s.tailAt, s.tail = m.Sequence, &protocol.Append{}
		decode(m.Data, s.tail)
	}
}

// decide reads what any replica has and decides.
func (r *runner) decide(h *held) {
	batch := must(r.store.LastOfMany(context.Background(), workflows, []string{h.instance.CreateSubject(), h.instance.LogSubject()}))
	s := sight{upTo: batch.UpTo}
	for _, m := range batch.Messages {
		_, class, err := protocol.ParseInstanceSubject(m.Subject)
		if err != nil {
			panic(err)
		}
		s.add(class, &m)
	}
	if len(batch.Messages) == 0 || s.upTo < h.reach() && r.w.rules.ReadReaches {
		s = r.look(h.instance)
	}
	r.act(h, s, engine.OlderUnknown)
}

// look reads tail and create of an instance from the leader.
func (r *runner) look(i protocol.Instance) sight {
	var s sight
	parts := []protocol.Class{protocol.ClassLog, protocol.ClassCreate}
	if !r.w.rules.TailFirst {
		parts[0], parts[1] = parts[1], parts[0]
	}
	for _, class := range parts {
		subject := i.LogSubject()
		if class == protocol.ClassCreate {
			subject = i.CreateSubject()
		}
		m, err := r.store.Last(context.Background(), workflows, subject)
		if !errors.Is(err, journal.ErrNotFound) {
			s.add(class, must(m, err))
		}
	}
	return s
}

// load folds the log of an instance, at least up to the tail that s has seen. It begins with what was read before.
func (r *runner) load(i protocol.Instance, s sight) *engine.History {
	if s.tailAt == 0 {
		return engine.NewHistory(workflows, s.created, s.create)
	}
	h := r.folds[i]
	if delete(r.folds, i); h == nil || h.Incarnation != s.created || h.Tail > s.tailAt {
		h = engine.NewHistory(workflows, s.created, s.create)
	} else {
		r.w.crew.saw["read on"]++
	}
	f := engine.Fold{History: h}
	r.read(i.LogSubject(), max(s.created, h.Tail+1), s.tailAt, func(m *journal.Message) {
		var a protocol.Append
		decode(m.Data, &a)
		if err := f.Add(m.Sequence, &a); err != nil {
			panic(err)
		}
	})
	if err := f.End(r.fetch); err != nil {
		if fresh := r.look(i); fresh.tailAt > s.tailAt { // what was seen is superseded
			return r.load(i, fresh)
		}
		r.w.checker.fail("%v cannot be read: %v", i, err)
		panic(stopped{})
	}
	if r.folds != nil { // it was not killed meanwhile
		r.folds[i] = h
		h = h.Clone()
	}
	if h.Tail == 0 {
		h.Tail = s.tailAt
	}
	return h
}

// read pages through a subject and asks the leader for what a replica does not have.
func (r *runner) read(subject string, from, reach uint64, each func(*journal.Message)) {
	last := from - 1
	for more := true; more; {
		page, again, err := r.store.Page(context.Background(), workflows, subject, last+1, 4)
		must(page, err)
		for i := range page {
			each(&page[i])
			last = page[i].Sequence
		}
		more = again
	}
	for reach == 0 || last < reach {
		m, err := r.store.NextFromLeader(context.Background(), workflows, subject, last+1)
		if errors.Is(err, journal.ErrNotFound) {
			return
		}
		each(must(m, err))
		last = m.Sequence
	}
}

// inputs are the events from a sequence on. Those that were read before are not read again, and those that the history
// knows to be taken may be left out.
func (r *runner) inputs(i protocol.Instance, h *engine.History, from uint64) []engine.Input {
	known := r.sent[i]
	if r.folds[i] == nil || known.incarnation != h.Incarnation || known.tail > h.Tail || r.w.rules.KeepPerEpoch && known.epoch != h.Epoch {
		known = sent{to: h.Incarnation}
	}
	all := slices.Clone(known.events)
	r.read(i.EventSubject(), known.to+1, 0, func(m *journal.Message) {
		in := readEvent(m.Sequence, m.Data)
		in.ID = r.inputID(in.ID, m.Sequence)
		all = append(all, in)
		known.to = m.Sequence
	})
	if k := r.folds[i]; k != nil && k.Incarnation == h.Incarnation && k.Epoch == h.Epoch {
		taken := func(in engine.Input) bool { return k.Consumed[in.Sequence] }
		r.sent[i] = sent{h.Incarnation, known.to, max(h.Tail, k.Tail), h.Epoch, slices.DeleteFunc(slices.Clone(all), taken)}
	}
	return slices.DeleteFunc(all, func(in engine.Input) bool { return in.Sequence < from })
}

// inputID is the id by which an input is known; without the rule that repetitions are void each has another.
func (r *runner) inputID(id string, sequence uint64) string {
	if r.w.rules.RepetitionsVoid {
		return id
	}
	return fmt.Sprint(id, "#", sequence)
}

// act does what the table says.
func (r *runner) act(h *held, s sight, older engine.Older) {
	w := r.w
	situation := s.situation()
	action := w.rules.decide(situation, h.Wake, older, r.now())
	w.crew.saw["decided: "+action.String()]++
	if h.Kind == engine.WakeDue && situation.Phase == engine.Parked && h.Park < situation.Park {
		w.crew.saw["timer of an older park"]++
	}
	w.tell("decides about %v: %v (%v, holder %v, tail %d, incarnation %d, mark %d)",
		h.Wake.Wake, action, situation.Phase, situation.Holder, situation.Tail, situation.Incarnation, situation.Mark)
	switch action {
	case engine.Ack:
		if incarnation, before := s.remains(h); before > 0 && w.rules.FinishErase {
			r.erase(h.instance, incarnation, before)
		}
		r.ack(h)
	case engine.Keep:
		r.later(h, min(h.Due.Sub(r.now()), retryDelay))
	case engine.Poke:
		if x := w.executing(h.instance); x != nil && !w.fault(3) {
			x.poked = true
		}
		r.ack(h)
	case engine.Arm:
		r.arm(h.instance, situation.Incarnation, situation.Park, situation.Until)
		r.ack(h)
	case engine.Project:
		history := r.load(h.instance, s)
		if done, ok := history.Done(); ok {
			r.projectEnd(h, done)
		}
		r.ack(h)
	case engine.LookOlder:
		r.lookOlder(h, s)
	case engine.Obey:
		r.obey(h, s)
	case engine.Start, engine.Claim:
		r.activate(h, s)
	}
}

func (r *runner) lookOlder(h *held, s sight) {
	history := r.load(h.instance, s)
	inputs := r.inputs(h.instance, history, 0)
	older := engine.OlderNone
	if engine.NewMachine(history).WouldTake(history.Park, history.Waits, inputs) {
		older = engine.OlderSome
	}
	if history.Tail != s.tailAt {
		s, older = r.look(h.instance), engine.OlderUnknown
	}
	r.act(h, s, older)
}

// activate executes an instance under a wake.
func (r *runner) activate(h *held, s sight) {
	tail, incarnation := s.tailAt, s.created
	if r.stopping {
		r.untouched(h)
		r.later(h, 0)
		return
	}
	if r.w.chance(4) { // it had to wait for a slot
		s = r.look(h.instance)
	}
	if s.tailAt == tail && s.created == incarnation && r.handOver(h, s) {
		return
	}
	history := r.load(h.instance, s)
	if history.Tail != tail || history.Incarnation != incarnation {
		r.act(h, r.look(h.instance), engine.OlderUnknown)
		return
	}
	left := history.Situation
	if left.Begun && left.Phase == engine.Running && !history.Released() && r.executedElsewhere(h) {
		r.drop(h)
		return
	}
	if left.Begun || h.again {
		a := &protocol.Append{
			Incarnation: history.Incarnation, Holder: h.Wake.Wake, Mark: history.Mark, Epoch: history.Epoch,
			Entries: []protocol.Entry{history.ClaimEntry(h.Wake.Wake)},
		}
		if !r.w.rules.CountLostRuns {
			a.Entries[0].Lost, a.Entries[0].Blamed = false, nil
		}
		sequence, err := r.append(h.instance, history.Tail, a)
		if errors.Is(err, journal.ErrConflict) {
			r.refused(h)
			return
		}
		if err := history.Apply(must(sequence, err), a); err != nil {
			panic(err)
		}
	}
	if left.Phase == engine.Parked && h.Kind != engine.WakeDue {
		r.disarm(h.instance, left.Park)
	}
	r.execute(h, history)
}

// untouched notes that a create is given back without having been begun.
func (r *runner) untouched(h *held) {
	if h.Kind != engine.WakeCreate || h.again {
		return
	}
	a := &protocol.Append{
		Incarnation: h.Sequence, Holder: h.Wake.Wake, Entries: []protocol.Entry{{Kind: protocol.EntryReleased}},
	}
	_, err := r.append(h.instance, 0, a)
	if refused, ok := errors.AsType[*journal.ConflictError](err); ok && refused.Tail != nil && refused.Tail.Sequence < h.Sequence {
		_, _ = r.append(h.instance, refused.Tail.Sequence, a) // refused, it is not noted
	}
}

// executedElsewhere asks whether somebody alive executes the instance under this very wake.
func (r *runner) executedElsewhere(h *held) bool {
	x := r.w.executing(h.instance)
	return x != nil && x.wake == h.Wake.Wake && !r.w.fault(3)
}

// executing is the execution of an instance that hears a question, nil if there is none.
func (w *world) executing(i protocol.Instance) *execution {
	for _, r := range w.runners {
		if x := r.active[i]; x != nil && !r.dead && !r.frozen && !x.parked {
			return x
		}
	}
	return nil
}

// refused reads again and asks the table again.
func (r *runner) refused(h *held) {
	if !r.w.rules.LookAfterRefusal {
		r.ack(h)
		return
	}
	s := r.look(h.instance)
	if situation := s.situation(); situation.Phase == engine.Running && situation.Holder == h.Wake.Wake {
		r.w.crew.saw["refused by the same wake"]++
		r.drop(h)
		return
	}
	r.w.crew.saw["refused"]++
	r.act(h, s, engine.OlderUnknown)
}

// arm sets the timer of a park.
func (r *runner) arm(i protocol.Instance, incarnation, park uint64, until *time.Time) {
	if until == nil {
		return
	}
	subject := i.TimerSubject(park)
	r.publish(&nats.Msg{Subject: subject, Header: nats.Header{
		protocol.HeaderSchedule:       {"@at " + until.UTC().Format(time.RFC3339Nano)},
		protocol.HeaderScheduleTarget: {i.DueSubject(park)},
		protocol.HeaderRollup:         {protocol.RollupSubject},
	}, Data: encode(protocol.Timer{V: protocol.Version, Workflow: i.Workflow, ID: i.ID, Incarnation: incarnation, Park: park, Due: *until})})
}

// disarm takes back the timer of a park. It is not waited for.
func (r *runner) disarm(i protocol.Instance, park uint64) {
	if r.w.fault(3) {
		r.w.crew.saw["timer left armed"]++
		return
	}
	r.w.server.handle(&nats.Msg{Subject: i.TimerSubject(park), Header: nats.Header{protocol.HeaderTTL: {"1s"}}}, r.w.now)
}

func (r *runner) publish(m *nats.Msg) uint64 {
	return must(r.store.Publish(context.Background(), m.Subject, m.Header, m.Data))
}
