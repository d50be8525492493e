package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// clustered is a rig on three servers.
func clustered(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, nc: natstest.StartCluster(t, 3).Connect(t), gates: &gates{of: map[string]*gate{}}}
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureWorkflows(t.Context(), r.js, "p", 1, streams.Options{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	return r
}

// bulky is the size of a result that just fits into a message.
const bulky = 120 << 10

// bulk is code whose log is several MiB large when it waits for an event, and then works.
func (r *rig) bulk(ctx context.Context, c protocol.Create) (json.RawMessage, error) {
	for n := range 30 {
		size := bulky + n
		if n == 0 {
			size = 2 * protocol.InlinePayload // an object of its own
		}
		err := do(ctx, fmt.Sprint("step ", n), func(context.Context) (json.RawMessage, error) {
			return json.RawMessage(`"` + strings.Repeat("x", size) + `"`), nil
		})
		if err != nil {
			return nil, err
		}
	}
	s, err := execution.From(ctx)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.WaitForEvent(ctx, "answer", "go", time.Hour); err != nil {
		return nil, err
	}
	return json.RawMessage(`"done"`), do(ctx, "work", r.gate(c.ID).body)
}

// bulkRunner makes a runner that has fetched no object yet.
func (r *rig) bulkRunner() *Runner {
	return r.runner(func(c *Config) { c.Code["bulk"], c.Objects = r.bulk, objects.New(r.store) })
}

// compacted asks for a snapshot and waits for it. Whoever executes the instance may go on after it at once.
func (r *rig) compacted(i protocol.Instance) logged {
	r.t.Helper()
	before := r.count(i, protocol.EntrySnapshot)
	r.control(i, compact)
	natstest.Eventually(r.t, patience, "there is a snapshot", func() bool { return r.count(i, protocol.EntrySnapshot) > before })
	r.quiesce(protocol.ConsumerControls(0), 0)
	all := r.log(i)
	for all[len(all)-1].Entries[0].Kind != protocol.EntrySnapshot {
		all = all[:len(all)-1]
	}
	return all[len(all)-1]
}

// clean removes what a snapshot stands for.
func (r *rig) clean(i protocol.Instance, snapshot uint64) {
	r.t.Helper()
	if err := r.store.Purge(r.t.Context(), i.Stream(), i.LogSubject(), snapshot); err != nil {
		r.t.Fatal(err)
	}
}

// TestSnapshotBesideTheLog: the history of a snapshot that no message can hold is an object. Who reads the log has all
// of it, who executes goes on over it, and who glances does not need it.
func TestSnapshotBesideTheLog(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*testing.T) *rig{"one server": setup, "three servers": clustered} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			stop := r.serve(r.bulkRunner())
			i := r.begun(at("bulk", "a"), waiting)
			before := r.status(i)
			parked := r.compacted(i)
			s := parked.Entries[0].Snapshot
			if s.Object == nil || s.Object.Size < 3<<20 || len(s.History) > 1<<10 {
				t.Fatalf("the snapshot has %d bytes beside the object %+v", len(s.History), s.Object)
			}
			r.clean(i, parked.sequence)
			after := r.status(i)
			after.Log = before.Log
			if d := fmt.Sprint(reflect.DeepEqual(before.Steps, after.Steps)); d != "true" || before.State != after.State {
				t.Errorf("without the log before the snapshot, its steps or state are others")
			}
			stop()
			r.serve(r.bulkRunner())
			r.send(i, "go")
			r.gate("a").await(t)
			running := r.compacted(i)
			if running.Entries[0].Snapshot.Object == nil {
				t.Fatal("the history of the second snapshot is in the message")
			}
			r.clean(i, running.sequence)
			close(r.gate("a").open)
			for _, run := range r.reaches(i, complete).Runs {
				if run.Lost {
					t.Errorf("a run was lost: %+v", run)
				}
			}
			if len(r.gate("a").arrived) > 0 {
				t.Error("the body ran twice")
			}
			r.glances(i)
		})
	}
}

