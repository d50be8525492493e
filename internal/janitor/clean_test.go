package janitor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// gone makes an instance that expires when it ends.
func gone() workflow.CreateOption { return workflow.Retention(time.Nanosecond, time.Nanosecond) }

// awaitEnd waits until the end of an instance is announced, although nobody finds it any more.
func (y *yard) awaitEnd(name, id string) {
	y.t.Helper()
	at := protocol.Instance{Project: "p", Shard: protocol.Shard(id, y.shards), Workflow: name, ID: id}
	natstest.Eventually(y.t, natstest.Patience, id+" has ended", func() bool {
		_, err := y.store.Last(y.t.Context(), at.Stream(), at.DoneSubject())
		return err == nil
	})
}

// empty checks that nothing at all is stored.
func (y *yard) empty(streams ...string) {
	y.t.Helper()
	for _, stream := range streams {
		if left := y.subjects(stream, ">"); len(left) > 0 {
			y.t.Errorf("stream %s still holds %q", stream, left)
		}
	}
}

func everything() []string {
	return []string{
		protocol.WorkflowsStream("p", 0), protocol.TimersStream("p"), protocol.ObjectsStream("p"), protocol.KVStream(protocol.SlotsBucket("p")),
	}
}

// TestExpiredGoes: what has expired goes with all that it owns, and nothing else does.
func TestExpiredGoes(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	for n := range 6 {
		create(y, "large", fmt.Sprint("large-", n), big("params"), gone())
		create(y, "quick", fmt.Sprint("quick-", n), "q", gone())
	}
	kept := create(y, "large", "kept", big("params"))
	for n := range 6 {
		y.awaitEnd("large", fmt.Sprint("large-", n))
		y.awaitEnd("quick", fmt.Sprint("quick-", n))
	}
	y.result(kept, big("params")+big("result"))
	y.settled()
	r := y.clean(y.cleaner(), y.stored())
	if r.Dropped != 12 || r.Carried != 1 {
		t.Errorf("%+v, want 12 dropped and 1 carried", r)
	}
	for _, stream := range []string{protocol.WorkflowsStream("p", 0), protocol.ObjectsStream("p")} {
		for _, subject := range y.subjects(stream, ">") {
			if name := "large/kept/"; !strings.Contains(subject, ".large.kept") && !strings.Contains(objectName(t, subject), name) {
				t.Errorf("stream %s holds %s", stream, subject)
			}
		}
	}
	y.result(kept, big("params")+big("result"))
	again := create(y, "quick", "quick-0", "new")
	y.result(again, "new!")
}

// objectName is the name of the object that a subject of an object store is about.
func objectName(t *testing.T, subject string) string {
	t.Helper()
	return protocol.ObjectNameOf("p", subject)
}

// TestDeleteLeavesNothing: a deleted instance, whatever it was doing, is gone from everywhere after a cleaning.
func TestDeleteLeavesNothing(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	large := create(y, "large", "large", big("params"))
	y.result(large, big("params")+big("result"))
	sleeps := create(y, "sleeps", "sleeps", 300*24*time.Hour)
	waits := create(y, "waits", "waits", "w")
	y.send(waits, "second")
	y.reaches(sleeps, workflow.Waiting)
	y.reaches(waits, workflow.Waiting)
	if err := waits.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.settled()
	y.clean(y.cleaner(), y.stored()) // creates and snapshots that cleaning has made go, too
	for _, i := range []*workflow.Instance[string]{large, sleeps, waits} {
		if err := i.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		natstest.Eventually(t, natstest.Patience, i.ID()+" is gone", func() bool {
			_, err := i.Status(t.Context())
			return errors.Is(err, workflow.ErrNotFound)
		})
	}
	y.settled()
	y.clean(y.cleaner(), y.stored())
	natstest.Eventually(t, natstest.Patience, "the timer is taken back", func() bool { return y.state(protocol.TimersStream("p")).Messages == 0 })
	y.empty(everything()...)
}

