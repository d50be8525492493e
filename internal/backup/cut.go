package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// How the streams are read, and why in this order. What leads from one stream to another is written there before it is taken away
// here: a wake is acknowledged when what it asked for is stored, an entry leaves an outbox when it is carried out, a timer that
// fired is acknowledged when the log says so. Whoever holds both ends at one moment has it at one of them, at least; both is
// harmless, as after a crash. So:
//
//  1. How far consumers have come, before anything else. What is acknowledged then has left its effect where it is read later;
//     everything after that comes again.
//  2. The large streams, calmly, to their ends of now: what follows is short.
//  3. Schedules, and the clock. A moment that is armed or due then fires again after a restore, and is known to have fired by
//     whom it was for, as all of that is read later. Schedules are read once more at the end: rows that agents have made.
//  4. Timers, mail, dead letters and connections as far as they are now; then, at one moment, the records of agents, the ends of the
//     logs, and mail and dead letters again; then timers again (moment.go). Logs and records have to be of one moment: an agent that
//     has applied what the end of a workflow has told it would be told again, by an entry that is written again; a step that has called an
//     agent, and has its answer in the log, would not call it again. So no record may be written from its reading until mail is read.
//     Mail is read after the logs have ended, so what a step has told before its result was stored is there; what was acknowledged before
//     that is applied in a record, as none was written since; and what turns tell after the moment is not there. A notice of an entry
//     that the log has not yet is left out. If a record was written, all of this is done again, which takes some milliseconds; where there always is
//     one, hosts and runners are asked to hold up (internal/quiesce).
//     A timer that is acknowledged before it is read has its effect in the log that is read later. One that is armed for an entry of
//     that log is armed before timers are read again, or its wake comes again (1), or it is the wake itself that is read with it. The
//     large states that records refer to are read with them, and a record whose state was replaced meanwhile is read again.
//  5. What is posted to other projects: what of it was there as the logs ended, and nothing was posted at that moment, or 4 is done
//     again. So no end of an instance is told that its log does not have. Then inputs of instances, as far as they are now, with what
//     else came out of outboxes, and with answers to what was posted. Only inputs: to an instance they are what is sent to it after a
//     crash. Large values: those that logs, posts and inputs refer to were put before these.
//  6. The logs once more, for those of their entries only that say that an instance is deleted: what of it was read piece by piece
//     while it went is left out.
//
// Numbers of turns and sequences that were used after these moments would come again, with other meanings. A restore goes on behind
// all of them (restore.go).

// copier reads all streams of a backup.
type copier struct {
	Options
	tapes []*tape
	// copied are the projects that the tapes are of.
	copied []string
	// floors are how far the durable consumers of each stream had come at the beginning.
	floors map[string][]consumer
	// at is the moment that logs, records and mail are of.
	at moment
	// inputsEnd is where, by stream, inputs end.
	inputsEnd map[string]uint64
	// states are the large states that records refer to, by the subject of the record, by project.
	states map[string]map[string]string
	// values are what is there of large values, by project.
	values map[string]*values
	// deletes are the entries of logs that say that an instance is deleted: the sequence of the newest, by instance.
	deletes map[protocol.Instance]uint64
}

// consumer is a durable consumer, and up to where everything is acknowledged.
type consumer struct {
	Config jetstream.ConsumerConfig `json:"config"`
	// Floor is the sequence in the stream, Count how many messages of its own the consumer has up to there.
	Floor uint64 `json:"floor"`
	Count uint64 `json:"count"`
}

// of are the tapes of a kind.
func (c *copier) of(kind protocol.StreamKind) (found []*tape) {
	for _, t := range c.tapes {
		if t.kind == kind {
			found = append(found, t)
		}
	}
	return found
}

func (c *copier) advance(ctx context.Context, kinds ...protocol.StreamKind) error {
	return c.every(ctx, (*tape).advance, kinds...)
}

func (c *copier) reach(ctx context.Context, kinds ...protocol.StreamKind) error {
	return c.every(ctx, (*tape).reach, kinds...)
}

func (c *copier) every(ctx context.Context, read func(*tape, context.Context) error, kinds ...protocol.StreamKind) error {
	for _, kind := range kinds {
		for _, t := range c.of(kind) {
			if err := read(t, ctx); err != nil {
				return fmt.Errorf("read stream %s: %w", t.stream, err)
			}
		}
		c.tell(kind)
	}
	return nil
}

// tell tells how much was read of the streams of some kinds.
func (c *copier) tell(kinds ...protocol.StreamKind) {
	if c.Progress == nil {
		return
	}
	for _, kind := range kinds {
		for _, t := range c.of(kind) {
			c.Progress(t.stream, t.count)
		}
	}
}

