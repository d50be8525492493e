package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestMain(m *testing.M) {
	natstest.Parallel(4)
	os.Exit(m.Run())
}

// place is a server, or a cluster, and how it is reached.
type place struct {
	*testing.T
	nc    *nats.Conn
	js    jetstream.JetStream
	store *journal.Store
}

func placeOn(t *testing.T, nc *nats.Conn) *place {
	t.Helper()
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &place{T: t, nc: nc, js: natstest.JetStream(t, nc), store: store}
}

// onServer is a place of its own.
func onServer(t *testing.T) *place {
	t.Helper()
	return placeOn(t, natstest.Start(t).Connect(t))
}

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// project makes the streams of a project.
func (p *place) project(name string) {
	p.Helper()
	ctx, opts := p.Context(), streams.Options{}
	for _, err := range []error{
		streams.EnsureProjects(ctx, p.js, opts), streams.EnsureJanitors(ctx, p.js, opts),
		streams.EnsureWorkflows(ctx, p.js, name, 1, opts), streams.EnsureAgents(ctx, p.js, name, opts),
		streams.RegisterWorkflows(ctx, p.js, name, 1, map[string]string{"pay": "Pay"}),
		streams.RegisterAgents(ctx, p.js, name, []string{"Desk"}),
	} {
		p.must(err)
	}
}

// publish stores a message, with headers in pairs.
func (p *place) publish(subject string, body any, headers ...string) uint64 {
	p.Helper()
	data, err := json.Marshal(body)
	p.must(err)
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	ack, err := p.js.PublishMsg(p.Context(), m)
	p.must(err)
	return ack.Sequence
}

// create stores the create of an instance.
func (p *place) create(project, id string) uint64 {
	p.Helper()
	i := protocol.Instance{Project: project, Workflow: "pay", ID: id}
	return p.publish(i.CreateSubject(), protocol.Create{V: 1, Input: "of " + id, Workflow: "pay", ID: id, Created: time.Now().UTC()})
}

// backup makes a backup of everything.
func (p *place) backup(projects ...string) (string, *Manifest) {
	p.Helper()
	dir := filepath.Join(p.TempDir(), "backup")
	m, err := Create(p.Context(), Options{JS: p.js, Store: p.store, Dir: dir, Projects: projects})
	p.must(err)
	return dir, m
}

func (p *place) restore(dir string, replicas int) (*Restored, error) {
	return Restore(p.Context(), RestoreOptions{JS: p.js, Store: p.store, Dir: dir, Replicas: replicas, Patience: time.Second})
}

// contents are all messages of a stream, one a line.
func (p *place) contents(stream string) (all []string) {
	p.Helper()
	for from := uint64(1); ; {
		m, err := p.store.NextFromLeader(p.Context(), stream, ">", from)
		if err != nil {
			return all
		}
		all = append(all, fmt.Sprintf("%d %s %s %v %s", m.Sequence, m.Time.UTC().Format(time.RFC3339Nano), m.Subject, m.Header, m.Data))
		from = m.Sequence + 1
	}
}

// pull takes a message of a consumer. One that comes when that is given up would not come again soon.
func (p *place) pull(stream, name string) jetstream.Msg {
	p.Helper()
	var got jetstream.Msg
	natstest.Ask(p.T, "a message of consumer "+name, func(ctx context.Context) error {
		c, err := p.js.Consumer(ctx, stream, name)
		if err != nil {
			return err
		}
		got, err = c.Next(jetstream.FetchMaxWait(30 * time.Second))
		return err
	})
	return got
}