// TestStraysGo: what was sent to nobody, or to one that was there before, goes without a word.
func TestStraysGo(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	nobody := protocol.Instance{Project: "p", Workflow: "quick", ID: "nobody"}
	for subject, message := range map[string]any{
		nobody.EventSubject():   protocol.Event{V: 1, Input: "1", Type: "t"},
		nobody.ControlSubject(): protocol.Control{V: 1, Input: "2", Action: protocol.ActionTerminate},
		nobody.NudgeSubject():   protocol.Nudge{V: 1},
	} {
		body, err := json.Marshal(message)
		if err == nil {
			_, err = y.store.Publish(t.Context(), subject, nil, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	y.settled()
	if r := y.clean(y.cleaner(), y.stored()); r.Carried+r.Dropped > 0 {
		t.Errorf("%+v, want nothing carried or dropped", r)
	}
	y.empty(everything()...)
}

// TestNoRunner: without a runner nothing is purged that is needed, and snapshots are asked for once.
func TestNoRunner(t *testing.T) {
	t.Parallel()
	y := setup(t)
	stop := y.serve()
	const many = 50
	for n := range many {
		y.reaches(create(y, "waits", fmt.Sprint("w-", n), "w"), workflow.Waiting)
	}
	y.settled()
	stop()
	first, before := y.stored(), y.state(protocol.WorkflowsStream("p", 0)).Messages
	impatient := func(c *janitor.Cleaner) { c.Settings.Tries, c.Settings.Chunk = 2, 1000 }
	for range 3 { // each as if it were another process
		r, err := y.cleaner(impatient).Round(t.Context())
		if heldUp, ok := errors.AsType[*janitor.HeldUpError](err); !ok || r.Purged > 0 {
			t.Fatalf("%+v, %v, want that an instance holds it up", r, heldUp)
		}
	}
	if asked := len(y.subjects(protocol.WorkflowsStream("p", 0), protocol.ControlSubjects("p", 0))); asked == 0 || asked > 32 {
		t.Errorf("%d instances are asked for a snapshot, want at most 32 at a time", asked)
	}
	if added := y.state(protocol.WorkflowsStream("p", 0)).Messages - before; added > 64 {
		t.Errorf("three times in vain have stored %d messages, want no more than once", added)
	}
	y.serve()
	y.settled()
	if r := y.clean(y.cleaner(), first); r.Carried < many-32 || r.Dropped > 0 {
		t.Errorf("%+v", r)
	}
	i := y.get("waits", "w-7")
	y.send(i, "first")
	y.send(i, "second")
	y.result(i, "w first second")
}

// TestHorizon: nothing is purged that is young, or has a wake that is not acked, or may have one.
func TestHorizon(t *testing.T) {
	t.Parallel()
	y := setup(t)
	stop := y.serve()
	create(y, "quick", "before", "b", gone())
	y.awaitEnd("quick", "before")
	y.settled()
	old := y.stored()
	stop() // whoever runs it finds its event, and holds the wake of its create
	works := create(y, "works", "works", "w")
	y.send(works, "begin")
	y.serve()
	<-y.gate("w").arrived
	create(y, "quick", "after", "a", gone())
	y.awaitEnd("quick", "after")
	stream := protocol.WorkflowsStream("p", 0)
	round := func(change ...func(*janitor.Cleaner)) error {
		t.Helper()
		_, err := y.cleaner(change...).Round(t.Context())
		return err
	}
	if err := round(func(c *janitor.Cleaner) { c.Settings.Age = time.Hour }); err != nil || y.state(stream).First != 1 {
		t.Errorf("young messages: %v, the stream begins at %d", err, y.state(stream).First)
	}
	if err := round(func(c *janitor.Cleaner) { c.Settings.Margin = time.Hour }); err != nil || len(y.subjects(stream, "wf.p.0.in.quick.before.create")) != 1 {
		t.Errorf("what expired a moment ago is gone, by the clock of one server: %v", err)
	}
	bare := protocol.WorkflowsStream("p", 1)
	if _, err := y.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: bare, Subjects: []string{"bare"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := y.js.Publish(t.Context(), "bare", nil); err != nil {
		t.Fatal(err)
	}
	if err := round(func(c *janitor.Cleaner) { c.Shard = 1 }); err == nil || y.state(bare).Messages != 1 {
		t.Error("it was cleaned although its consumers are missing")
	}
	if err := round(); err != nil || y.state(stream).First != old+1 {
		t.Errorf("the stream begins at %d, want %d, that of the wake that is held: %v", y.state(stream).First, old+1, err)
	}
	close(y.gate("w").open)
	y.result(works, "w")
	y.settled()
	y.clean(y.cleaner(), y.stored())
}

// TestSeveralJanitors: they may work at the same time on the same stream.
func TestSeveralJanitors(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, y *yard, moved func()) {
		y.serve()
		var kept []*workflow.Instance[string]
		for n := range 30 {
			create(y, "quick", fmt.Sprint("q-", n), "q", gone())
			kept = append(kept, create(y, "waits", fmt.Sprint("w-", n), fmt.Sprint(n)))
		}
		for n, i := range kept {
			y.awaitEnd("quick", fmt.Sprint("q-", n))
			y.reaches(i, workflow.Waiting)
		}
		y.settled()
		upTo := y.stored()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { y.clean(y.cleaner(), upTo) })
		}
		moved()
		all.Wait()
		for n, i := range kept {
			y.send(i, "first")
			y.send(i, "second")
			y.result(i, fmt.Sprint(n, " first second"))
		}
		if left := y.subjects(protocol.WorkflowsStream("p", 0), "wf.p.0.*.quick.>"); len(left) > 0 {
			t.Errorf("of what has expired %q are left", left)
		}
	})
}

