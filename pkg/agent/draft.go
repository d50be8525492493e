package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// draft is what one turn has asked for so far. It is seen by the turn alone, and stored whole or not at all.
type draft struct {
	agent protocol.Agent
	class *class
	// self is the agent in memory: the actor goes on with another one if the turn does not return.
	self   Agent
	core   *core
	log    *slog.Logger
	firing *Moment
	actor  *actor
	stint  *stint // that the turn is in
	clock  *clock
	fate   fate
	isMail bool
	// ends is the id of the schedule that the agent forgets with the turn; empty: none.
	ends string
	// reading is set if the turn can change nothing, fresh if it is stored although it changes nothing.
	reading, fresh bool
	call           *callMark // of the call, or the mail with a key, that the turn is for
	// stored is the record as it is, whole its state, pending what it asks for and what is not carried out yet. They
	// change with Save and Outside only.
	stored  protocol.Record
	whole   json.RawMessage
	pending []protocol.Outgoing

	mu    sync.Mutex // guards what follows
	over  bool
	away  bool  // it is outside
	lost  error // why the turn must end without another look at the agent
	state json.RawMessage
	seen  map[string]uint64 // nil: as stored
	out   []protocol.Outgoing
	queue *protocol.Queue // nil: as stored
	// condemned is set if the turn destroys the agent.
	condemned bool
	// terminates is set if that terminates the workflows that it tracks.
	terminates bool
	// workflows are those that are tracked; nil: as stored.
	workflows []protocol.Tracked
	untracks  bool // one of them was taken out
	// socket is the frame of a client that the turn is for, frames what the turn sends to clients, conns the handles that it has.
	socket *turnSocket
	frames []protocol.SocketFrame
	conns  map[connKey]*Connection
	// left is called when the turn goes outside, if somebody wants to know.
	left func()
	// chunks are those of the answer to the frame; nil if it comes whole.
	chunks *chunks
	// settles is the sequence of the mail that the turn is for; 0 for none.
	settles uint64
}

// draftOf returns the draft of the turn that ctx belongs to, if it is one of the agent that c is the core of.
func draftOf(ctx context.Context, c *core) (*draft, error) {
	d, err := anyDraft(ctx)
	if err == nil && d.core != c {
		err = ErrNoTurn
	}
	return d, err
}

func anyDraft(ctx context.Context) (*draft, error) {
	t, _ := turn.From(ctx)
	d, ok := t.(*draft)
	if !ok {
		return nil, ErrNoTurn
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || d.away {
		return nil, ErrNoTurn
	}
	return d, nil
}

// change runs fn with the draft locked, unless the turn is over.
func (d *draft) change(fn func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || d.away {
		return ErrNoTurn
	}
	if d.reading {
		return ErrReads
	}
	return fn()
}

// end lets nothing change the draft any more.
func (d *draft) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
}

func (d *draft) setState(raw json.RawMessage) error {
	return d.change(func() error {
		d.state = raw
		revision := d.stored.Revision
		if d.changesState() {
			revision++
		}
		d.core.set(raw, revision)
		return nil
	})
}

// changesState reports whether the turn leaves another state than it found. The draft is locked.
func (d *draft) changesState() bool { return d.state != nil && !bytes.Equal(d.state, d.whole) }

// logger names the turn as it is counted now.
func (d *draft) logger() *slog.Logger {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log
}

// now is the present moment, as the agent sees it.
func (d *draft) now() time.Time {
	if d.actor == nil {
		return time.Now()
	}
	return d.actor.host.stage.Now()
}

// number is what the turn is counted as if it is stored.
func (d *draft) number() uint64 { return d.stored.Turn + 1 }

// put adds an entry to the outbox and returns its id. The draft is locked.
func (d *draft) put(o protocol.Outgoing) string {
	o.ID = d.nextID()
	d.out = append(d.out, o)
	return o.ID
}

func (d *draft) nextID() string {
	return protocol.OutgoingID(d.stored.Life, d.number(), len(d.out)+1)
}

// applied returns the mark of a source of mail, and whether there is one. The draft is locked.
func (d *draft) applied(source string) (uint64, bool) {
	if n, ok := d.seen[source]; ok {
		return n, ok
	}
	if d.seen != nil {
		n, ok := d.stored.Aged[source]
		return n, ok
	}
	return mark(d.stored, source)
}

