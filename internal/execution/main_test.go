package execution

import (
	"os"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
)

func TestMain(m *testing.M) {
	natstest.Parallel(6)
	os.Exit(m.Run())
}