// glances looks at what is known of a completed instance that consists of a snapshot, with and without its object.
func (r *rig) glances(i protocol.Instance) {
	r.t.Helper()
	s := r.compacted(i)
	r.clean(i, s.sequence)
	want := r.status(i)
	m, err := r.store.Last(r.t.Context(), i.Stream(), i.CreateSubject())
	if err != nil {
		r.t.Fatal(err)
	}
	var c protocol.Create
	if err := json.Unmarshal(m.Data, &c); err != nil {
		r.t.Fatal(err)
	}
	if err := objects.New(r.store).DeleteInstance(r.t.Context(), protocol.OwnerOf(i, c.Input)); err != nil {
		r.t.Fatal(err)
	}
	got, err := Reader{Store: r.store, Project: "p", Shards: 1}.Glance(r.t.Context(), i.Workflow, i.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	want.Steps, want.Runs, want.Mark = nil, nil, got.Mark // that there is nothing to obey, the log does not say
	if !reflect.DeepEqual(got, want) {
		r.t.Errorf("at a glance it is\n%+v\nwant\n%+v", got, want)
	}
	if _, err := (Reader{Store: r.store, Project: "p", Shards: 1}).Status(r.t.Context(), i.Workflow, i.ID); err == nil {
		r.t.Error("what is missing is not missed")
	}
}

// TestSnapshotThatIsNotAppended leaves an object that tells what it was for, and changes nothing.
func TestSnapshotThatIsNotAppended(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.bulkRunner()
	runner.stopping = t.Context()
	i := r.create(at("bulk", "a"))
	r.deliver(runner, r.take(protocol.ConsumerWakes(0), 1)[0])
	before := r.status(i)
	s, err := runner.look(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	history, err := runner.load(t.Context(), i, s)
	if err != nil {
		t.Fatal(err)
	}
	h := &held{Wake: engine.Wake{Wake: protocol.Wake{Stream: i.Stream(), Sequence: s.tailAt + 1}}, instance: i}
	e, err := runner.snapshot(t.Context(), h, history)
	if err != nil || e.Snapshot.Object == nil {
		t.Fatalf("the snapshot is %+v, %v", e.Snapshot, err)
	}
	if !reflect.DeepEqual(before, r.status(i)) {
		t.Error("the instance is another")
	}
	bucket, err := r.js.ObjectStore(t.Context(), protocol.ObjectsBucket("p"))
	if err != nil {
		t.Fatal(err)
	}
	marks := func() (marks, all int) {
		list, err := bucket.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			if o.Metadata["snapshot"] == "true" {
				marks++
			}
		}
		return marks, len(list)
	}
	if n, all := marks(); n != 1 || all != 2 {
		t.Errorf("%d of %d objects are snapshots, want 1 of 2", n, all)
	}
	r.control(i, compact)
	r.deliver(runner, r.take(protocol.ConsumerControls(0), 1)[0])
	if again := r.tail(i).Entries[0].Snapshot; again == nil || again.Object == nil || *again.Object != *e.Snapshot.Object {
		t.Errorf("the next one is %+v, want the same object %+v", again, e.Snapshot.Object)
	}
	if n, all := marks(); n != 1 || all != 2 {
		t.Errorf("%d of %d objects are snapshots, want 1 of 2", n, all)
	}
}

// TestInputsWhileGoingOn: an execution goes on over a snapshot while inputs are read for it. The two do not meet.
func TestInputsWhileGoingOn(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner()
	runner.Folds.worth = 1
	r.serve(runner)
	i := r.create(at("works", "a"))
	r.gate("a").await(t)
	r.until(i, "has begun", func(s protocol.Status) bool { return len(s.Runs) > 0 })
	s := r.compacted(i)
	runner.mu.Lock()
	x := runner.active[i]
	runner.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() {
		if ok, err := x.History.GoOn(s.Entries[0].Snapshot.Over, s.sequence, &s.Append); !ok || err != nil {
			t.Errorf("it goes on: %v, %v", ok, err)
		}
	})
	both.Go(func() {
		if _, err := x.Inputs(t.Context(), 1); err != nil {
			t.Error(err)
		}
	})
	both.Wait()
	close(r.gate("a").open)
	r.reaches(i, complete)
}
