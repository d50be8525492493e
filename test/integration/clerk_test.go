package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// clerk is the agent of the processes in the role of a host. What it has noted stays, so that its state tells what was
// applied to it, and in which order.
type clerk struct{ agent.Base[[]string] }

var clerkClass = agent.Bind[*clerk]("Clerk")

func clerks() agent.Class {
	return agent.Define("Clerk", func() *clerk { return &clerk{} },
		agent.Retry{MaxAttempts: 3, BaseDelay: time.Millisecond, MaxDelay: time.Millisecond})
}

// order is what a clerk is asked for.
type order struct {
	Note string `json:"note"`
	// Gate is an address at which the turn waits until the test lets it go on.
	Gate string `json:"gate,omitempty"`
	// Tell is another clerk, who is told the same.
	Tell string `json:"tell,omitempty"`
}

// Note appends to the state.
func (c *clerk) Note(ctx context.Context, text string) error {
	return c.Update(ctx, func(log *[]string) error { *log = append(*log, text); return nil })
}

// Do carries an order out.
func (c *clerk) Do(ctx context.Context, o order) error {
	if err := awaitGate(o.Gate); err != nil {
		return err
	}
	if err := c.Note(ctx, o.Note); err != nil || o.Tell == "" {
		return err
	}
	return agent.Tell(ctx, clerkClass.Agent(o.Tell), (*clerk).Note, o.Note)
}

// Done carries an order out and returns the number of notes.
func (c *clerk) Done(ctx context.Context, o order) (int, error) {
	err := c.Do(ctx, o)
	return len(c.State()), err
}

// Planned plans an order, to be carried out once, soon.
func (c *clerk) Planned(ctx context.Context, o order) (string, error) {
	task, err := agent.Schedule(ctx, agent.After(50*time.Millisecond), c.Do, o)
	return task.ID, err
}

// Begun starts a workflow that calls back, and tracks it.
func (c *clerk) Begun(ctx context.Context, o order) (string, error) {
	self, err := agent.Info(ctx)
	if err != nil {
		return "", err
	}
	i, err := agent.RunWorkflow(ctx, answersBinding, callBack{Agent: self.Name, Note: o.Note})
	if err != nil {
		return "", err
	}
	return i.ID(), nil
}

// OnWorkflowComplete notes what the workflow returned.
func (c *clerk) OnWorkflowComplete(ctx context.Context, _ agent.Tracked, result agent.Value) error {
	note, err := agent.Decode[string](ctx, result)
	if err != nil {
		return err
	}
	return c.Note(ctx, note)
}

// OnRequest carries out the order in the body of a POST, plans that of a PUT, and answers with the number of notes.
func (c *clerk) OnRequest(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Has("stream") {
		return c.stream(w, r)
	}
	if err := awaitGate(r.URL.Query().Get("gate")); err != nil {
		return err
	}
	var o order
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			return err
		}
	}
	switch r.Method {
	case http.MethodPost:
		if err := c.Do(r.Context(), o); err != nil {
			return err
		}
	case http.MethodPut:
		if _, err := c.Planned(r.Context(), o); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, strconv.Itoa(len(c.State())))
	return err
}

