package backup

import (
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
)

// TestServerIsLostWhileItRestores: a restore goes on when the server that leads the cluster is restarted meanwhile.
func TestServerIsLostWhileItRestores(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	dir, m := p.backup()
	cluster := natstest.StartCluster(t, 3)
	q := placeOn(t, cluster.Connect(t))
	lost := false
	var back sync.WaitGroup
	r, err := Restore(t.Context(), RestoreOptions{JS: q.js, Store: q.store, Dir: dir, Replicas: 3, Progress: func(what string, done, _ int) {
		if lost || what != "streams" || done < 4 {
			return
		}
		lost = true
		head := cluster.Head(t)
		cluster.Stop(t, head)
		back.Go(func() { cluster.Restart(t, head) })
	}})
	back.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if !lost || r.Streams != len(m.Streams) {
		t.Errorf("%d of %d streams were restored, a server was lost: %v", r.Streams, len(m.Streams), lost)
	}
	if got := q.contents("WORKFLOWS_shop"); len(got) != 1 {
		t.Errorf("the stream of instances holds %q", got)
	}
}
