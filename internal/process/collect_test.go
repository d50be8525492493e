package process

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
)

func TestPercentOfLiveMemory(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 16 << 20: 400, 32 << 20: 200, 64 << 20: 100, 1 << 40: 100} {
		if got := percentOf(live); got != want {
			t.Errorf("%d bytes: %d %%, want %d", live, got, want)
		}
	}
}

// TestLargeProcessIsCollectedByDefault: who has much live memory does not take four times as much again.
func TestLargeProcessIsCollectedByDefault(t *testing.T) {
	t.Setenv("GOGC", "")
	collectLessOften()
	large := make([]byte, headroom)
	becomes := func(want uint64) {
		natstest.Eventually(t, natstest.Patience, "the target follows", func() bool {
			runtime.GC()
			target := []metrics.Sample{{Name: "/gc/gogc:percent"}}
			metrics.Read(target)
			return target[0].Value.Uint64() == want
		})
	}
	becomes(byDefault)
	runtime.KeepAlive(large)
	large = nil
	becomes(lessOften)
}
