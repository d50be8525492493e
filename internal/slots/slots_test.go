package slots_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/slots"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// table is the slots of a workflow on a server of its own, and who was nudged.
type table struct {
	slots.Slots
	t  *testing.T
	js jetstream.JetStream
	// queues are what three runners know.
	queues [3]*slots.Queue

	mu     sync.Mutex
	nudged []string
	fail   bool
}

func setup(t *testing.T, limit int) *table {
	t.Helper()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	b := &table{t: t, js: js, queues: [3]*slots.Queue{{}, {}, {}}}
	b.Slots = slots.Slots{Store: store, Project: "p", Workflow: "w", Limit: limit, Nudge: b.nudge, Queue: b.queues[0]}
	return b
}

var errDown = errors.New("down")

func (b *table) nudge(_ context.Context, i protocol.Instance, park uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail {
		return errDown
	}
	b.nudged = append(b.nudged, fmt.Sprintf("%s@%d", i.ID, park))
	return nil
}

// noon is when those were created whose order does not depend on it.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func instance(id string) protocol.Instance {
	return protocol.Instance{Project: "p", Workflow: "w", ID: id}
}

func (b *table) take(id string, incarnation, log uint64, want bool) {
	b.t.Helper()
	got, err := b.Take(b.t.Context(), instance(id), incarnation, log)
	if err != nil || got != want {
		b.t.Fatalf("take for %s: %v, %v, want %v", id, got, err, want)
	}
}

func (b *table) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *table) wantNudged(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if fmt.Sprint(b.nudged) != fmt.Sprint(want) {
		b.t.Errorf("nudged %v, want %v", b.nudged, want)
	}
}

// TestReleaseHandsOn: a slot goes to the instance that was created first, whoever queued first.
func TestReleaseHandsOn(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.take("a", 1, 1, true)
	b.take("a", 1, 1, true) // who has one keeps it
	b.take("c", 3, 3, false)
	b.must(b.Wait(t.Context(), instance("c"), noon, 3, 13))
	b.must(b.Wait(t.Context(), instance("b"), noon, 2, 12))
	b.wantNudged()
	b.must(b.Release(t.Context(), instance("a"), 1, 10))
	b.wantNudged("b@12")
	b.take("c", 3, 13, false)
	b.take("b", 2, 12, true)
	b.must(b.Release(t.Context(), instance("b"), 2, 20))
	b.wantNudged("b@12", "c@13")
}

// TestOldestOfShards: incarnations of different shards tell nothing of each other, nor do clocks within a shard. One that an older
// version has queued, without a time, comes before those of other shards.
func TestOldestOfShards(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.take("0", 1, 1, true)
	in := func(id string, shard int) protocol.Instance {
		i := instance(id)
		i.Shard = shard
		return i
	}
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	wait := func(i protocol.Instance, created time.Time, incarnation uint64) {
		b.must(b.Wait(t.Context(), i, created, incarnation, incarnation+100))
	}
	wait(in("5", 1), at(5), 2)
	wait(in("3", 2), at(3), 9)
	wait(in("1", 3), time.Time{}, 50)
	wait(in("6", 2), at(1), 10) // by a clock that goes wrong
	wait(in("2", 0), at(2), 70)
	wait(in("4", 0), at(4), 80)
	holder, incarnation := in("0", 0), uint64(1)
	for _, next := range []struct {
		i           protocol.Instance
		incarnation uint64
	}{{in("1", 3), 50}, {in("2", 0), 70}, {in("3", 2), 9}, {in("6", 2), 10}, {in("4", 0), 80}, {in("5", 1), 2}} {
		b.must(b.Release(t.Context(), holder, incarnation, 1000))
		holder, incarnation = next.i, next.incarnation
	}
	b.wantNudged("1@150", "2@170", "3@109", "6@110", "4@180", "5@102")
}

