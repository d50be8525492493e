package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// newRealFort makes the files for servers and starts each as the process that the page on security says.
func newRealFort(t *testing.T, count int, more ...string) *fort {
	t.Helper()
	f := prepareFort(t, count, more...)
	f.program = filepath.Join(t.TempDir(), "nats-server")
	if out, err := exec.Command("go", "build", "-o", f.program, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil { // what go.mod names
		t.Fatalf("compile nats-server: %v: %s", err, out)
	}
	for _, name := range f.names {
		f.launch(name, f.config(name))
	}
	f.awaitStreams()
	return f
}

// launch starts a server process. What it says is in a file beside its configuration.
func (f *fort) launch(name, config string) {
	f.t.Helper()
	cmd := exec.Command(f.program, "--config", config, "--log", config+".log")
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.processes[name] = cmd
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
}

// varz is what a server tells of itself.
type varz struct {
	Name   string    `json:"server_name"`
	Loaded time.Time `json:"config_load_time"`
	Routes int       `json:"routes"`
}

// watchServers asks all servers what they tell of themselves, by name.
func (f *fort) watchServers() map[string]varz {
	f.t.Helper()
	nc, all := f.reuse("system"), map[string]varz{}
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest(protocol.SubjectServers, sub.Subject, nil); err != nil {
		return nil // not connected in this moment
	}
	for len(all) < len(f.names) {
		m, err := sub.NextMsg(time.Second)
		if err != nil {
			return all
		}
		var answer struct {
			Data varz `json:"data"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			f.t.Fatal(err)
		}
		all[answer.Data.Name] = answer.Data
	}
	return all
}

// signal has one process after the other load its files again, as the page says.
func (f *fort) signal() {
	f.t.Helper()
	for _, name := range f.names {
		var before map[string]varz
		natstest.Eventually(f.t, natstest.Patience, "all servers tell of themselves", func() bool {
			before = f.watchServers()
			return len(before) == len(f.names)
		})
		out, err := exec.Command(f.program, "--signal", "reload="+strconv.Itoa(f.processes[name].Process.Pid)).CombinedOutput()
		if err != nil {
			f.t.Fatalf("signal: %v: %s", err, out)
		}
		natstest.Eventually(f.t, natstest.Patience, name+" has loaded its files", func() bool {
			return f.watchServers()[name].Loaded.After(before[name].Loaded)
		})
	}
	natstest.Eventually(f.t, natstest.Patience, "every server has routes to all others", func() bool {
		all := f.watchServers()
		for _, v := range all {
			if v.Routes < (len(f.names)-1)*3 { // a pool of three connections to each
				return false
			}
		}
		return len(all) == len(f.names)
	})
}

// writer stores a message after the other as the runner of a project, as processes do.
type writer struct {
	stop   context.CancelFunc
	ended  chan error
	stored int
	gap    time.Duration
}

func (f *fort) write(project string) *writer {
	f.t.Helper()
	store, err := journal.Open(f.reuse(project + "/workflow-runner"))
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(f.t.Context())
	w := &writer{stop: stop, ended: make(chan error, 1)}
	at := protocol.Instance{Project: project, Workflow: "grind", ID: "vic"}
	go func() {
		defer func() { w.ended <- store.Close() }()
		for last := time.Now(); ctx.Err() == nil; w.stored++ {
			if _, err := store.Publish(context.WithoutCancel(ctx), at.EventSubject(), nil, []byte(strconv.Itoa(w.stored))); err != nil {
				w.ended <- err
				return
			}
			w.gap, last = max(w.gap, time.Since(last)), time.Now()
		}
	}()
	return w
}

// verify checks that everything that was acknowledged is stored, in order and at least once.
func (w *writer) verify(f *fort, project string) {
	f.t.Helper()
	w.stop()
	if err := <-w.ended; err != nil {
		f.t.Fatal(err)
	}
	stream, err := natstest.JetStream(f.t, f.admin(project)).Stream(f.t.Context(), protocol.WorkflowsStream(project, 0))
	if err != nil {
		f.t.Fatal(err)
	}
	next := 0
	for sequence := uint64(1); next < w.stored; sequence++ {
		m, err := stream.GetMsg(f.t.Context(), sequence)
		if err != nil {
			f.t.Fatalf("%s: message %d of %d is lost: %v", project, next, w.stored, err)
		}
		switch n, err := strconv.Atoi(string(m.Data)); {
		case err == nil && n == next:
			next++
		case err == nil && n < next: // it was sent once more, since its acknowledgement was lost or late
		default:
			f.t.Fatalf("%s: at sequence %d stands %s, want %d", project, sequence, m.Data, next)
		}
	}
	f.t.Logf("%s: %d messages acknowledged, all stored; the longest pause was %s", project, w.stored, w.gap.Round(time.Millisecond))
}

// asker asks at the door of a project again and again.
type asker struct {
	stop            context.CancelFunc
	asked, answered int
	failures        map[string]int
	ended           chan struct{}
}

func (f *fort) ask() *asker {
	f.t.Helper()
	door := protocol.Door{Owner: "mill", Caller: "desk"}
	f.answer("mill")
	ctx, stop := context.WithCancel(f.t.Context())
	a, nc := &asker{stop: stop, failures: map[string]int{}, ended: make(chan struct{})}, f.reuse("desk/agent-host")
	go func() {
		defer close(a.ended)
		for ticker := time.Tick(5 * time.Millisecond); ctx.Err() == nil; <-ticker {
			a.asked++
			if _, err := nc.Request(door.RegistrySubject(), []byte("what is there?"), time.Second); err != nil {
				a.failures[err.Error()]++
				continue
			}
			a.answered++
		}
	}()
	return a
}

// answer has a runner of a project answer at its door.
func (f *fort) answer(project string) {
	f.t.Helper()
	_, err := f.reuse(project+"/workflow-runner").Subscribe(protocol.Door{Owner: project, Caller: protocol.AnyCaller}.RegistrySubject(), func(m *nats.Msg) {
		_ = m.Respond(m.Data) // whoever asked asks again
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// verify checks that nearly everything was answered: what is lost while servers connect to each other anew is asked again.
func (a *asker) verify(f *fort) {
	f.t.Helper()
	a.stop()
	<-a.ended
	f.t.Logf("asked %d times at a door, failed: %v", a.asked, a.failures)
	if a.answered < a.asked*9/10 {
		f.t.Errorf("%d of %d requests at a door were answered", a.answered, a.asked)
	}
}

// TestRotateCluster: in a cluster of three processes everything is exchanged while clients write, who stay connected and lose
// nothing.
func TestRotateCluster(t *testing.T) {
	t.Parallel()
	f := newRealFort(t, 3, "--accounts")
	projects := []string{"desk", "mill"}
	writers := map[string]*writer{}
	var conns []*nats.Conn
	for _, name := range projects {
		runner := f.reuse(name + "/workflow-runner")
		if err := streams.EnsureWorkflows(t.Context(), natstest.JetStream(t, runner), name, 1, streams.Options{Replicas: 3}); err != nil {
			t.Fatal(err)
		}
		writers[name], conns = f.write(name), append(conns, runner)
	}
	asker := f.ask()
	first := f.settings("desk/viewer")
	first.NATSCA = filepath.Join(t.TempDir(), "ca.pem")
	copyFile(t, filepath.Join(f.dir, "ca.pem"), first.NATSCA)
	stranger := f.stranger()
	for _, step := range [][]string{
		{"add-project", "barn", "--grant", "desk:barn"},
		{"rotate", "--all"},
		{"rotate", "--authority"},
		{"rotate", "--certificates"},
		{"rotate", "--authority", "--finish"},
		{"rotate", "--routes"},
		{"rotate", "--routes", "--finish"},
	} {
		if r := f.report(step...); len(r.Changed)+len(r.Created) == 0 {
			t.Errorf("%q: %+v", step, r)
		}
		f.signal()
		undisturbed(t, fmt.Sprint(step), conns...)
		for n, url := range strings.Split(f.url, ",") {
			s := f.settings("mill/viewer")
			s.NATSURL = url
			nc, err := process.Connect(t.Context(), fmt.Sprint("visitor of ", n), s, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatalf("%q: %v", step, err)
			}
			nc.Close()
		}
	}
	f.awaitStream("barn")
	asker.verify(f)
	f.answer("barn")
	natstest.Eventually(t, natstest.Patience, "who was connected before the grant is answered at the new door", func() bool {
		_, err := f.reuse("desk/agent-host").Request(protocol.Door{Owner: "barn", Caller: "desk"}.RegistrySubject(), nil, time.Second)
		return err == nil
	})
	for name, w := range writers {
		w.verify(f, name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	if _, err := process.Connect(ctx, "old", first, slog.New(slog.DiscardHandler)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who trusts the old authority only connects: %v", err)
	}
	f.launch("stranger", stranger)
	natstest.Eventually(t, natstest.Patience, "a server with the old password is refused", func() bool {
		log, err := os.ReadFile(stranger + ".log")
		return err == nil && regexp.MustCompile(`(?i)route.*authorization violation`).Match(log)
	})
}

// stranger is the configuration of a server that has the password of now, and will have certificates that are good.
func (f *fort) stranger() string {
	f.t.Helper()
	data, err := os.ReadFile(f.config("n0"))
	if err != nil {
		f.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), `"n0"`, `"stranger"`)
	text = regexp.MustCompile(`port: \d+`).ReplaceAllStringFunc(text, func(string) string { return fmt.Sprint("port: ", natstest.FreePort(f.t)) })
	text = strings.ReplaceAll(text, filepath.Join(f.dir, "servers", "n0", "data"), f.t.TempDir())
	path := filepath.Join(f.dir, "servers", "n0", "stranger.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f *fort) awaitStream(project string) {
	f.t.Helper()
	runner := natstest.JetStream(f.t, f.connect(project+"/workflow-runner"))
	if err := streams.EnsureWorkflows(f.t.Context(), runner, project, 1, streams.Options{Replicas: len(f.names)}); err != nil {
		f.t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
