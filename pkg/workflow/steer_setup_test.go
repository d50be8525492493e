package workflow

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// desk is a project p with a workflow "w" that nobody runs, and its instances.
type desk struct {
	*bench
	own *project.Project
}

func setupDesk(t *testing.T) *desk {
	t.Helper()
	b := setup(t)
	b.register(map[string]string{"w": "W"})
	return &desk{b, b.open("p", project.Workflow{Name: "w", ClassName: "W"})}
}

func (d *desk) bound() Bound[int, int] { return Bind[int, int]("w").In(d.own) }

// make creates an instance and returns a handle that another call has found.
func (d *desk) make(id string) (instance *Instance[int], incarnation uint64) {
	d.t.Helper()
	created, err := d.bound().Create(d.t.Context(), 1, ID(id))
	if err != nil {
		d.t.Fatal(err)
	}
	found, err := d.bound().Get(d.t.Context(), id)
	if err != nil {
		d.t.Fatal(err)
	}
	return found, created.incarnation
}

// put publishes a message, for what a runner would have done.
func (b *bench) put(subject string, message any) uint64 {
	b.t.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	sequence, err := b.store.Publish(b.t.Context(), subject, nil, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return sequence
}

// announce says that an instance has ended.
func (b *bench) announce(id string, done protocol.Done) uint64 {
	b.t.Helper()
	done.V, done.Workflow, done.ID = protocol.Version, "w", id
	if done.State == "" {
		done.State = protocol.StateComplete
	}
	return b.put(b.instance("w", id).DoneSubject(), done)
}

// last reads the newest message of a subject; false if there is none.
func (b *bench) last(subject string, into any) (uint64, bool) {
	b.t.Helper()
	m, err := b.store.Last(b.t.Context(), protocol.WorkflowsStream("p", 0), subject)
	if errors.Is(err, journal.ErrNotFound) {
		return 0, false
	}
	if err == nil {
		err = json.Unmarshal(m.Data, into)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return m.Sequence, true
}

func (b *bench) control(id string) (c protocol.Control, sequence uint64) {
	b.t.Helper()
	sequence, _ = b.last(b.instance("w", id).ControlSubject(), &c)
	return c, sequence
}

// awaitControl waits until a control after a sequence is stored.
func (b *bench) awaitControl(id string, after uint64) (protocol.Control, uint64) {
	b.t.Helper()
	natstest.Eventually(b.t, natstest.Patience, "a control is stored", func() bool { _, at := b.control(id); return at > after })
	return b.control(id)
}

// erase does what a runner does that deletes an instance.
func (b *bench) erase(id string) {
	b.t.Helper()
	i := b.instance("w", id)
	for _, subject := range []string{i.InputsSubject(), i.DoneSubject(), i.LogSubject(), i.ControlSubject()} {
		if err := b.store.Purge(b.t.Context(), protocol.WorkflowsStream("p", 0), subject, b.stored()+1); err != nil {
			b.t.Fatal(err)
		}
	}
}

func past() *time.Time { return new(time.Now().Add(-time.Second)) }