// awaitGate waits whatever becomes of the turn: code that does not look at its context.
func awaitGate(address string) error {
	if address == "" {
		return nil
	}
	response, err := http.Get(address + "?pid=" + strconv.Itoa(os.Getpid()))
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// Fail says that it was called, and fails.
func (c *clerk) Fail(ctx context.Context, subject string) error {
	p, ok := project.From(ctx)
	if !ok {
		return errors.New("no project")
	}
	if err := errors.Join(p.NC.Publish(subject, nil), p.NC.FlushWithContext(ctx)); err != nil {
		return err
	}
	return errors.New("no luck")
}

// Enqueue queues notes of what the text names.
func (c *clerk) Enqueue(ctx context.Context, text string) error {
	for word := range strings.FieldsSeq(text) {
		if _, err := agent.Queue(ctx, c.Note, word); err != nil {
			return err
		}
	}
	return nil
}

// porter is the agent of hosts that are there for sockets of others.
type porter struct{ agent.Base[struct{}] }

// agentHost is an agent host in a process of its own.
type agentHost struct {
	*process
	address string
}

// host starts an agent host, which stands still at a point of package testsignal if one is named, and waits until it takes
// work.
func (w *world) host(stopAt string) *agentHost {
	w.t.Helper()
	return w.hostAt(w.url, stopAt)
}

// hostAt is host for one that reaches NATS at other addresses than the test.
func (w *world) hostAt(url, stopAt string) *agentHost {
	w.t.Helper()
	return w.hostAs(roleHost, url, stopAt)
}

func (w *world) hostAs(role, url, stopAt string) *agentHost {
	w.t.Helper()
	var env []string
	if stopAt != "" {
		env = append(env, testsignal.Env+"="+stopAt)
	}
	return w.hostWith(role, url, env)
}

// hostWith is hostAs with an environment and more arguments.
func (w *world) hostWith(role, url string, env []string, more ...string) *agentHost {
	w.t.Helper()
	w.runners++
	config := filepath.Join(w.files, fmt.Sprintf("host-%d.jsonc", w.runners))
	if err := os.WriteFile(config, fmt.Appendf(nil, `{ "name": %q, "workflows": [{ "name": "answers", "class_name": "Answers" }] }`, w.name), 0o600); err != nil {
		w.t.Fatal(err)
	}
	args := append([]string{"--config", config, "--nats-url", url, "--replicas", strconv.Itoa(w.replicas), "--http-addr", "127.0.0.1:0",
		"--log-level", "debug", "--shutdown-grace", "1m"}, more...)
	p := launch(w.t, fmt.Sprintf("%s %d of %s", role, w.runners, w.name), role, env, args...)
	p.awaitLog(w.t, "msg=ready")
	_, address, _ := strings.Cut(p.log.String(), "address=")
	address, _, _ = strings.Cut(address, " ")
	return &agentHost{process: p, address: address}
}

// answer is what came of an HTTP request.
type answer struct {
	status int
	body   string
	err    error
}

var agentClient = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks a clerk for its number of notes, at once or when the gate is open.
func (h *agentHost) get(ctx context.Context, name, gate string) answer {
	return h.request(ctx, http.MethodGet, name+"?gate="+gate, "")
}

func (h *agentHost) post(ctx context.Context, name string, o order) answer {
	body, err := json.Marshal(o)
	if err != nil {
		return answer{err: err}
	}
	return h.request(ctx, http.MethodPost, name, string(body))
}

func (h *agentHost) request(ctx context.Context, method, path, body string) answer {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+h.address+"/agents/clerk/"+path, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	response, err := agentClient.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(text), err}
}

// called is what came of a call.
type called struct {
	n   int
	err error
}

// call calls a clerk and has patience.
func (w *world) call(name string, o order) called {
	n, err := agent.Call(w.t.Context(), clerkClass.In(w.project).Agent(name), (*clerk).Done, o, agent.Timeout(patience))
	return called{n, err}
}

// tell tells a clerk something.
func (w *world) tell(name string, o order) {
	w.t.Helper()
	if err := agent.Tell(w.t.Context(), clerkClass.In(w.project).Agent(name), (*clerk).Do, o); err != nil {
		w.t.Fatal(err)
	}
}

// aside does something meanwhile.
func aside[R any](do func() R) <-chan R {
	done := make(chan R, 1)
	go func() { done <- do() }()
	return done
}

// within waits for what is done aside.
func within[R any](t testing.TB, what string, done <-chan R) R {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
	panic("not reached")
}

// recordOf reads the record of a clerk; ok is false if there is none.
func (w *world) recordOf(name string) (r protocol.Record, ok bool) {
	w.t.Helper()
	return w.recordIn("Clerk", name)
}

func (w *world) recordIn(class, name string) (r protocol.Record, ok bool) {
	w.t.Helper()
	bucket := protocol.AgentsBucket(w.name)
	natstest.Ask(w.t, "record of "+name, func(ctx context.Context) error {
		m, err := w.store.Last(ctx, protocol.KVStream(bucket), protocol.KVSubject(bucket, protocol.AgentKey(class, name)))
		if errors.Is(err, journal.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		ok = true
		if err := json.Unmarshal(m.Data, &r); err != nil {
			w.t.Fatal(err)
		}
		if r.Epoch == 0 { // the write that took it
			r.Epoch = m.Sequence
		}
		return nil
	})
	return r, ok
}

// notes are what a clerk has noted.
func (w *world) notes(name string) (notes []string) {
	w.t.Helper()
	if r, ok := w.recordOf(name); ok && r.State != nil {
		if err := json.Unmarshal(r.State, &notes); err != nil {
			w.t.Fatal(err)
		}
	}
	return notes
}

// scheduler runs one until the test ends.
func (w *world) scheduler() {
	w.t.Helper()
	s := scheduler.New(scheduler.Options{NC: w.nc, JS: w.js, Log: slog.New(slog.DiscardHandler), Replicas: w.replicas})
	ctx, cancel := context.WithCancel(context.Background())
	ended := aside(func() error { return s.Run(ctx) })
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("scheduler: %v", err)
		}
	})
}

// rigs are where tests of agents run.
var rigs = map[string]func(testing.TB) *rig{"one server": singleServer, "three servers": threeServers}
