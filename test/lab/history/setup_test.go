package history

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/load"
	"github.com/skein-run/skein/test/lab/work"
)

var (
	instances = flag.Int("instances", 150, "how many instances are recorded")
	seed      = flag.Uint64("seed", 1, "what the load does")
)

// folder has the notes of this process, which all tests share.
var folder string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "history")
	if err != nil {
		panic(err)
	}
	folder = dir
	if err := os.Setenv(work.EnvNotes, folder); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := os.RemoveAll(folder); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// record lets the load run without faults and returns what there is then.
func record(t *testing.T, server *natstest.Server) (*Recorded, Report) {
	t.Helper()
	hosts := serve(t, server.URL())
	l, err := load.New(t.Context(), load.Options{URL: server.URL(), Notes: folder, Seed: *seed, Instances: *instances, Hosts: func(project string) []string { return hosts[project] }, Over: time.Duration(*instances) * 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	report, err := l.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the load: %v", report)
	if err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	nc := server.Connect(t)
	rec, found, err := check(t.Context(), Options{NC: nc, Notes: folder, Patience: natstest.Patience, DoctorPatience: 2 * time.Second, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	return rec, found
}

// serve runs runners and hosts of both projects, and a scheduler, until the test ends.
func serve(t *testing.T, url string) (hosts map[string][]string) {
	t.Helper()
	hosts = map[string][]string{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	n := 0
	var opened []*project.Project
	run := func(f func() error) {
		n++
		go func() { ended <- f() }()
	}
	t.Cleanup(func() {
		cancel()
		for range n {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		for _, p := range opened {
			p.Close()
		}
	})
	for _, name := range work.Projects() {
		config, err := work.Config(name)
		if err != nil {
			t.Fatal(err)
		}
		config.Settings.NATSURL = url
		config.Settings.HTTPAddr = fmt.Sprintf("127.0.0.1:%d", natstest.FreePort(t))
		p, err := project.Open(ctx, config)
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, p)
		hosts[name] = []string{"http://" + config.Settings.HTTPAddr}
		run(func() error { return project.Run(ctx, p, work.Runner(), work.Host()) })
		natstest.Eventually(t, natstest.Patience, name+" is served", p.IsReady)
		if name == work.North {
			s := scheduler.New(scheduler.Options{NC: p.NC, JS: p.JS, Log: slog.New(slog.DiscardHandler), Replicas: 1})
			run(func() error { return s.Run(ctx) })
		}
	}
	return hosts
}

// damage takes an announcement of an end from the last shard of a project, and a workflow from the registry.
func damage(t *testing.T, server *natstest.Server, project string) {
	t.Helper()
	js := natstest.JetStream(t, server.Connect(t))
	done, _ := protocol.DoneRepublish(project)
	stream, err := js.Stream(t.Context(), protocol.WorkflowsStream(project, work.Shards(project)-1))
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(t.Context(), done)
	if err == nil {
		err = stream.DeleteMsg(t.Context(), m.Sequence)
	}
	if err != nil {
		t.Fatal(err)
	}
	row, err := streams.LookUp(t.Context(), js, project)
	if err != nil {
		t.Fatal(err)
	}
	delete(row.Workflows, work.Few)
	body, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	projects, err := js.KeyValue(t.Context(), protocol.BucketProjects)
	if err == nil {
		_, err = projects.Put(t.Context(), project, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}
