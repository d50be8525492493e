package workflow

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/natstest"
)

// TestMain fails if a runner, an execution or a body leaves a goroutine behind.
func TestMain(m *testing.M) {
	natstest.Parallel(6)
	goleak.VerifyTestMain(m,
		// The NATS server does not wait for these when it shuts down.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	)
}
