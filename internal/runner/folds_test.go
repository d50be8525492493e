package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// loop is code that waits for an event, has a step, and begins again.
func loop(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
	s, err := execution.From(ctx)
	if err != nil {
		return nil, err
	}
	for n := range 1000 {
		if _, _, err := s.WaitForEvent(ctx, "wait", "go", time.Hour); err != nil {
			return nil, err
		}
		err := do(ctx, "step", func(context.Context) (json.RawMessage, error) { return json.Marshal(n) })
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// loops lets an instance go around until its log has a number of messages.
func (r *rig) loops(i protocol.Instance, messages int) {
	r.t.Helper()
	for n := r.count(i, protocol.EntryParked); len(r.log(i)) < messages; n++ {
		r.send(i, "go")
		natstest.Eventually(r.t, patience, fmt.Sprint("it is parked again, the time ", n+1), func() bool {
			return r.count(i, protocol.EntryParked) > n
		})
	}
}

// reads tells, until the test ends, from where a subject is read, but by the test.
func (r *rig) reads(subject string) (from func() []uint64) {
	r.t.Helper()
	sub, err := r.nc.SubscribeSync("$JS.API.DIRECT.GET." + protocol.WorkflowsStream("p", 0))
	if err != nil {
		r.t.Fatal(err)
	}
	return func() (all []uint64) {
		r.t.Helper()
		if err := r.nc.Flush(); err != nil {
			r.t.Fatal(err)
		}
		for {
			m, err := sub.NextMsg(0)
			if err != nil {
				return all
			}
			var request struct {
				Subject string `json:"next_by_subj"`
				From    uint64 `json:"seq"`
				Batch   int    `json:"batch"`
			}
			if json.Unmarshal(m.Data, &request) == nil && request.Subject == subject && request.Batch != logPage {
				all = append(all, request.From)
			}
		}
	}
}

// TestLongLogIsReadOnce: a runner that has read a long log reads what was appended since, however often the instance
// wakes.
func TestLongLogIsReadOnce(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*testing.T) *rig{"one server": setup, "three servers": clustered} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			runner := r.runner(func(c *Config) { c.Code["loop"], c.Replays = loop, true })
			r.serve(runner)
			i := r.begun(at("loop", "a"), waiting)
			r.loops(i, worthKeeping+10)
			long := r.tail(i).sequence
			reads := map[string]func() []uint64{"log": r.reads(i.LogSubject()), "events": r.reads(i.EventSubject())}
			for range 5 {
				tail := r.tail(i).sequence
				r.loops(i, len(r.log(i))+1)
				for what, from := range reads {
					all := from()
					for _, from := range all {
						if from+10 < tail {
							t.Errorf("the %s is read from %d on, it was read up to %d before", what, from, tail)
						}
					}
					if len(all) == 0 || len(all) > 40 { // more than needed on a machine that stalls
						t.Errorf("the %s is read %d times", what, len(all))
					}
				}
			}
			if s := r.status(i); len(s.Steps) < 2*len(s.Runs)-3 || r.tail(i).sequence <= long {
				t.Errorf("%d runs have recorded %d steps", len(s.Runs), len(s.Steps))
			}
			r.control(i, remove)
			natstest.Eventually(t, patience, "all of it is gone", func() bool {
				_, err := r.store.Last(t.Context(), i.Stream(), i.CreateSubject())
				return errors.Is(err, journal.ErrNotFound) && len(r.log(i)) == 1
			})
			r.begun(i, waiting) // nothing that was kept is about this one
			r.loops(i, 10)
			if s := r.status(i); len(s.Steps) > 15 {
				t.Errorf("the next instance of this id has %d steps", len(s.Steps))
			}
		})
	}
}