// mark sets the mark of a source. The draft is locked.
func (d *draft) mark(source string, number uint64) error {
	_, known := d.applied(source)
	d.ownSeen()
	if !known && len(d.seen)+len(kept(d.stored, time.Now())) >= maxSources {
		return &SourcesError{Class: d.agent.Class, Agent: d.agent.Name, Source: source, Limit: maxSources}
	}
	d.seen[source] = number
	return nil
}

// forget takes the mark of a source out: mail of it is unknown from now on. The draft is locked.
func (d *draft) forget(source string) {
	d.ownSeen()
	delete(d.seen, source)
}

func (d *draft) ownSeen() {
	if d.seen == nil {
		d.seen = maps.Clone(d.stored.Seen)
	}
	if d.seen == nil {
		d.seen = map[string]uint64{}
	}
}

// next is the record that stores the turn, with the state in it if it is another one, and whether it would change
// anything.
func (d *draft) next(commit string, now time.Time) (protocol.Record, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.stored
	if d.condemned {
		return d.condemn(r, commit, now), true
	}
	changed := len(d.out) > 0 || d.fresh || d.call != nil && d.call.stored && d.call.ended
	if d.changesState() {
		r.State, r.StateObject, changed = d.state, nil, true
		r.Revision++
	}
	if d.seen != nil && !maps.Equal(d.seen, r.Seen) {
		r.Seen, changed = d.seen, true
		age(&r, now)
	}
	if d.queue != nil {
		r.Queue, changed = d.queue, true
	}
	if d.workflows != nil {
		r.Workflows, changed = remember(d.workflows, now), true
	}
	if parked := without(r.Parked, d.settles); len(parked) < len(r.Parked) {
		r.Parked, changed = parked, true
	}
	entry, sends := d.settleSockets(&r, changed)
	changed = changed || sends
	if d.actor != nil && changed {
		rememberCalls(&r, d.actor.confirmed.all(), now, d.call)
	}
	r.Outbox = slices.Concat(d.pending, d.out)
	if entry != nil {
		r.Outbox = append(r.Outbox, *entry)
	}
	r.Turn, r.Commit, r.Updated = d.number(), commit, now
	return r, changed
}

// Create puts the start of an instance into the outbox.
func (d *draft) Create(target protocol.Instance, create protocol.Create, existing protocol.Existing) error {
	return d.change(func() error {
		d.put(protocol.Outgoing{Kind: protocol.OutgoingCreate, Instance: outgoingTarget(target), Create: &create, Existing: existing})
		return nil
	})
}

// SendEvent puts an event to an instance into the outbox.
func (d *draft) SendEvent(target protocol.Instance, event protocol.Event) error {
	return d.change(func() error {
		d.put(protocol.Outgoing{Kind: protocol.OutgoingEvent, Instance: outgoingTarget(target), Event: &event})
		return nil
	})
}

// Control puts a control of an instance into the outbox.
func (d *draft) Control(target protocol.Instance, control protocol.Control) error {
	return d.change(func() error {
		d.put(protocol.Outgoing{Kind: protocol.OutgoingControl, Instance: outgoingTarget(target), Control: &control})
		d.steered(target, control.Action)
		return nil
	})
}

// Drafted says what this turn, or an earlier one whose outbox is not carried out, makes of target.
func (d *draft) Drafted(target protocol.Instance) turn.Draft {
	d.mu.Lock()
	defer d.mu.Unlock()
	var made turn.Draft
	for _, o := range slices.Concat(d.pending, d.out) {
		switch {
		case o.Instance == nil || *o.Instance != *outgoingTarget(target):
		case o.Kind == protocol.OutgoingCreate && o.Create != nil:
			made = turn.Draft{Create: o.Create}
		case o.Kind == protocol.OutgoingControl && o.Control != nil && o.Control.Action == protocol.ActionDelete:
			made = turn.Draft{Deleted: true}
		}
	}
	return made
}

// Source says that the agent acts, or one of its schedules.
func (d *draft) Source() protocol.Source {
	s := protocol.Source{Kind: "agent", Project: d.agent.Project, Class: d.agent.Class, Name: d.agent.Name}
	if d.firing != nil {
		s.Kind = "schedule"
	}
	return s
}

func outgoingTarget(i protocol.Instance) *protocol.OutgoingTarget {
	return &protocol.OutgoingTarget{Project: i.Project, Shard: i.Shard, Workflow: i.Workflow, ID: i.ID}
}
