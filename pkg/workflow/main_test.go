package workflow

import (
	"testing"

	"github.com/skein-run/skein/internal/natstest"
)

// TestMain fails if a runner, an execution or a body leaves a goroutine behind.
func TestMain(m *testing.M) {
	natstest.Parallel(6)
	natstest.LeavesNothing(m)
}
