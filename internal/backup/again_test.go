package backup

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

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

// TestReleaseIsGivenUp: who may not change the registry restores all, is told in the end what is left, and not held up without end. Then
// only that is done, by who may.
func TestReleaseIsGivenUp(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	dir, m := p.backup()
	s := natstest.Start(t, natstest.Adjust(func(o *server.Options) {
		denied := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.UPDATE.KV_PROJECTS"}}}
		o.Users = []*server.User{{Username: "all", Password: "p"}, {Username: "most", Password: "p", Permissions: denied}}
		o.NoAuthUser = "all"
	}))
	q := placeOn(t, s.Connect(t, nats.UserInfo("most", "p")))
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	_, err := Restore(ctx, RestoreOptions{JS: q.js, Store: q.store, Dir: dir, Patience: time.Second, limit: 15 * time.Second})
	left, ok := errors.AsType[*ReleaseError](err)
	if !ok || left.Released != len(m.Streams)-1 || !strings.Contains(err.Error(), `release stream "KV_PROJECTS": not within 15s`) {
		t.Fatalf("who may not release the last of %d streams is told: %v", len(m.Streams), err)
	}
	q = placeOn(t, s.Connect(t))
	if r, err := q.restore(dir, 1); err != nil || r.Streams != 0 || r.Released != 1 {
		t.Errorf("repeated: %+v, %v", r, err)
	}
	q.project("shop")
	if got := q.contents("WORKFLOWS_shop"); len(got) != 1 {
		t.Errorf("the stream of instances holds %q", got)
	}
}
