package doctor

import (
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// inShard is an instance of a project with four shards: the ids "a" to "d" are one in each.
func inShard(workflow, id string) protocol.Instance {
	i := at(workflow, id)
	i.Shard = protocol.Shard(id, 4)
	return i
}

// TestShards: sequences of one shard say nothing about those of another. In each of four shards, of which one is far ahead of
// the others, something else is wrong, or nothing.
func TestShards(t *testing.T) {
	t.Parallel()
	r := setupShards(t, 4)
	caller, child := inShard("calls", "b"), inShard("works", "a")
	if caller.Shard != 1 || child.Shard != 0 || inShard("works", "c").Shard != 2 || inShard("works", "d").Shard != 3 {
		t.Fatal("the ids are in other shards")
	}
	stop := r.serve()
	for range 40 { // shard 2 is ahead
		r.publish(inShard("waits", "c").EventSubject(), protocol.Event{V: 1, Input: "early", Type: "other", Sent: time.Now()})
	}
	r.create(inShard("waits", "c"))
	r.reaches(inShard("waits", "c"), protocol.StateWaiting)
	r.create(caller)
	r.reaches(caller, protocol.StateWaiting)
	r.reaches(child, protocol.StateRunning)
	r.awaitUnacked(caller, 0)
	r.awaitUnacked(child, 1)
	r.create(inShard("sleeps", "d"))
	r.reaches(inShard("sleeps", "d"), protocol.StateWaiting)
	r.awaitUnacked(inShard("sleeps", "d"), 0)
	stop()
	m, err := r.store.Last(t.Context(), child.Stream(), child.CreateSubject())
	if err != nil {
		t.Fatal(err)
	}
	end := r.log(child, protocol.Append{
		Incarnation: m.Sequence, Holder: protocol.Wake{Stream: child.Stream(), Sequence: m.Sequence}, Entries: []protocol.Entry{{Kind: protocol.EntryCompleted}},
	})
	r.publish(child.DoneSubject(), protocol.Done{V: 1, Workflow: "works", ID: "a", Incarnation: m.Sequence, Log: end, State: protocol.StateComplete})
	r.ackByHand(child.Stream(), protocol.ConsumerWakes(0)) // the caller, in another shard, was not told
	lost := inShard("works", "d")
	r.create(lost)
	r.ackByHand(lost.Stream(), protocol.ConsumerWakes(3))
	r.remove("TIMERS_p", r.timerOf(inShard("sleeps", "d")))
	r.create(inShard("works", "c")) // has its wake

	want := map[string]Kind{child.String(): AnswerNotGiven, lost.String(): NoWake, "p/sleeps/d": NoTimer}
	found, report := r.examine()
	for _, f := range found {
		if want[f.Subject] != f.Kind {
			t.Errorf("found %+v", f)
		}
	}
	if len(found) != len(want) || report.Instances != 6 {
		t.Fatalf("found %+v, %+v; want %v of 6 instances", found, report, want)
	}
	if found, report := r.examine(repair); report.Left() != 0 {
		t.Errorf("not repaired: %+v", found)
	}
	close(r.gate)
	r.serve()
	for _, i := range []protocol.Instance{caller, lost, inShard("works", "c")} {
		r.reaches(i, protocol.StateComplete)
	}
	r.quiesce()
	if found, _ := r.examine(); len(found) > 0 {
		t.Errorf("after the repair: %v", kinds(found))
	}
}

// TestObjectsOfShards: the values of instances are with them, in whatever shard.
func TestObjectsOfShards(t *testing.T) {
	t.Parallel()
	r := setupShards(t, 4)
	var stray []string
	for _, id := range []string{"a", "b", "c", "d"} {
		r.putValue(inShard("waits", id), true)
		stray = append(stray, r.putValue(inShard("works", id), false))
	}
	found, _ := r.examine()
	var names []string
	for _, f := range found {
		names = append(names, f.Subject)
	}
	if slices.Sort(names); !slices.Equal(names, stray) {
		t.Errorf("found %q, want %q", names, stray)
	}
}

// awaitUnacked waits until a number of wakes of the shard of an instance is with runners.
func (r *rig) awaitUnacked(i protocol.Instance, want int) {
	r.Helper()
	natstest.Eventually(r, patience, "wakes are acknowledged", func() bool {
		p, err := r.store.Progress(r.Context(), i.Stream(), protocol.ConsumerWakes(i.Shard))
		return err == nil && p.Unacked == want
	})
}

// putValue stores a value of an instance, and its create if the value is to be needed. It returns the value's name.
func (r *rig) putValue(i protocol.Instance, needed bool) string {
	r.Helper()
	object, err := objects.New(r.store).Put(r.Context(), objects.Value{Owner: protocol.OwnerOf(i, "in"), JSON: []byte(`"` + i.String() + `"`)})
	if err != nil {
		r.Fatal(err)
	}
	if needed {
		create := protocol.Create{V: 1, Input: "in", Workflow: i.Workflow, ID: i.ID, ParamsObject: object, Created: time.Now()}
		if _, err := r.store.Append(r.Context(), i.Stream(), i.CreateSubject(), 0, r.json(create)); err != nil {
			r.Fatal(err)
		}
	}
	return object.Name
}
