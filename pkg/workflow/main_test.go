package workflow

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if a runner, an execution or a body leaves a goroutine behind.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}
