package runner

import (
	"errors"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// States of instances, short for tables.
const (
	queued     = protocol.StateQueued
	running    = protocol.StateRunning
	waiting    = protocol.StateWaiting
	pausing    = protocol.StateWaitingForPause
	paused     = protocol.StatePaused
	held_      = protocol.StateHeld
	rolling    = protocol.StateRollingBack
	complete   = protocol.StateComplete
	terminated = protocol.StateTerminated
	none       = protocol.State("")
)

// begin brings an instance into a state.
var begin = map[string]func(r *rig, id string) protocol.Instance{
	"unbegun": func(r *rig, id string) protocol.Instance { return r.create(at("waits", id)) },
	"in a body": func(r *rig, id string) protocol.Instance {
		i := r.create(at("works", id))
		r.gate(id).await(r.t)
		return i
	},
	"asleep":  func(r *rig, id string) protocol.Instance { return r.begun(at("sleeps", id), waiting) },
	"waiting": func(r *rig, id string) protocol.Instance { return r.begun(at("waits", id), waiting) },
	"paused": func(r *rig, id string) protocol.Instance {
		i := r.begun(at("waits", id), waiting)
		r.control(i, protocol.Control{Action: protocol.ActionPause})
		r.reaches(i, paused)
		return i
	},
	"held": func(r *rig, id string) protocol.Instance {
		i := r.begun(at("waits", id), waiting)
		r.append(i, protocol.Entry{Kind: protocol.EntryHeld, Divergence: &protocol.Divergence{}, Error: &protocol.Failure{Name: "X"}})
		return i
	},
	"rolling back": func(r *rig, id string) protocol.Instance { // by a runner that is gone
		i := r.begun(at("waits", id), waiting)
		r.append(i, protocol.Entry{Kind: protocol.EntryRollingBack, Error: &protocol.Failure{Name: "X"}})
		return i
	},
	"finished": func(r *rig, id string) protocol.Instance {
		i := r.create(at("quick", id))
		r.announced(i, "complete", func(d protocol.Done) bool { return d.State == complete })
		return i
	},
}

// row is a control sent to an instance in a state.
type row struct {
	from   string
	action protocol.Action
	// vain is set if the control changes nothing; then is the state that it leads to, end the one after that.
	vain      bool
	then, end protocol.State

	instance protocol.Instance
	sent     uint64
}

func rows() []*row {
	const (
		pause, resume, terminate = protocol.ActionPause, protocol.ActionResume, protocol.ActionTerminate
		restart, remove          = protocol.ActionRestart, protocol.ActionDelete
	)
	return []*row{
		{from: "unbegun", action: pause, then: paused, end: paused},
		{from: "unbegun", action: resume, vain: true, then: queued, end: waiting},
		{from: "unbegun", action: terminate, then: terminated, end: terminated},
		{from: "unbegun", action: restart, then: waiting, end: waiting},
		{from: "unbegun", action: remove, then: none, end: none},
		{from: "in a body", action: pause, then: pausing, end: paused},
		{from: "in a body", action: resume, vain: true, then: running, end: complete},
		{from: "in a body", action: terminate, then: terminated, end: terminated},
		{from: "in a body", action: restart, then: running, end: complete},
		{from: "in a body", action: remove, then: none, end: none},
		{from: "asleep", action: pause, then: paused, end: paused},
		{from: "asleep", action: resume, vain: true, then: waiting, end: waiting},
		{from: "asleep", action: terminate, then: terminated, end: terminated},
		{from: "asleep", action: restart, then: waiting, end: waiting},
		{from: "asleep", action: remove, then: none, end: none},
		{from: "waiting", action: pause, then: paused, end: paused},
		{from: "waiting", action: resume, vain: true, then: waiting, end: waiting},
		{from: "waiting", action: terminate, then: terminated, end: terminated},
		{from: "waiting", action: restart, then: waiting, end: waiting},
		{from: "waiting", action: remove, then: none, end: none},
		{from: "paused", action: pause, vain: true, then: paused, end: paused},
		{from: "paused", action: resume, then: waiting, end: waiting},
		{from: "paused", action: terminate, then: terminated, end: terminated},
		{from: "paused", action: restart, then: waiting, end: waiting},
		{from: "paused", action: remove, then: none, end: none},
		{from: "held", action: pause, vain: true, then: held_, end: held_},
		{from: "held", action: resume, then: waiting, end: waiting},
		{from: "held", action: terminate, then: terminated, end: terminated},
		{from: "held", action: restart, then: waiting, end: waiting},
		{from: "held", action: remove, then: none, end: none},
		{from: "rolling back", action: pause, then: paused, end: paused},
		{from: "rolling back", action: resume, vain: true, then: rolling, end: rolling},
		{from: "rolling back", action: terminate, then: terminated, end: terminated},
		{from: "rolling back", action: restart, then: waiting, end: waiting},
		{from: "rolling back", action: remove, then: none, end: none},
		{from: "finished", action: pause, vain: true, then: complete, end: complete},
		{from: "finished", action: resume, vain: true, then: complete, end: complete},
		{from: "finished", action: terminate, vain: true, then: complete, end: complete},
		{from: "finished", action: restart, then: complete, end: complete},
		{from: "finished", action: remove, then: none, end: none},
	}
}

func (row *row) name() string { return plain(row.from) + "_" + string(row.action) }

// TestControls sends each control to an instance in each state, three times: stored twice at once, as by a sender that did
// not get its answer, and once more when all is done. It counts once.
func TestControls(t *testing.T) {
	t.Parallel()
	begun, unbegun, inBody := setup(t), setup(t), setup(t)
	hold := unbegun.pauseWakes()
	begun.serve(begun.runner())
	unbegun.serve(unbegun.runner())
	executor := inBody.listening()
	inBody.serve(executor)
	all := rows()
	rigOf := func(row *row) *rig {
		switch row.from {
		case "unbegun":
			return unbegun
		case "in a body":
			return inBody
		}
		return begun
	}
	t.Run("sent", func(t *testing.T) {
		for _, row := range all {
			t.Run(row.name(), func(t *testing.T) {
				t.Parallel()
				row.send(rigOf(row).on(t), executor)
			})
		}
	})
	hold()
	for range 2 {
		for _, r := range []*rig{begun, unbegun, inBody} {
			r.quiesce(protocol.ConsumerControls(0), 0)
			r.quiesce(protocol.ConsumerWakes(0), 0)
		}
		for _, row := range all {
			r := rigOf(row)
			row.check(r.on(t))
			r.control(row.instance, protocol.Control{Action: row.action, Input: row.name()}) // for the second round
		}
	}
}

// send sends the control and waits until it took effect. The executor is the runner of those that are in a body.
func (row *row) send(r *rig, executor *Runner) {
	row.instance = begin[row.from](r, row.name())
	row.sent = r.control(row.instance, protocol.Control{Action: row.action, Input: row.name()})
	r.control(row.instance, protocol.Control{Action: row.action, Input: row.name()})
	r.until(row.instance, "has settled the control", func(s protocol.Status) bool {
		return s.State == row.then && (row.vain || row.then == pausing || row.then == none || s.Mark >= row.sent)
	})
	switch {
	case row.then == terminated, row.then == none && row.from != "unbegun":
		d := r.announced(row.instance, "after the control", func(d protocol.Done) bool { return d.Mark >= row.sent })
		state, failure := terminated, protocol.FailureTerminated
		if row.then == none {
			state, failure = protocol.StateDeleted, protocol.FailureDeleted
		}
		if d.State != state || d.Error == nil || d.Error.Name != failure {
			r.t.Errorf("announced is %+v", d)
		}
	case row.vain && row.then == running: // nobody says so, but whoever asks
		r.until(row.instance, "has settled the control", func(s protocol.Status) bool { return s.Mark >= row.sent })
	case row.from == "finished" && row.then == complete: // restarted, or told that the end is final
		r.announced(row.instance, "after the control", func(d protocol.Done) bool { return d.Mark >= row.sent })
	}
	if row.from != "in a body" {
		return
	}
	switch {
	case row.then == pausing:
		r.yields(executor, row.instance, row.sent)
	case !row.vain:
		r.gate(row.name()).wasStopped(r.t)
	}
	if row.then == running && !row.vain {
		r.gate(row.name()).await(r.t)
	}
	close(r.gate(row.name()).open)
}

// check compares what there is when all is quiet.
func (row *row) check(r *rig) {
	r.t.Helper()
	s := r.status(row.instance)
	if s.State != row.end {
		r.t.Errorf("%s: the instance is %q, want %q", row.name(), s.State, row.end)
	}
	obeyed := slices.DeleteFunc(r.entries(row.instance), func(e protocol.Entry) bool { return e.InputID != row.name() })
	want := 1
	if row.vain {
		want = 0
	}
	if len(obeyed) != want {
		r.t.Errorf("%s: the control was obeyed %d times, want %d: %+v", row.name(), len(obeyed), want, obeyed)
	}
	epoch := 0
	if row.action == protocol.ActionRestart {
		epoch = 1
	}
	if s.Epoch != epoch {
		r.t.Errorf("%s: there were %d restarts, want %d", row.name(), s.Epoch, epoch)
	}
	if row.end != none {
		if released := r.count(row.instance, protocol.EntryReleased) == 1; released != (row.from == "in a body" && !row.vain) {
			r.t.Errorf("%s: who executed it gave it back: %v", row.name(), released)
		}
		return
	}
	if log := r.log(row.instance); len(log) != 1 || len(log[0].Entries) != 1 || log[0].Entries[0].Kind != protocol.EntryDeleted {
		r.t.Errorf("%s: the log holds %+v, want the tombstone", row.name(), log)
	}
	for _, subject := range []string{row.instance.CreateSubject(), row.instance.EventSubject()} {
		if _, err := r.store.Last(r.t.Context(), protocol.WorkflowsStream("p", 0), subject); !errors.Is(err, journal.ErrNotFound) {
			r.t.Errorf("%s: %s holds something (%v)", row.name(), subject, err)
		}
	}
}
