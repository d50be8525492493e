package backup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestFourShards: a project whose instances are spread over several streams has all of them in a backup, each with the place of
// its consumers.
func TestFourShards(t *testing.T) {
	t.Parallel()
	const shards, instances = 4, 24
	p := onServer(t)
	for _, err := range []error{
		streams.EnsureProjects(t.Context(), p.js, streams.Options{}), streams.EnsureWorkflows(t.Context(), p.js, "shop", shards, streams.Options{}),
		streams.RegisterWorkflows(t.Context(), p.js, "shop", shards, map[string]string{"pay": "Pay"}),
	} {
		p.must(err)
	}
	in := make([][]string, shards)
	for n := range instances {
		i := pay(fmt.Sprint(n))
		i.Shard = protocol.Shard(i.ID, shards)
		p.publish(i.CreateSubject(), protocol.Create{V: 1, Input: "i", Workflow: "pay", ID: i.ID, Created: time.Now().UTC()})
		in[i.Shard] = append(in[i.Shard], i.CreateSubject())
	}
	for shard := range shards {
		if len(in[shard]) < 2 {
			t.Fatalf("shard %d has instances %q", shard, in[shard])
		}
		p.must(p.pull(protocol.WorkflowsStream("shop", shard), protocol.ConsumerWakes(shard)).DoubleAck(t.Context()))
	}
	dir, _ := p.backup()
	q := restored(t, dir)
	for shard := range shards {
		stream := protocol.WorkflowsStream("shop", shard)
		if was, is := p.contents(stream), q.contents(stream); len(is) < len(was) || !slices.Equal(was, is[:len(was)]) {
			t.Errorf("stream %s holds %q, was %q", stream, is, was)
		}
		if next := q.pull(stream, protocol.ConsumerWakes(shard)); next.Subject() != in[shard][1] {
			t.Errorf("the first wake of stream %s is %s, want %s", stream, next.Subject(), in[shard][1])
		}
	}
	if v, err := Verify(t.Context(), VerifyOptions{Dir: dir}); err != nil || !v.Whole() || v.States[protocol.StateQueued] != instances {
		t.Errorf("verify: %+v, %v", v, err)
	}
	for _, shard := range []int{0, shards - 1} {
		lacking := filepath.Join(t.TempDir(), "lacking")
		must(t, os.CopyFS(lacking, os.DirFS(dir)))
		gone := protocol.WorkflowsStream("shop", shard)
		rewrite(func(m *Manifest) {
			m.Streams = slices.DeleteFunc(m.Streams, func(s Stream) bool { return s.Name == gone })
		})(t, lacking)
		if _, err := Check(t.Context(), lacking); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("stream %q is missing", gone)) {
			t.Errorf("without stream %s: %v", gone, err)
		}
	}
}

// TestPosts: what is to be said to other projects is in a backup, in its order, but what was posted after the logs had ended.
func TestPosts(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.must(streams.EnsurePost(t.Context(), p.js, "shop", streams.Options{}))
	subject := protocol.PostSubject("shop", "bank", protocol.DoorWorkflow, "pay", "a")
	post := func(id string) {
		p.publish(subject, protocol.Post{V: 1, Kind: protocol.DoorWorkflow, Name: "pay", Op: "end", Request: protocol.DoorRequest{V: 1, ID: id}})
	}
	post("first")
	post("second")
	var kept []string
	dir := p.meanwhile(map[when]func(){
		{"KV_CONNECTIONS_shop", 1}: func() { // the logs have not ended
			post("third")
			kept = p.contents("POST_shop")
		},
		{"INBOX_shop", 2}: func() { // they have, but this is no moment at which nothing is posted
			post("fourth")
			kept = p.contents("POST_shop")
		},
		{"INBOX_shop", 3}:    func() {},
		{"KV_SLOTS_shop", 1}: func() { post("fifth") }, // the moment was found
	})
	if got := restored(t, dir).contents("POST_shop"); len(kept) != 4 || !slices.Equal(got, kept) {
		t.Errorf("restored are %q, want %q", got, kept)
	}
}