// read reads everything, in the order above.
func (c *copier) read(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		c.readFloors, c.readBulk, c.readClock, c.readTogether, c.readRest,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) readFloors(ctx context.Context) error {
	c.floors = map[string][]consumer{}
	for _, t := range c.tapes {
		s, err := c.JS.Stream(ctx, t.stream)
		if err != nil {
			return fmt.Errorf("stream %s: %w", t.stream, err)
		}
		list := s.ListConsumers(ctx)
		for info := range list.Info() {
			if info.Config.Durable == "" {
				continue // it goes with who made it
			}
			c.floors[t.stream] = append(c.floors[t.stream], consumer{
				Config: info.Config, Floor: info.AckFloor.Stream, Count: info.AckFloor.Consumer,
			})
		}
		if err := list.Err(); err != nil {
			return fmt.Errorf("consumers of stream %s: %w", t.stream, err)
		}
	}
	return nil
}

// cleanings is how often a stream of instances is read anew because it was cleaned meanwhile.
const cleanings = 3

// readBulk reads what is large. A stream of instances loses its beginning when it is cleaned, after what is needed of it was
// carried to its end: who reads in between would have neither.
func (c *copier) readBulk(ctx context.Context) error {
	for _, t := range c.of(protocol.KindWorkflows) {
		if err := c.readUncleaned(ctx, t); err != nil {
			return err
		}
	}
	return errors.Join(c.calmly(ctx, protocol.KindObjects), c.calmly(ctx, protocol.KindAgents))
}

func (c *copier) calmly(ctx context.Context, kind protocol.StreamKind) error {
	for _, t := range c.of(kind) {
		t.calm = true
		err := t.reach(ctx)
		t.calm = false
		if err != nil {
			return fmt.Errorf("read stream %s: %w", t.stream, err)
		}
		c.tell(kind)
	}
	return nil
}

func (c *copier) readUncleaned(ctx context.Context, t *tape) error {
	for range cleanings {
		before, err := c.Store.State(ctx, t.stream)
		if err != nil {
			return err
		}
		t.calm = true
		err = t.reach(ctx)
		t.calm = false
		if err != nil {
			return fmt.Errorf("read stream %s: %w", t.stream, err)
		}
		after, err := c.Store.State(ctx, t.stream)
		if err != nil || after.First == before.First {
			return err
		}
		if err := t.open(t.file.Name()); err != nil {
			return err
		}
	}
	return fmt.Errorf("stream %s was cleaned each time while it was read: try again later", t.stream)
}

func (c *copier) readClock(ctx context.Context) error {
	return c.advance(ctx, protocol.KindSchedules, protocol.KindClock)
}

func (c *copier) readRest(ctx context.Context) error {
	err := c.reach(ctx, protocol.KindPost)
	if err == nil {
		err = c.advance(ctx, protocol.KindSlots, protocol.KindConnections, protocol.KindHosts, protocol.KindSchedules)
	}
	if err == nil {
		err = c.reach(ctx, protocol.KindWorkflows)
	}
	if err != nil {
		return err
	}
	c.inputsEnd = map[string]uint64{}
	for _, t := range c.of(protocol.KindWorkflows) {
		c.inputsEnd[t.stream] = t.at
	}
	if err := c.reach(ctx, protocol.KindObjects, protocol.KindWorkflows); err != nil {
		return err
	}
	return c.advance(ctx, protocol.KindProjects, protocol.KindJanitors)
}

// watch has the tapes note what is needed before everything is read.
func (c *copier) watch() {
	c.states, c.values, c.deletes = map[string]map[string]string{}, map[string]*values{}, map[protocol.Instance]uint64{}
	for _, t := range c.tapes {
		switch t.kind {
		case protocol.KindWorkflows:
			t.see = c.seeInstance
		case protocol.KindObjects:
			v := newValues(t.project)
			c.values[t.project], t.see = v, v.see
		case protocol.KindAgents:
			states := map[string]string{}
			c.states[t.project] = states
			t.see = func(m journal.Message) { seeRecord(states, m) }
		}
	}
}

// seeRecord notes which large state a record refers to.
func seeRecord(states map[string]string, m journal.Message) {
	delete(states, m.Subject)
	if r, ok := readRecord(m.Data); ok && r.StateObject != nil {
		states[m.Subject] = r.StateObject.Name
	}
}

// seeInstance notes the deletes.
func (c *copier) seeInstance(m journal.Message) {
	if !strings.Contains(string(m.Data), string(protocol.EntryDeleted)) {
		return
	}
	if i, class, err := protocol.ParseInstanceSubject(m.Subject); err == nil && class == protocol.ClassLog && isDelete(m.Data) {
		c.deletes[i] = max(c.deletes[i], m.Sequence)
	}
}

// projects are those that are copied.
func (c *copier) projects() []string {
	all := map[string]bool{}
	for _, t := range c.tapes {
		if t.project != "" {
			all[t.project] = true
		}
	}
	return sorted(maps.Keys(all))
}
