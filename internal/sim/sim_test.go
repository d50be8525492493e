package sim

import (
	"flag"
	"strings"
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
		w := newWorld(uint64(*seed), sound(), true)
		wrong := w.play()
		t.Log("\n" + strings.Join(w.trace, "\n"))
		if wrong != "" {
			t.Errorf("seed %d: %s", *seed, wrong)
		}
		return
	}
	start, steps, bad := time.Now(), 0, 0
	for n := range *seeds {
		w := newWorld(uint64(n), sound(), false)
		if wrong := w.play(); wrong != "" {
			t.Errorf("go test ./internal/sim -run TestSimulation -seed=%d: %s", n, wrong)
			if bad++; bad == 10 {
				t.FailNow()
			}
		}
		steps += w.steps
	}
	t.Logf("%d seeds, %d steps, %v", *seeds, steps, time.Since(start).Round(time.Millisecond))
}