// TestFoldsAgree: who keeps what it has read sees what anybody sees, whatever becomes of the instance.
func TestFoldsAgree(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner(func(c *Config) { c.Code["loop"] = loop })
	r.serve(runner)
	i := r.begun(at("loop", "a"), waiting)
	r.loops(i, 20)
	random := rand.New(rand.NewPCG(1, 2))
	keeps := Reader{Store: r.store, Project: "p", Shards: 1, Folds: NewFolds()}
	keeps.Folds.worth = 1
	var older *engine.History
	for round := range 25 {
		what := "goes on"
		switch n := len(r.log(i)); random.IntN(7) {
		case 0:
			what = "pauses and resumes"
			r.control(i, pause)
			r.reaches(i, paused)
			r.control(i, resume)
			r.reaches(i, waiting)
		case 1:
			what = "restarts from a step"
			steps := r.status(i).Steps
			from := steps[len(steps)-1-random.IntN(4)].Key
			r.control(i, protocol.Control{Action: protocol.ActionRestart, From: &from})
			r.until(i, "has restarted", func(s protocol.Status) bool { return s.State == waiting && len(r.log(i)) > n+1 })
		case 2:
			what = "is compacted"
			r.compacted(i)
		case 3:
			what = "is compacted and cleaned"
			r.clean(i, r.compacted(i).sequence)
		case 4:
			what = "restarts from its beginning or a step, after it has taken events that came later"
			steps := r.status(i).Steps
			from := []*protocol.Key{nil, &steps[0].Key, &steps[len(steps)-1].Key}[random.IntN(3)]
			r.restartsLate(i, from, func() { older = r.agree(keeps, i, older) })
			r.sameEvents(keeps, i, r.restarted(i))
		default:
			r.loops(i, n+1)
		}
		if round%3 == 0 {
			r.send(i, "other")
		}
		r.quiesce(protocol.ConsumerControls(0), 0)
		r.quiesce(protocol.ConsumerWakes(0), 0)
		want := r.status(i)
		got, err := keeps.Status(t.Context(), i.Workflow, i.ID)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d, it %s: who keeps logs sees\n%+v, %v\nwant\n%+v", round, what, got, err, want)
		}
		if keeps.Folds.size == 0 {
			t.Error("nothing is kept")
		}
		older = r.agree(keeps, i, older)
	}
}

// restartsLate sends a control that restarts an instance, and lets the instance take two events before it is obeyed.
func (r *rig) restartsLate(i protocol.Instance, from *protocol.Key, each func()) {
	r.t.Helper()
	goOn := r.pause(protocol.ConsumerControls(0))
	before := r.status(i).Epoch
	r.control(i, protocol.Control{Action: protocol.ActionRestart, From: from})
	for range 2 {
		r.loops(i, len(r.log(i))+1)
		each()
	}
	goOn()
	r.until(i, "has restarted", func(s protocol.Status) bool { return s.State == waiting && s.Epoch > before })
}

// TestRestartGivesBackEvents: the old run has taken what was sent after the control. The new run gets all of it, also by a
// runner that has kept what the old one was sent.
func TestRestartGivesBackEvents(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner(func(c *Config) { c.Code["loop"] = loop })
	runner.stopping, runner.Folds.worth = t.Context(), 1
	i := r.create(at("loop", "a"))
	r.deliver(runner, r.take(protocol.ConsumerWakes(0), 1)[0])
	r.control(i, restart)
	late := r.take(protocol.ConsumerControls(0), 1)[0]
	for range 2 {
		r.send(i, "go")
		r.deliver(runner, r.take(protocol.ConsumerWakes(0), 1)[0])
	}
	r.deliver(runner, late)
	var before, after []uint64
	for _, e := range r.entries(i) {
		switch e.Kind {
		case protocol.EntryReceived:
			after = append(after, e.Input)
		case protocol.EntryRestarted:
			before, after = after, nil
		}
	}
	if len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("the old run has taken the events %v, the new one %v, want both of them by each", before, after)
	}
}

// agree compares the events that a reader which keeps them finds for the history of now, and for an older one, with those
// that the stream holds. It returns the history of now.
func (r *rig) agree(keeps Reader, i protocol.Instance, older *engine.History) *engine.History {
	r.t.Helper()
	plain := Reader{Store: r.store, Project: "p", Shards: 1}
	s, err := plain.look(r.t.Context(), i)
	if err != nil {
		r.t.Fatal(err)
	}
	now, err := keeps.load(r.t.Context(), i, s)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range []*engine.History{now, older, now} {
		if h != nil {
			r.sameEvents(keeps, i, h)
		}
	}
	return now
}

func (r *rig) sameEvents(keeps Reader, i protocol.Instance, h *engine.History) {
	r.t.Helper()
	open := func(reader Reader) []engine.Input {
		all, err := reader.inputs(r.t.Context(), addressed(i, h), 0)
		if err != nil {
			r.t.Fatal(err)
		}
		return slices.DeleteFunc(slices.Clone(all), func(in engine.Input) bool { return h.Consumed[in.Sequence] })
	}
	if got, want := open(keeps), open(Reader{Store: r.store, Project: "p", Shards: 1}); !reflect.DeepEqual(got, want) {
		r.t.Fatalf("at %d: the events are\n%+v\nwant\n%+v", h.Tail, got, want)
	}
}

