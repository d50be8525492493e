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
	seeds = flag.Int("seeds", 10_000, "how many games to play")
	seed  = flag.Int("seed", -1, "play this game only, and tell all of it")
)

// TestSimulation plays games, each decided by its seed.
func TestSimulation(t *testing.T) {
	t.Parallel()
	if *seed >= 0 {
		w := newWorld(uint64(*seed), sound(), newCrew())
		w.traced = true
		wrong := w.play()
		t.Log("\n" + strings.Join(w.trace, "\n"))
		if wrong != "" {
			t.Errorf("seed %d: %s", *seed, wrong)
		}
		return
	}
	var next, steps, bad atomic.Int64
	var workers sync.WaitGroup
	var mu sync.Mutex
	saw := map[string]int{}
	start := time.Now()
	for range 2 {
		workers.Go(func() {
			c := newCrew()
			defer c.dismiss()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				for what, n := range c.saw {
					saw[what] += n
				}
			}()
			for n := next.Add(1) - 1; n < int64(*seeds) && bad.Load() < 10; n = next.Add(1) - 1 {
				w := newWorld(uint64(n), sound(), c)
				if wrong := w.play(); wrong != "" {
					t.Errorf("go test ./internal/sim -run TestSimulation -seed=%d: %s", n, wrong)
					bad.Add(1)
				}
				steps.Add(int64(w.steps))
			}
		})
	}
	workers.Wait()
	t.Logf("%d seeds, %d steps, %v", min(next.Load(), int64(*seeds)), steps.Load(), time.Since(start).Round(time.Millisecond))
	for _, what := range slices.Sorted(maps.Keys(saw)) {
		t.Logf("%8d %s", saw[what], what)
	}
}