// TestCarriedWhileItGoes: a janitor that does not know yet that an instance has expired carries its create, right before
// another purges the rest. The create must not be left for ever: the id is free.
func TestCarriedWhileItGoes(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, y *yard, moved func()) {
		y.serve()
		create(y, "quick", "a", "a", gone())
		y.awaitEnd("quick", "a")
		y.settled()
		at, stream := protocol.Instance{Project: "p", Workflow: "quick", ID: "a"}, protocol.WorkflowsStream("p", 0)
		upTo, drops, carried := y.stored(), 0, uint64(0)
		y.clean(y.cleaner(func(c *janitor.Cleaner) {
			c.Decide = func(f janitor.Facts, h janitor.Horizon) janitor.Fate {
				fate := janitor.Decide(f, h)
				if fate == janitor.Drop {
					drops++
				}
				if fate == janitor.Drop && drops == 2 { // it was weighed before
					var err error
					if carried, err = y.store.Append(t.Context(), stream, at.CreateSubject(), f.Create, fmt.Appendf(nil,
						`{"v":1,"input":"a","workflow":"quick","id":"a","carried":%d}`, f.Incarnation)); err != nil {
						t.Error(err)
					}
					moved() // between what it has seen and the purge
				}
				return fate
			}
		}), upTo)
		y.settled()
		if carried == 0 {
			t.Fatal("nothing was dropped")
		}
		y.clean(y.cleaner(), carried)
		y.empty(stream)
		y.result(create(y, "quick", "a", "new"), "new!")
	})
}

// TestCarriedAfterItWent: a janitor that does not know yet that an instance has expired carries its create, and before it goes
// on another one purges all the rest. The first finds the create alone and removes it: the id is free at once, not when a
// later cleaning has come so far.
func TestCarriedAfterItWent(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, y *yard, moved func()) {
		stop := y.serve()
		create(y, "quick", "a", "a", gone())
		y.awaitEnd("quick", "a")
		y.settled()
		stop() // nobody answers the janitor
		at, stream := protocol.Instance{Project: "p", Workflow: "quick", ID: "a"}, protocol.WorkflowsStream("p", 0)
		upTo, purged := y.stored(), false
		c := y.cleaner(func(c *janitor.Cleaner) {
			c.Decide = func(f janitor.Facts, h janitor.Horizon) janitor.Fate {
				h.Expired = time.Time{}
				fate := janitor.Decide(f, h)
				if fate == janitor.Ask && !purged {
					purged = true
					moved()
					if err := y.store.PurgeAll(t.Context(), stream, upTo+1); err != nil {
						t.Error(err)
					}
				}
				return fate
			}
		})
		if _, err := c.Round(t.Context()); err != nil || !purged {
			t.Fatalf("purged between renewing and asking: %v; %v", purged, err)
		}
		if _, err := y.store.Last(t.Context(), stream, at.CreateSubject()); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("the create is there still: %v", err)
		}
		y.serve()
		y.result(create(y, "quick", "a", "new"), "new!")
	})
}

