package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/test/lab/work"
)

// kind is what some of the instances are.
type kind struct {
	name  string
	share int // of a hundred or so
	// few is set for those of which only some may run at a time.
	few bool
	// ops are what such an instance does.
	ops func(rng *rand.Rand) []work.Op
	// during is what clients do to it meanwhile; nil: nothing.
	during func(ctx context.Context, i *instance) error
}

const (
	ms = time.Millisecond
	// kindAsks are those that ask agents.
	kindAsks = "asks-agents"
	// end is the type of the event that lets instances end which clients steer.
	end = "end"
	// news is the type of all other events.
	news = "news"
)

// between draws a duration.
func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)+1))
}

func do(name string) work.Op                     { return work.Op{Do: name} }
func slow(name string, d time.Duration) work.Op  { return work.Op{Do: name, Took: d} }
func sleep(name string, d time.Duration) work.Op { return work.Op{Sleep: name, For: d} }
func wait(name, event string, d time.Duration) work.Op {
	return work.Op{Wait: name, Type: event, For: d}
}
func undone(name string, d time.Duration) work.Op {
	return work.Op{Do: name, Took: d, Undo: true}
}

// kinds has one of everything that touches order or fencing.
var kinds = []kind{
	{name: "works", share: 24, ops: func(*rand.Rand) []work.Op {
		return []work.Op{do("a"), do("b"), do("c"), do("d"), do("e")}
	}, during: createdAgain},
	{name: "naps", share: 12, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{do("a"), sleep("short", between(rng, 100*ms, 1900*ms)), do("b"), sleep("long", between(rng, 2100*ms, 8000*ms)), do("c")}
	}},
	{name: "retries", share: 8, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{do("a"), {Do: "b", Fails: 1 + rng.IntN(4)}, slow("c", between(rng, 0, 500*ms)), {Do: "d", Fails: rng.IntN(3)}}
	}},
	{name: "is-slow", share: 6, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{slow("a", between(rng, 1000*ms, 6000*ms)), slow("b", between(rng, 500*ms, 3000*ms))}
	}},
	{name: "waits", share: 14, ops: func(rng *rand.Rand) []work.Op {
		most := between(rng, 500*ms, 5000*ms)
		return []work.Op{do("a"), wait("first", news, most), do("b"), wait("second", news, most), slow("c", 200*ms), wait("third", news, most)}
	}, during: aroundTheEnd},
	{name: "branches", share: 6, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{do("a"), {Branches: [][]work.Op{
			{do("b"), sleep("nap", between(rng, 100*ms, 4000*ms)), do("c")},
			{slow("d", between(rng, 0, 2000*ms)), {Do: "e", Fails: rng.IntN(3)}},
			{wait("event", news, between(rng, 1000*ms, 5000*ms)), do("f")},
		}}, do("g")}
	}, during: sometimeSent},
	{name: "races", share: 6, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{do("a"), {Race: "first", Branches: [][]work.Op{
			{wait("event", news, time.Minute), do("b")},
			{sleep("tick", between(rng, 300*ms, 4000*ms)), do("c")},
		}}, wait("after", news, 3*time.Second), do("d")}
	}, during: aroundTheEnd},
	{name: "calls", share: 8, ops: func(rng *rand.Rand) []work.Op {
		child := &work.Script{Kind: "child", Ops: []work.Op{do("x"), sleep("nap", between(rng, 100*ms, 3000*ms)), slow("y", 100*ms)}}
		call := work.Op{Call: "call", Script: child}
		if rng.IntN(4) == 0 {
			call.For = between(rng, 500*ms, 3000*ms)
		}
		return []work.Op{do("a"), call, do("b")}
	}},
	{name: kindAsks, share: 6, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{
			do("a"), {Tell: ledger(rng.IntN(ledgers)), Number: 1}, {Ask: ledger(rng.IntN(ledgers)), Number: 2},
			sleep("nap", between(rng, 100*ms, 3000*ms)), {Tell: ledger(rng.IntN(ledgers)), Number: 3}, do("b"),
		}
	}},
	{name: "is-large", share: 3, ops: func(*rand.Rand) []work.Op {
		return []work.Op{{Do: "a", Big: true}, wait("answer", news, 20*time.Second), {Do: "b", Big: true}}
	}, during: largeSent},
	{name: "is-undone", share: 3, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{undone("a", 0), undone("b", between(rng, 0, 1000*ms)), undone("c", 0), {Fail: "as it should"}}
	}},
	{name: "is-steered", share: 10, ops: steerable, during: steered},
	{name: "is-replaced", share: 2, ops: steerable, during: replaced},
	{name: "is-one-of-few", share: 4, few: true, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{slow("a", between(rng, 50*ms, 600*ms)), sleep("nap", between(rng, 100*ms, 3000*ms)), slow("b", between(rng, 50*ms, 600*ms))}
	}},
	{name: "is-one-of-few-steered", share: 2, few: true, ops: func(rng *rand.Rand) []work.Op {
		return []work.Op{undone("a", between(rng, 50*ms, 500*ms)), wait("end", end, 0), undone("b", 100*ms)}
	}, during: steered},
}

