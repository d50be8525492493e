package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	testProject = "flight-desk"
	soon        = natstest.Patience // deadline of named conditions
)

// rig is a NATS server with what the agents of one project need, and a look into it.
type rig struct {
	server  *natstest.Server
	connect func(testing.TB, ...nats.Option) *nats.Conn
	nc      *nats.Conn
	js      jetstream.JetStream
	store   *journal.Store
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{server: natstest.Start(t)}
	r.connect = r.server.Connect
	r.nc = r.connect(t)
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureProjects(t.Context(), r.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureAgents(t.Context(), r.js, testProject, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	return r
}

// workflows makes the stream of another project's workflows.
func (r *rig) workflows(t *testing.T, project string) {
	t.Helper()
	for _, err := range []error{
		streams.EnsureProjects(t.Context(), r.js, streams.Options{}),
		streams.EnsureWorkflows(t.Context(), r.js, project, 1, streams.Options{}),
		streams.RegisterWorkflows(t.Context(), r.js, project, 1, nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// testHost is a running agent host with a connection of its own.
type testHost struct {
	service *HostService
	nc      *nats.Conn
	url     string
	stop    func() error // ends it in order
	log     *logBuffer
	metrics *prometheus.Registry
}

type hostOption func(*HostService, *project.Config)

func timings(change func(*timing)) hostOption {
	return func(s *HostService, _ *project.Config) { change(&s.times) }
}

// quick makes leases short, so that tests of lost hosts are, and keeps what their figures promise together: a host that a busy machine
// holds up is not held for gone while its lease is good.
func quick(t *timing) {
	t.leaseEvery, t.leaseFor, t.leaseMisses = 80*time.Millisecond, 800*time.Millisecond, 12
}

func (r *rig) host(t *testing.T, classes []Class, options ...hostOption) *testHost {
	t.Helper()
	h := &testHost{service: Host(classes...), nc: r.connect(t), log: &logBuffer{t: t}, metrics: prometheus.NewRegistry()}
	config := project.Config{Name: testProject}
	config.Settings.HTTPAddr = "127.0.0.1:0"
	for _, o := range options {
		o(h.service, &config)
	}
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p, err := project.Open(t.Context(), config, project.Conn(h.nc), project.Logger(log), project.Metrics(h.metrics))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var served error
	go func() {
		defer close(ended)
		served = project.Run(ctx, p, h.service)
	}()
	h.stop = sync.OnceValue(func() error {
		cancel()
		<-ended
		return served
	})
	t.Cleanup(func() {
		if err := h.stop(); err != nil && !h.nc.IsClosed() {
			t.Errorf("host ended: %v", err)
		}
		p.Close()
		h.log.close()
	})
	natstest.Eventually(t, soon, "the host is ready", func() bool {
		select {
		case <-ended:
			t.Fatalf("host ended before it was ready: %v", served)
		default:
		}
		return p.IsReady()
	})
	h.url = "http://" + h.service.Addr().String()
	return h
}

// kill ends the host as SIGKILL would, as far as others see it: its connection is gone and nothing was handed back.
func (h *testHost) kill(t *testing.T) {
	t.Helper()
	h.nc.Close()
}

// logBuffer keeps log lines and shows them with the test.
type logBuffer struct {
	t      *testing.T
	mu     sync.Mutex
	text   bytes.Buffer
	closed bool
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.t.Logf("%s", bytes.TrimSpace(p))
	}
	return b.text.Write(p)
}

func (b *logBuffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

func (b *logBuffer) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.text.Bytes(), []byte(text))
}

// line is the first line that has text.
func (b *logBuffer) line(text string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range bytes.Lines(b.text.Bytes()) {
		if bytes.Contains(line, []byte(text)) {
			return string(line)
		}
	}
	return ""
}

func (b *logBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.text.Bytes(), []byte(text))
}

var httpClient = &http.Client{Timeout: soon, Transport: &http.Transport{DisableKeepAlives: true}}

// call sends a request and returns status and body.
func (h *testHost) call(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	status, text, err := h.tryCall(t.Context(), method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, text
}

func (h *testHost) tryCall(ctx context.Context, method, path, body string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, h.url+path, bytes.NewBufferString(body))
	if err != nil {
		return 0, "", err
	}
	response, err := httpClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(bytes.TrimSpace(text)), err
}

// expect sends a GET and fails unless it is answered like this.
func (h *testHost) expect(t *testing.T, path string, status int, body string) {
	t.Helper()
	if gotStatus, got := h.call(t, http.MethodGet, path, ""); gotStatus != status || got != body {
		t.Errorf("GET %s = %d %q, want %d %q", path, gotStatus, got, status, body)
	}
}

func agentNamed(name string) protocol.Agent {
	return protocol.Agent{Project: testProject, Class: "Desk", Name: name}
}

// record reads an agent's record; ok is false if there is none.
func (r *rig) record(t *testing.T, name string) (protocol.Record, bool) {
	t.Helper()
	records := &records{store: r.store, where: bucketOf(protocol.AgentsBucket(testProject))}
	v, err := records.read(t.Context(), agentNamed(name))
	if err != nil {
		t.Fatal(err)
	}
	return v.record, v.exists
}

// awaitRecord waits until the record is as wanted.
func (r *rig) awaitRecord(t *testing.T, name, what string, wanted func(protocol.Record) bool) protocol.Record {
	t.Helper()
	var last protocol.Record
	natstest.Eventually(t, soon, fmt.Sprintf("record of agent %q: %s", name, what), func() bool {
		last, _ = r.record(t, name)
		return wanted(last)
	})
	return last
}

// row reads a key of a bucket; nil if it is not there.
func (r *rig) row(t *testing.T, bucketName, key string) []byte {
	t.Helper()
	b := bucketOf(bucketName)
	m, err := r.store.Last(t.Context(), b.stream, b.subject(key))
	if errors.Is(err, journal.ErrNotFound) || err == nil && m.Header.Get(protocol.HeaderKVOperation) != "" {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.Data
}

// rows reads all keys of a bucket.
func (r *rig) rows(t *testing.T, bucketName string) map[string][]byte {
	t.Helper()
	b := bucketOf(bucketName)
	batch, err := r.store.LastOfMany(t.Context(), b.stream, []string{b.subject(">")})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, m := range batch.Messages {
		if m.Header.Get(protocol.HeaderKVOperation) == "" {
			found[m.Subject[len(b.subject("")):]] = m.Data
		}
	}
	return found
}

// mail puts a message into the inbox of a desk, as the scheduler or another sender would.
func (r *rig) mail(t *testing.T, name, from string, m protocol.Mail) uint64 {
	t.Helper()
	m.V, m.Sent = protocol.Version, time.Now().UTC()
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	sequence, err := r.store.Publish(t.Context(), agentNamed(name).InboxSubject(from), nil, body)
	if err != nil {
		t.Fatal(err)
	}
	return sequence
}

// inboxEmpty waits until all mail is applied and acked.
func (r *rig) inboxEmpty(t *testing.T) {
	t.Helper()
	natstest.Eventually(t, soon, "the inbox is empty", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // a cluster that elects may not answer at all
		defer cancel()
		s, err := r.js.Stream(ctx, protocol.InboxStream(testProject))
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}

// desk is the agent of most tests: what it does comes from the test.
type desk struct {
	Base[deskState]
	request func(*desk, http.ResponseWriter, *http.Request) error
	ring    func(context.Context, *desk, string) error
	failed  func(context.Context, *desk, error) error
	ask     func(context.Context, *desk, string) (string, error)
	count   func(context.Context, *desk) (int, error)
}

type deskState struct {
	Count int
	Log   []string
}

func (d *desk) OnRequest(w http.ResponseWriter, r *http.Request) error {
	return d.request(d, w, r)
}

// Ring is the callback of the tests.
func (d *desk) Ring(ctx context.Context, text string) error { return d.ring(ctx, d, text) }

// Note is a callback that appends to the state.
func (d *desk) Note(ctx context.Context, text string) error {
	return d.Update(ctx, func(s *deskState) error { s.Log = append(s.Log, text); return nil })
}

// Fail is a callback that fails.
func (d *desk) Fail(context.Context, string) error { return errors.New("no luck") }

func (d *desk) OnError(ctx context.Context, err error) error {
	if d.failed == nil {
		return nil
	}
	return d.failed(ctx, d, err)
}

// desks defines the class; prepare sets what the desks of the test do.
func desks(prepare func(*desk), options ...ClassOption) []Class {
	return []Class{Define("Desk", func() *desk {
		d := &desk{request: count}
		if prepare != nil {
			prepare(d)
		}
		return d
	}, options...)}
}

// count answers with the number of POSTs that the agent has had.
func count(d *desk, w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		if err := d.Update(r.Context(), func(s *deskState) error { s.Count++; return nil }); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, strconv.Itoa(d.State().Count))
	return err
}