// TestWorthIsWeighed: what is kept is not copied again and again, and goes when half of it has expired.
func TestWorthIsWeighed(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	weighing := func(c *janitor.Cleaner) { c.Settings.Share, c.Settings.Chunk = 0.5, 40 }
	var kept []*workflow.Instance[string]
	for n := range 20 {
		kept = append(kept, create(y, "quick", fmt.Sprint("kept-", n), "k"))
	}
	for _, i := range kept {
		y.result(i, "k!")
	}
	y.settled()
	c, before := y.cleaner(weighing), y.stored()
	for range 3 {
		if _, err := c.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := y.stored(); after != before {
		t.Errorf("nothing was worth it, and %d messages were stored", after-before)
	}
	for n := range 60 {
		create(y, "quick", fmt.Sprint("gone-", n), "g", gone())
	}
	for n := range 60 {
		y.awaitEnd("quick", fmt.Sprint("gone-", n))
	}
	y.settled()
	if r := y.clean(c, before); r.Carried != len(kept) || r.Dropped < 40 {
		t.Errorf("%+v, want all that is kept carried, and most of what is gone dropped", r)
	}
	before = y.stored()
	for range 3 {
		if _, err := c.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := y.stored(); after > before {
		t.Errorf("%d messages were stored, for what was just carried", after-before)
	}
	y.result(kept[3], "k!")
}

// TestLateAnnouncement: an announcement that comes when the instance has long begun again must not pass for its end
// once what says so is cleaned away.
func TestLateAnnouncement(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	i := create(y, "waits", "a", "a")
	y.send(i, "first")
	y.send(i, "second")
	y.result(i, "a first second")
	at, stream := protocol.Instance{Project: "p", Workflow: "waits", ID: "a"}, protocol.WorkflowsStream("p", 0)
	end, err := y.store.Last(t.Context(), stream, at.DoneSubject())
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.reaches(i, workflow.Waiting)
	y.settled()
	upTo := y.stored()
	if _, err := y.store.Publish(t.Context(), at.DoneSubject(), nil, end.Data); err != nil {
		t.Fatal(err)
	}
	_, err = y.cleaner(func(c *janitor.Cleaner) { c.Settings.Chunk = int(upTo) }).Round(t.Context())
	if heldUp, ok := errors.AsType[*janitor.HeldUpError](err); !ok {
		t.Errorf("the restart was cleaned away before an announcement of the end before it: %v", heldUp)
	}
	if s := y.reaches(i, workflow.Waiting); s.Epoch != 1 {
		t.Errorf("%+v", s)
	}
	y.clean(y.cleaner(func(c *janitor.Cleaner) { c.Settings.Chunk = 1000 }), upTo+1)
	y.send(i, "first")
	y.send(i, "second")
	y.result(i, "a first second")
}

// TestGarbage: a create that nobody can read does not hold up the cleaning for ever.
func TestGarbage(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	at := protocol.Instance{Project: "p", Workflow: "quick", ID: uuid.NewString()}
	for _, body := range []string{"no JSON", `{"v":1,"created":5}`} {
		at.ID = uuid.NewString()
		if _, err := y.store.Append(t.Context(), at.Stream(), at.CreateSubject(), 0, []byte(body)); err != nil {
			t.Fatal(err)
		}
		y.awaitEnd("quick", at.ID)
	}
	y.settled()
	if r := y.clean(y.cleaner(), y.stored()); r.Dropped != 2 {
		t.Errorf("%+v, want both dropped", r)
	}
	y.empty(protocol.WorkflowsStream("p", 0))
}

// TestCarriedCreateKeepsAll: what a newer version wrote into a create stays in it.
func TestCarriedCreateKeepsAll(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	at, stream := protocol.Instance{Project: "p", Workflow: "waits", ID: "a"}, protocol.WorkflowsStream("p", 0)
	body := `{"v":1,"input":"in","workflow":"waits","id":"a","params":"x","created":"2026-11-22T14:20:00Z","source":{"kind":"program"},"later":{"a":[1,2]}}`
	first, err := y.store.Append(t.Context(), stream, at.CreateSubject(), 0, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	y.reaches(y.get("waits", "a"), workflow.Waiting)
	y.settled()
	for range 2 {
		y.clean(y.cleaner(), y.stored())
		y.settled()
	}
	m, err := y.store.Last(t.Context(), stream, at.CreateSubject())
	var fields map[string]json.RawMessage
	if err == nil {
		err = json.Unmarshal(m.Data, &fields)
	}
	if err != nil || string(fields["later"]) != `{"a":[1,2]}` || string(fields["carried"]) != fmt.Sprint(first) || m.Sequence <= first {
		t.Errorf("the create is %s at %d, %v", m.Data, m.Sequence, err)
	}
	if kept := slices.Contains(y.subjects(stream, ">"), at.LogSubject()); !kept {
		t.Error("its log is gone")
	}
}
