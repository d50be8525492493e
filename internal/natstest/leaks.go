package natstest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// LeavesNothing is a TestMain: it runs the tests, and fails if goroutines are left. Some end a while after what they were for, as when they
// write to a slow disk.
func LeavesNothing(m *testing.M) {
	code := m.Run()
	for deadline := time.Now().Add(Patience); code == 0; {
		left := goleak.Find(
			// The NATS server does not wait for these when it shuts down.
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		)
		if left == nil {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, left)
			code = 1
		}
	}
	os.Exit(code)
}
