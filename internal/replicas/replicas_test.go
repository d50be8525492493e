package replicas

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
)

func opened(t *testing.T, js jetstream.JetStream) *journal.Store {
	t.Helper()
	s, err := journal.Open(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func replicasOf(t *testing.T, js jetstream.JetStream) map[string]int {
	t.Helper()
	all := map[string]int{}
	list := js.ListStreams(t.Context())
	for info := range list.Info() {
		all[info.Config.Name] = info.Config.Replicas
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestScaleRefuses: what cannot be done changes nothing.
func TestScaleRefuses(t *testing.T) {
	t.Parallel()
	one := natstest.JetStream(t, natstest.Start(t).Connect(t))
	three := natstest.JetStream(t, natstest.StartCluster(t, 3).Connect(t))
	for _, js := range []jetstream.JetStream{one, three} {
		if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		js      jetstream.JetStream
		options Options
		wanted  func(error) bool
	}{
		"no cluster": {one, Options{Replicas: 3}, func(err error) bool {
			_, ok := errors.AsType[*ServersError](err)
			return ok
		}},
		"too few servers": {three, Options{Replicas: 5}, func(err error) bool {
			_, ok := errors.AsType[*ServersError](err)
			return ok
		}},
		"unknown project": {three, Options{Replicas: 3, Projects: []string{"q"}}, func(err error) bool {
			return err != nil && err.Error() == `project "q": has no streams here`
		}},
	} {
		tt.options.JS = tt.js
		if _, err := Scale(t.Context(), tt.options); !tt.wanted(err) {
			t.Errorf("%s: %v", name, err)
		}
		for stream, n := range replicasOf(t, tt.js) {
			if n != 1 {
				t.Errorf("%s: stream %s has %d replicas", name, stream, n)
			}
		}
	}
}

// TestScaleThereAndBack: all streams of a project get three copies, and their consumers; fewer only if that is wanted.
func TestScaleThereAndBack(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t, natstest.StartCluster(t, 3).Connect(t))
	if err := errors.Join(
		streams.EnsureProjects(t.Context(), js, streams.Options{}), streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{}),
		streams.EnsureWorkflows(t.Context(), js, "q", 1, streams.Options{}),
	); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	names, err := Scale(t.Context(), Options{JS: js, Store: opened(t, js), Replicas: 3, Projects: []string{"p"}, Found: func(s *jetstream.StreamInfo) {
		found[s.Config.Name] = 1 + len(s.Cluster.Replicas)
	}})
	if want := []string{"KV_PROJECTS", "KV_SLOTS_p", "OBJ_OBJECTS_p", "TIMERS_p", "WORKFLOWS_p"}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("scaled %q, %v, want %q", names, err, want)
	}
	for stream, n := range replicasOf(t, js) {
		if want := map[bool]int{true: 3, false: 1}[slices.Contains(names, stream)]; n != want || n == 3 && found[stream] != 3 {
			t.Errorf("stream %s has %d replicas, and %d copies", stream, n, found[stream])
		}
	}
	natstest.Eventually(t, natstest.Patience, "the consumer has three copies, which are current unless a server is held up", func() (whole bool) {
		natstest.Ask(t, "the copies of the consumer", func(ctx context.Context) error {
			c, err := js.Consumer(ctx, "WORKFLOWS_p", "wakes")
			whole = err == nil && behind("it", c.CachedInfo().Cluster, 3) == ""
			return err
		})
		return whole
	})
	var fewer *FewerError
	if _, err := Scale(t.Context(), Options{JS: js, Replicas: 1}); !errors.As(err, &fewer) || fewer.Has != 3 {
		t.Errorf("fewer replicas: %v", err)
	}
	if _, err := Scale(t.Context(), Options{JS: js, Store: opened(t, js), Replicas: 1, Fewer: true}); err != nil {
		t.Fatal(err)
	}
	for stream, n := range replicasOf(t, js) {
		if n != 1 {
			t.Errorf("stream %s has %d replicas again", stream, n)
		}
	}
}

// TestScaleIsStuck: it is told what is waited for, and not waited without end if nothing changes about it.
func TestScaleIsStuck(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t, natstest.StartCluster(t, 3).Connect(t))
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	_, err := Scale(t.Context(), Options{
		JS: js, Store: opened(t, js), Replicas: 3, Patience: time.Nanosecond,
		Progress: func(what string, _, _ int) { told[what] = true },
	})
	stuck, ok := errors.AsType[*StuckError](err)
	if !ok || stuck.Lacking == "" || stuck.Of != 4 || !told["streams; of "+stuck.Stream+" "+stuck.Lacking] {
		t.Errorf("%v, and told was %v", err, told)
	}
}

// TestFewerWhileSomebodyWaits: there are no fewer copies while a process waits for what a consumer brings.
func TestFewerWhileSomebodyWaits(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t, natstest.StartCluster(t, 3).Connect(t))
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), "WORKFLOWS_p", "wakes")
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := waiting.Next() // this is what begins a pull
		ended <- err
	}()
	natstest.Eventually(t, natstest.Patience, "the pull waits", func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumWaiting > 0
	})
	var busy *BusyError
	if _, err := Scale(t.Context(), Options{JS: js, Replicas: 1, Fewer: true}); !errors.As(err, &busy) || busy.Consumer != "wakes" {
		t.Errorf("fewer replicas while somebody waits: %v", err)
	}
	for stream, n := range replicasOf(t, js) {
		if n != 3 {
			t.Errorf("stream %s has %d replicas", stream, n)
		}
	}
	waiting.Stop()
	if err := <-ended; !errors.Is(err, jetstream.ErrMsgIteratorClosed) {
		t.Errorf("nobody has published, and the pull ended with %v", err)
	}
}