// steerable does not end before it is told to.
func steerable(rng *rand.Rand) []work.Op {
	return []work.Op{undone("a", 0), undone("b", between(rng, 0, 1000*ms)), sleep("nap", between(rng, 100*ms, 3000*ms)), undone("c", 200*ms), wait("end", end, 0)}
}

// createdAgain: of some instances somebody else creates another one of the same id.
func createdAgain(ctx context.Context, i *instance) error {
	if i.rng.IntN(4) > 0 {
		return nil
	}
	_, err := i.create(ctx, []work.Op{do("of another")})
	return err
}

// aroundTheEnd sends events at the times of the waits' ends, twice, before and after.
func aroundTheEnd(ctx context.Context, i *instance) error {
	most := time.Second
	for _, o := range i.script.Ops {
		if o.Wait != "" {
			most = o.For
			break
		}
	}
	for n := range 2 + i.rng.IntN(3) {
		if err := pause(ctx, most/2+between(i.rng, 0, most)); err != nil {
			return err
		}
		id := fmt.Sprint("event ", n)
		for range 1 + i.rng.IntN(2) {
			if err := i.send(ctx, i.handle, news, id, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func sometimeSent(ctx context.Context, i *instance) error {
	if err := pause(ctx, between(i.rng, 0, 6000*ms)); err != nil {
		return err
	}
	return i.send(ctx, i.handle, news, "only", "yes")
}

func largeSent(ctx context.Context, i *instance) error {
	if err := pause(ctx, between(i.rng, 0, 2000*ms)); err != nil {
		return err
	}
	return i.send(ctx, i.handle, news, "only", work.Large("yes"))
}

// steered pauses, resumes, restarts and terminates, in any order, and lets the instance end.
func steered(ctx context.Context, i *instance) error {
	for range 1 + i.rng.IntN(4) {
		if err := pause(ctx, between(i.rng, 0, 3000*ms)); err != nil {
			return err
		}
		if err := i.steerAny(ctx); err != nil {
			return err
		}
	}
	if err := i.steer(ctx, "resume", func(ctx context.Context) error { return i.handle.Resume(ctx) }); err != nil {
		return err
	}
	return i.send(ctx, i.handle, end, "end", "now")
}

func (i *instance) steerAny(ctx context.Context) error {
	h := i.handle
	switch n := i.rng.IntN(20); {
	case n < 6:
		return i.steer(ctx, "pause", h.Pause)
	case n < 11:
		return i.steer(ctx, "resume", func(ctx context.Context) error { return h.Resume(ctx) })
	case n < 14:
		return i.steer(ctx, "restart", func(ctx context.Context) error { return h.Restart(ctx) })
	case n < 17:
		return i.steer(ctx, "restart", func(ctx context.Context) error {
			return h.Restart(ctx, workflow.FromStep(workflow.StepDo, "b", 1))
		})
	case n < 18:
		return i.steer(ctx, "terminate", func(ctx context.Context) error { return h.Terminate(ctx) })
	}
	return i.steer(ctx, "terminate", func(ctx context.Context) error {
		return h.Terminate(ctx, workflow.RollbackFirst())
	})
}

// replaced deletes the instance and creates another one of its id.
func replaced(ctx context.Context, i *instance) error {
	if err := pause(ctx, between(i.rng, 0, 2000*ms)); err != nil {
		return err
	}
	if err := i.steer(ctx, "delete", i.handle.Delete); err != nil {
		return err
	}
	if _, err := i.create(ctx, steerable(i.rng)); err != nil {
		return err
	}
	return i.send(ctx, i.handle, end, "end", "now")
}
