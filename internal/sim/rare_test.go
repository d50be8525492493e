package sim

import (
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// staged is a game whose moves a test makes, because what it shows is too rare to wait for.
func staged(t *testing.T, r rules, script ...op) *world {
	w := newWorld(0, r, newCrew())
	t.Cleanup(func() {
		if t.Failed() {
			for _, line := range w.trace {
				t.Log(line)
			}
		}
		for len(w.actors) > 0 {
			w.end(w.actors[0])
		}
		w.crew.dismiss()
	})
	w.calm, w.traced = true, true
	i := protocol.Instance{Project: project, Workflow: "w0", ID: "i"}
	w.instances, w.scripts["w0"] = []protocol.Instance{i}, script
	w.startRunner()
	w.startRunner()
	return w
}

// send lets somebody do something, and a runner what follows from it, while one actor does nothing.
func (w *world) send(a act, r *runner, not *actor) {
	a.instance = w.instances[0]
	w.perform(a)
	w.letOthers(not)
	w.deliver(w.deliveries[len(w.deliveries)-1], r)
	w.letOthers(not)
}

// letOthers lets all come to their ends but one.
func (w *world) letOthers(not *actor) {
	for {
		var other *actor
		for _, a := range w.actors {
			if a != not {
				other = a
			}
		}
		if other == nil {
			return
		}
		w.resume(other)
	}
}

func (w *world) finish(a *actor) {
	for a.at != done {
		w.resume(a)
	}
}

var deleteIt = act{control: protocol.Control{Action: protocol.ActionDelete}, id: "c"}

// TestReadThatStraddlesADelete: an instance is deleted, and another gets its id and begins, between the two reads by
// which a runner looks at it.
func TestReadThatStraddlesADelete(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		tailFirst bool
		want      string
	}{{"tail first", true, ""}, {"create first", false, "entry 7 is of another incarnation"}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := sound()
			r.TailFirst = tt.tailFirst
			w := staged(t, r, op{op: protocol.OpEvent, name: "e", eventType: "a"})
			w.perform(act{instance: w.instances[0], create: true})
			w.letOthers(nil)
			w.server.lag = func(s *stream) int { return s.changes } // so that it asks the leader
			w.deliver(w.deliveries[0], w.runners[0])
			looks := w.actors[0]
			for range 3 { // up to the second read
				w.resume(looks)
			}
			w.server.lag = nil
			w.send(deleteIt, w.runners[1], looks)
			w.send(act{create: true}, w.runners[1], looks)
			w.finish(looks)
			if w.checker.failure != tt.want {
				t.Errorf("wrong is %q, want %q", w.checker.failure, tt.want)
			}
		})
	}
}

// TestZombieOfACleanedLog: a runner is frozen in the first body of an instance, and comes back when that was deleted and
// cleaned away.
func TestZombieOfACleanedLog(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		aged bool
		want string
	}{{"dropped", true, ""}, {"not dropped", false, "entry 5 is of an instance that is gone"}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := staged(t, sound(), op{op: protocol.OpDo, name: "s"})
			w.perform(act{instance: w.instances[0], create: true})
			w.letOthers(nil)
			w.deliver(w.deliveries[0], w.runners[0])
			zombie := w.actors[0]
			for len(w.checker.lives[1].bodies) == 0 {
				w.resume(zombie)
			}
			w.runners[0].frozen, w.runners[0].contact = true, w.now
			w.send(deleteIt, w.runners[1], zombie)
			w.now = w.now.Add(age + 2*kept)
			w.clean()
			w.letOthers(zombie)
			if w.stream().newest(w.instances[0].LogSubject()) != nil {
				t.Error("nothing was cleaned away")
			}
			w.rules.AgedHorizon = tt.aged
			if w.thaw(w.runners[0]); !zombie.killed {
				w.finish(zombie)
			}
			if w.checker.failure != tt.want {
				t.Errorf("wrong is %q, want %q", w.checker.failure, tt.want)
			}
		})
	}
}
