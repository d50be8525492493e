package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/workflow"
)

// TestBacklogNeedsNoMemory: what a runner has in memory follows from its slots, and not from what waits for it. So a backlog of large
// inputs neither ends a runner whose memory is bounded, nor keeps it from working.
func TestBacklogNeedsNoMemory(t *testing.T) {
	t.Parallel()
	const input = 96 << 10
	peak := func(backlog int) int64 {
		w := newWorld(t, singleServer(t), fmt.Sprintf("backlog-%d", backlog))
		s := ops(op{Do: "step", Type: strings.Repeat("x", input)}) // which only waits look at
		var items []workflow.BatchItem[script]
		for i := range backlog {
			items = append(items, workflow.Item(s, workflow.ID(fmt.Sprint("order-", i))))
		}
		for len(items) > 0 {
			n := min(len(items), 100)
			if _, err := w.scripts().CreateBatch(t.Context(), items[:n]); err != nil {
				t.Fatal(err)
			}
			items = items[n:]
		}
		p := w.runner(setup{slots: 2})
		for i := range backlog {
			instance, err := w.scripts().Get(t.Context(), fmt.Sprint("order-", i))
			if err == nil {
				_, err = instance.Result(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return p.peak(t)
	}
	const small, large = 40, 400
	few, many := peak(small), peak(large)
	if grown, waited := many-few, int64(large-small)*input; grown > waited/2 {
		t.Errorf("a runner that has had %d instances waiting has taken %d bytes, one with %d %d: %d more, of %d that waited", small, few, large, many, grown, waited)
	}
	t.Logf("%d MB, then %d MB", few>>20, many>>20)
}

// peak is the most memory that a process has had.
func (p *process) peak(t *testing.T) (bytes int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	t.Fatalf("%s has no VmHWM", p.name)
	return 0
}
