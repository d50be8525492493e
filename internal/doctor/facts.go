package doctor

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// facts are what the newest message of each subject of an instance says.
type facts struct {
	engine.Situation
	instance protocol.Instance
	// createAt is the sequence of the create as it stands now; carried is set if cleaning has put it there.
	createAt uint64
	carried  bool
	// newer is set if a newer version wrote it, or it makes no sense: nobody can tell how it stands.
	newer bool
	// deleted is set if the log ends with the delete.
	deleted bool
	// event, nudge and control are the sequences of the newest ones.
	event, nudge, control uint64
	steer                 protocol.Control
	// told is set if the end that the log has is announced, epoch is that of the log.
	told  bool
	epoch int
	// parent is the instance that has called it, nil if none has.
	parent *protocol.Parent
}

// factsOf makes facts of the newest messages of an instance.
func factsOf(i protocol.Instance, messages []journal.Message) facts {
	f := facts{instance: i}
	var create protocol.Create
	var tail *protocol.Append
	var tailAt, created uint64
	var done protocol.Done
	for _, m := range messages {
		_, class, err := protocol.ParseInstanceSubject(m.Subject)
		if err != nil {
			continue
		}
		switch class {
		case protocol.ClassCreate:
			f.newer = f.newer || json.Unmarshal(m.Data, &create) != nil || create.V > protocol.Version
			f.createAt, created, f.carried = m.Sequence, create.Incarnation(m.Sequence), create.Carried != 0
		case protocol.ClassLog:
			tailAt, tail = m.Sequence, &protocol.Append{}
			f.newer = f.newer || json.Unmarshal(m.Data, tail) != nil || engine.Readable(tail) != nil
		case protocol.ClassEvent:
			f.event = m.Sequence
		case protocol.ClassNudge:
			f.nudge = m.Sequence
		case protocol.ClassControl:
			f.control = m.Sequence
			if json.Unmarshal(m.Data, &f.steer) != nil || f.steer.V > protocol.Version {
				f.steer = protocol.Control{}
			}
		case protocol.ClassDone:
			if json.Unmarshal(m.Data, &done) != nil {
				done = protocol.Done{}
			}
		}
	}
	f.parent = create.Parent
	f.Situation = engine.Situate(i.Stream(), created, tailAt, tail)
	if !f.newer && f.Begun {
		status, err := engine.Glance(i.Stream(), created, create, tailAt, tail)
		f.newer, f.deleted = err != nil, status.State == protocol.StateDeleted
		f.epoch = tail.Epoch
		f.told = f.announced(done)
	}
	return f
}

// factsAtLeader reads the newest message of each subject of an instance, tail before create: the create that is read with
// a tail may belong to a newer instance, but never to an older one.
func (d *Doctor) factsAtLeader(ctx context.Context, i protocol.Instance) (facts, error) {
	var all []journal.Message
	for _, subject := range []string{
		i.LogSubject(), i.DoneSubject(), i.CreateSubject(), i.EventSubject(), i.NudgeSubject(), i.ControlSubject(),
	} {
		m, err := d.last(ctx, i.Stream(), subject)
		if err != nil {
			return facts{}, err
		}
		if m != nil {
			all = append(all, *m)
		}
	}
	f := factsOf(i, all)
	if f.Phase != engine.Finished || f.newer || f.told {
		return f, nil
	}
	var err error
	f.told, err = d.told(ctx, f)
	return f, err
}

// announced reports whether an announcement is that of the end that the log has.
func (f facts) announced(done protocol.Done) bool {
	return done.Incarnation == f.Incarnation && done.Epoch == f.epoch
}

// told reports whether the end of an instance is announced at all: an announcement may come again, late, after that of a newer end.
func (d *Doctor) told(ctx context.Context, f facts) (bool, error) {
	for next := f.Incarnation; ; {
		m, err := d.Store.NextFromLeader(ctx, f.instance.Stream(), f.instance.DoneSubject(), next)
		if errors.Is(err, journal.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		var done protocol.Done
		if json.Unmarshal(m.Data, &done) == nil && f.announced(done) {
			return true, nil
		}
		next = m.Sequence + 1
	}
}

// last reads the newest message of a subject from the leader; nil if there is none.
func (d *Doctor) last(ctx context.Context, stream, subject string) (*journal.Message, error) {
	m, err := d.Store.Last(ctx, stream, subject)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	return m, err
}

func (d *Doctor) timers() string { return protocol.TimersStream(d.Project.Name) }

// wake is the state of the wake that an instance is held under.
func (d *Doctor) wake(ctx context.Context, f facts, all marks) (wakeState, error) {
	m, err := d.Store.At(ctx, f.Holder.Stream, f.Holder.Sequence)
	if errors.Is(err, journal.ErrNotFound) {
		return settled, nil
	}
	if err != nil {
		return unknown, err
	}
	if f.Holder.Stream != f.instance.Stream() { // a timer that fired, on a stream that keeps what is not acknowledged
		return open, nil
	}
	i, class, err := protocol.ParseInstanceSubject(m.Subject)
	if err != nil || i != f.instance {
		return settled, nil
	}
	return all.of(i, class, f.Holder.Sequence), nil
}
