package sim

import (
	"flag"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 0, "how many games to play; 0: 10,000, or 1,000 where data races are looked for")
	seed  = flag.Int("seed", -1, "play this game only, and tell all of it")
)

// TestSimulation plays games, each decided by its seed.
func TestSimulation(t *testing.T) {
	t.Parallel()
	if *seed >= 0 {
		wrong, trace := tell(uint64(*seed))
		t.Log("\n" + strings.Join(trace, "\n"))
		if wrong != "" {
			t.Errorf("seed %d: %s", *seed, wrong)
		}
		return
	}
	n := *seeds
	switch {
	case n == 0 && raced:
		n = 1000
	case n == 0:
		n = 10_000
	}
	saw := playAll(t, n)
	for _, what := range slices.Sorted(maps.Keys(saw)) {
		t.Logf("%8d %s", saw[what], what)
	}
	if n >= 1000 {
		missed(t, saw, occurrences)
	}
	if n >= 10_000 {
		missed(t, saw, rarities)
	}
}

func missed(t *testing.T, saw map[string]int, wanted []string) {
	for _, what := range wanted {
		if saw[what] == 0 && !t.Failed() {
			t.Errorf("no game had this: %s", what)
		}
	}
}

// occurrences are what games must be rich in to prove anything.
var occurrences = []string{
	"a group failed, seen again", "a race decided, seen again", "answered late", "attempt-failed", "carried events twice", "claimed by a timer", "cleaned", "completed", "create carried", "created again",
	"decided: ack", "decided: arm", "decided: claim", "decided: keep", "decided: look-older", "decided: obey", "decided: poke",
	"decided: project", "decided: start", "deleted", "group failed", "lost run", "out of touch", "parked with several waits", "paused", "race decided",
	"read on", "received", "recorded", "refused", "refused by the same wake", "refused late", "released", "restarted",
	"restarted after the end", "restarted from a step", "resumed", "revived", "several controls at once", "slept",
	"snapshot fetched", "snapshot of what is finished", "snapshot of what is parked", "snapshot of what is paused", "snapshot of what is running",
	"step-failed", "stored late", "terminated", "timed-out", "timer left armed",
	"timer of an older park", "took an older event", "went on in memory", "went on in memory by a timer", "went on over a snapshot", "withheld", "yielded",
}

// rarities are what a few of many games have.
var rarities = []string{"handed over before the ack", "object collected"}

// tell plays a game once more and tells all of it.
func tell(seed uint64) (wrong string, trace []string) {
	c := newCrew()
	defer c.dismiss()
	w := newWorld(seed, sound(), c)
	w.traced = true
	wrong = w.play()
	return wrong, w.trace
}

// playAll plays games, two at a time, and returns what happened in them how often.
func playAll(t *testing.T, games int) map[string]int {
	var next, steps, bad atomic.Int64
	var workers sync.WaitGroup
	var mu sync.Mutex
	saw := map[string]int{}
	start := time.Now()
	for range 2 {
		workers.Go(func() {
			c := newCrew()
			defer c.dismiss()
			for n := next.Add(1) - 1; n < int64(games) && bad.Load() < 10; n = next.Add(1) - 1 {
				w := newWorld(uint64(n), sound(), c)
				if wrong := w.play(); wrong != "" {
					t.Errorf("%s\ngo test ./internal/sim -run TestSimulation -seed=%d", wrong, n)
					bad.Add(1)
				}
				steps.Add(int64(w.steps))
			}
			mu.Lock()
			defer mu.Unlock()
			for what, n := range c.saw {
				saw[what] += n
			}
		})
	}
	workers.Wait()
	t.Logf("%d seeds, %d steps, %v", min(next.Load(), int64(games)), steps.Load(), time.Since(start).Round(time.Millisecond))
	return saw
}

// TestSameSeedSameGame: a game can be played again, to the last word.
func TestSameSeedSameGame(t *testing.T) {
	t.Parallel()
	for n := range uint64(40) {
		_, first := tell(n)
		_, second := tell(n)
		if !slices.Equal(first, second) {
			t.Errorf("seed %d plays two games", n)
		}
		if len(first) < 10 {
			t.Errorf("seed %d: next to nothing happens", n)
		}
	}
}