// TestOldestOfMany: three runners hand a slot on in the order of creation, however far the order of the queue is from it,
// and also to what came when they had read the queue already, or left and came again.
func TestOldestOfMany(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.take("0", 1, 1, true)
	const many = 300
	queue := func(n int) { b.must(b.Wait(t.Context(), instance(fmt.Sprint(n)), noon, uint64(n+1), 1000)) }
	for n := many; n > 0; n-- {
		queue(n)
	}
	var want []string
	for n := range many {
		b.Queue = b.queues[n%len(b.queues)]
		switch n {
		case many / 3: // those that were queued first come last
			b.must(b.Drop(t.Context(), instance(fmt.Sprint(many)), many+1, 2000))
			queue(many)
		case many / 2: // a server has lost what it had
			b.must(b.js.DeleteStream(t.Context(), protocol.KVStream(protocol.SlotsBucket("p"))))
			b.must(streams.EnsureWorkflows(t.Context(), b.js, "p", 1, streams.Options{}))
			b.take(fmt.Sprint(n), uint64(n+1), 1, true)
			for n := many; n > many/2; n-- {
				queue(n)
			}
		}
		b.must(b.Release(t.Context(), instance(fmt.Sprint(n)), uint64(n+1), 3000))
		want = append(want, fmt.Sprintf("%d@1000", n+1))
	}
	b.wantNudged(want...)
}

// TestLateRelease: a release that comes late, from a run that another has followed, takes nothing away.
func TestLateRelease(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.take("a", 1, 1, true)
	b.must(b.Release(t.Context(), instance("a"), 1, 10))
	b.take("a", 1, 10, true)
	b.must(b.Release(t.Context(), instance("a"), 1, 10))
	b.take("b", 2, 2, false)
	b.must(b.Release(t.Context(), instance("a"), 1, 11))
	b.take("b", 2, 2, true)
}

// TestGrantIsRepeated: whoever was granted a slot and may not know it is nudged again.
func TestGrantIsRepeated(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.take("a", 1, 1, true)
	b.must(b.Wait(t.Context(), instance("b"), noon, 2, 12))
	b.fail = true
	if err := b.Release(t.Context(), instance("a"), 1, 10); !errors.Is(err, errDown) {
		t.Fatalf("release without a nudge: %v", err)
	}
	b.fail = false
	b.must(b.Release(t.Context(), instance("a"), 1, 10)) // its wake came again
	b.wantNudged("b@12")
	b.take("b", 2, 12, true)
	b.must(b.Grant(t.Context()))
	b.wantNudged("b@12")
}

// TestDrop: who ends while it waits, or with a slot it was just granted, leaves nothing behind.
func TestDrop(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.take("a", 1, 1, true)
	b.must(b.Wait(t.Context(), instance("b"), noon, 2, 12))
	b.must(b.Wait(t.Context(), instance("c"), noon, 3, 13))
	b.must(b.Drop(t.Context(), instance("b"), 2, 20))
	b.must(b.Release(t.Context(), instance("a"), 1, 10))
	b.wantNudged("c@13")
	b.must(b.Drop(t.Context(), instance("c"), 3, 20))
	b.take("d", 4, 4, true)
	b.must(b.Drop(t.Context(), instance("d"), 9, 20)) // another of the same id
	b.must(b.Drop(t.Context(), instance("d"), 4, 4))  // it went on since
	b.take("e", 5, 5, false)
}

// TestCheck: what a runner finds at its start is handed on.
func TestCheck(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	b.take("dead", 1, 1, true)
	b.take("alive", 2, 2, true)
	b.must(b.Wait(t.Context(), instance("b"), noon, 3, 13))
	b.must(b.Wait(t.Context(), instance("c"), noon, 4, 14))
	b.must(b.Check(t.Context(), func(_ context.Context, h protocol.SlotHolder) (bool, error) { return h.ID != "dead", nil }))
	b.wantNudged("b@13")
	b.Limit = 0
	b.must(b.Check(t.Context(), func(context.Context, protocol.SlotHolder) (bool, error) { return true, nil }))
	b.wantNudged("b@13", "c@14")
}

// TestManyAtOnce: however many ask side by side, the limit holds.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, 5)
	var mu sync.Mutex
	var wg sync.WaitGroup
	taken := 0
	for n := range 20 {
		wg.Go(func() {
			ok, err := b.Take(t.Context(), instance(fmt.Sprint(n)), uint64(n+1), 1)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if ok {
				taken++
			}
		})
	}
	wg.Wait()
	if taken != 5 {
		t.Errorf("%d have a slot, want 5", taken)
	}
}