// restarted is the history of an instance as it was when it had just been restarted.
func (r *rig) restarted(i protocol.Instance) *engine.History {
	r.t.Helper()
	log := r.log(i)
	h := engine.NewHistory(protocol.WorkflowsStream("p", 0), log[0].Incarnation, protocol.Create{})
	for n := range log {
		if err := h.Apply(log[n].sequence, &log[n].Append); err != nil {
			r.t.Fatal(err)
		}
		if log[n].Epoch == log[len(log)-1].Epoch {
			break
		}
	}
	return h
}

// TestFolds: what is kept is bounded, and given away only for what it is true of.
func TestFolds(t *testing.T) {
	t.Parallel()
	log := func(id string, bytes int) *kept {
		h := engine.NewHistory("S", 7, protocol.Create{})
		h.Tail = 100
		return &kept{instance: at("w", id), history: h, id: "r.1", messages: worthKeeping, bytes: bytes}
	}
	f := NewFolds()
	f.limit = 100
	for _, k := range []*kept{log("a", 40), log("b", 40), log("a", 50), log("c", 30), log("large", 101)} {
		if h := f.keep(k); (h == k.history) != (k.bytes > f.limit) {
			t.Errorf("%v: the history that is kept is given away", k.instance)
		}
	}
	short := log("short", 1)
	short.messages--
	ended := log("ended", 1)
	ended.history.Phase = engine.Finished
	for _, k := range []*kept{short, ended} {
		if h := f.keep(k); h != k.history {
			t.Errorf("%v is kept", k.instance)
		}
	}
	if f.size != 80 || len(f.entries) != 2 || f.order.Len() != 2 {
		t.Errorf("%d bytes in %d entries are kept, want 80 in 2", f.size, len(f.entries))
	}
	for _, row := range []struct {
		name, id string
		sight    sight
		want     bool
	}{
		{"dropped for others", "b", sight{created: 7, tailAt: 100}, false},
		{"as it was read", "a", sight{created: 7, tailAt: 100}, true},
		{"given away", "a", sight{created: 7, tailAt: 100}, false},
		{"longer by now", "a", sight{created: 7, tailAt: 120}, true},
		{"seen from behind", "a", sight{created: 7, tailAt: 90}, false},
		{"another instance of the id", "a", sight{created: 70, tailAt: 120}, false},
	} {
		if k := f.take(at("w", row.id), row.sight); (k != nil) != row.want {
			t.Errorf("%s: there is one: %v, want %v", row.name, k != nil, row.want)
		}
		if row.name != "as it was read" {
			f.keep(log("a", 50))
		}
	}
}

// TestAnotherLog: what was kept of a log that is another now counts for nothing.
func TestAnotherLog(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner(func(c *Config) { c.Code["loop"] = loop }))
	i := r.begun(at("loop", "a"), waiting)
	r.loops(i, worthKeeping+10)
	want := r.status(i)
	for name, lost := range map[string]func(k *kept){
		"the last message was another": func(k *kept) { k.id = "another" },
		"it is shorter":                func(k *kept) { k.history.Tail++ },
		"the last message is gone":     func(k *kept) { k.history.Tail-- },
	} {
		keeps := Reader{Store: r.store, Project: "p", Shards: 1, Folds: NewFolds()}
		if _, err := keeps.Status(t.Context(), i.Workflow, i.ID); err != nil {
			t.Fatal(err)
		}
		k := keeps.Folds.entries[i].Value.(*kept)
		k.history.Order = nil // it would be seen
		k.history.Steps = map[protocol.Key]*engine.Step{}
		lost(k)
		got, err := keeps.Status(t.Context(), i.Workflow, i.ID)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the instance is\n%+v, %v\nwant\n%+v", name, got, err, want)
		}
	}
}

// TestPagesGrow: a log of 10,000 messages is read in some sixteen pages, unless they are slow.
func TestPagesGrow(t *testing.T) {
	t.Parallel()
	pages, size := 1, minPage
	for read := size; read < 10_000; pages++ {
		size = pageAfter(size, time.Millisecond)
		read += size
	}
	if pages > 16 {
		t.Errorf("10,000 messages are %d pages", pages)
	}
	for range 10 {
		size = pageAfter(size, time.Second)
	}
	if size != minPage {
		t.Errorf("a slow page is followed by %d messages", size)
	}
}
