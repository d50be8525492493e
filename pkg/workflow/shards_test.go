package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// sharded is project p with four shards and a workflow "w" that nobody runs.
func sharded(t *testing.T) (*bench, Bound[int, int]) {
	t.Helper()
	b := &bench{t: t, server: natstest.Start(t), log: slog.NewTextHandler(t.Output(), nil)}
	b.nc = b.server.Connect(t)
	b.js = natstest.JetStream(t, b.nc)
	if err := errors.Join(
		streams.EnsureProjects(t.Context(), b.js, streams.Options{}),
		streams.EnsureWorkflows(t.Context(), b.js, "p", 4, streams.Options{}),
		streams.RegisterWorkflows(t.Context(), b.js, "p", 4, map[string]string{"w": "W"}),
	); err != nil {
		t.Fatal(err)
	}
	return b, Bind[int, int]("w").In(b.open("p", project.Workflow{Name: "w", ClassName: "W"}))
}

// TestListOverShards: a list goes shard by shard, each in the order of creation, and any page goes on where the last one
// ended. What is created while it goes on is left out, in whatever shard.
func TestListOverShards(t *testing.T) {
	t.Parallel()
	_, bound := sharded(t)
	byShard := make([][]string, 4)
	create := func(n int) {
		t.Helper()
		id := fmt.Sprint("i", n)
		if _, err := bound.Create(t.Context(), n, ID(id)); err != nil {
			t.Fatal(err)
		}
		byShard[protocol.Shard(id, 4)] = append(byShard[protocol.Shard(id, 4)], id)
	}
	const instances = 100
	for n := range instances {
		create(n)
	}
	want := slices.Concat(byShard...)
	if slices.ContainsFunc(byShard, func(ids []string) bool { return len(ids) < 10 }) {
		t.Fatalf("the instances are spread as %v", byShard)
	}
	for _, size := range []int{1, 7, instances} {
		var got []string
		for cursor, more := uint64(0), true; more; {
			page := 0
			for s, err := range bound.List(t.Context(), ListAfter(cursor)) {
				if err != nil {
					t.Fatal(err)
				}
				got, cursor = append(got, s.ID), s.Cursor
				if page++; page == size {
					break
				}
			}
			more = page == size
		}
		if !slices.Equal(got, want) {
			t.Fatalf("pages of %d: %q\nwant %q", size, got, want)
		}
	}
	var got []string
	for s, err := range bound.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, s.ID); len(got) == 1 {
			for n := range 20 {
				create(instances + n)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("with some created meanwhile: %q\nwant %q", got, want)
	}
}

// TestShardsOfAProject: the first runner fixes how many there are, another number is refused with what to do, and a runner
// that is told none serves them all.
func TestShardsOfAProject(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	definition := Define("W", func(ctx context.Context, e Event[int]) (int, error) {
		return Do(ctx, "double", func(context.Context) (int, error) { return 2 * e.Payload, nil })
	})
	open := func(shards int) *project.Project {
		t.Helper()
		config := project.Config{Name: "p", Workflows: []project.Workflow{{Name: "w", ClassName: "W"}}}
		config.Settings.Shards = shards
		p, err := project.Open(t.Context(), config, project.Conn(nc), project.Logger(slog.New(slog.NewTextHandler(t.Output(), nil))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	serve := func(shards int) (p *project.Project, stop func()) {
		t.Helper()
		p = open(shards)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- project.Run(ctx, p, Runner(definition)) }()
		natstest.Eventually(t, natstest.Patience, "a runner takes work", p.IsReady)
		return p, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("runner: %v", err)
			}
		}
	}
	doubles := func(p *project.Project, from int) {
		t.Helper()
		for n := from; n < from+20; n++ {
			i, err := Bind[int, int]("w").In(p).Create(t.Context(), n, ID(fmt.Sprint(n)))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := i.Result(t.Context()); err != nil || got != 2*n {
				t.Errorf("%d came to %d, %v", n, got, err)
			}
		}
	}
	p, stop := serve(4)
	doubles(p, 0)
	stop()
	err := project.Run(t.Context(), open(2), Runner(definition))
	if wrong, ok := errors.AsType[*streams.ShardsError](err); !ok || wrong.Found != 4 || !strings.Contains(err.Error(), "set shards to 4, or leave it out") {
		t.Errorf("another number: %v", err)
	}
	p, stop = serve(0)
	doubles(p, 100)
	stop()
	for shard := range 4 {
		s, err := p.JS.Stream(t.Context(), protocol.WorkflowsStream("p", shard))
		if err != nil {
			t.Fatal(err)
		}
		if info := s.CachedInfo(); info.State.Msgs == 0 || len(info.Config.Subjects) != 1 || info.Config.Subjects[0] != protocol.ShardSubjects("p", shard) {
			t.Errorf("shard %d takes %q and holds %d messages", shard, info.Config.Subjects, info.State.Msgs)
		}
	}
}
