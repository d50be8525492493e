package backup

import (
	"errors"
	"flag"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

var orphans = flag.Bool("orphans", false, "TestOneServerIsNoCluster waits until the cluster deletes what it does not know, which takes half a minute")

// TestOneServerIsNoCluster: a server that was alone and becomes one of a cluster does not bring its streams along, and loses them
// soon. So docs/operations.md says that a backup is the way.
func TestOneServerIsNoCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	alone := natstest.Start(t, natstest.StoreDir(dir))
	p := placeOn(t, alone.Connect(t))
	p.project("shop")
	p.create("shop", "a")
	p.nc.Close()
	alone.Stop(t)
	first := true
	c := natstest.StartCluster(t, 3, natstest.Adjust(func(o *server.Options) {
		if first {
			o.StoreDir, first = dir, false
		}
	}))
	q := placeOn(t, c.Connect(t))
	if _, err := q.js.Stream(t.Context(), protocol.WorkflowsStream("shop", 0)); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the stream of a server that was alone is there: %v", err)
	}
	if *orphans {
		natstest.Eventually(t, 2*time.Minute, "the cluster has deleted what it does not know", func() bool {
			left, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "*"))
			return err == nil && len(left) == 0
		})
	}
}
