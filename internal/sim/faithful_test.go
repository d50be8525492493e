package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// direct is a network without faults.
type direct struct{ *network }

func (d direct) PublishMsg(m *nats.Msg) error {
	d.answer(m, d.w.server.handle(m, time.Now()))
	return nil
}

func (d direct) RequestMsgWithContext(_ context.Context, m *nats.Msg) (*nats.Msg, error) {
	return d.w.server.handle(m, time.Now())[0], nil
}

// TestServerIsFaithful does the same to a simulated and to a real server: what comes back is the same.
func TestServerIsFaithful(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	if err := streams.EnsureWorkflows(t.Context(), natstest.JetStream(t, nc), project, 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	genuine := must(journal.Open(nc))
	w := &world{server: &server{streams: map[string]*stream{workflows: {name: workflows}}}}
	simulated := must(journal.OpenOn(direct{newNetwork(w)}))
	r := rand.New(rand.NewPCG(1, 1))
	var last uint64
	for n := range 1500 {
		request := someRequest(r, last)
		got, want := request.do(t.Context(), simulated), request.do(t.Context(), genuine)
		if got != want {
			t.Fatalf("request %d, %+v: simulated, it says\n%s\nbut a server says\n%s", n, request, got, want)
		}
		last = w.stream().last()
	}
}

// request is something that a Store can be asked.
type request struct {
	what, subject string
	filters       []string
	sequence      uint64
	limit         int
	body          string
}

func someRequest(r *rand.Rand, last uint64) request {
	instance := func() protocol.Instance {
		return protocol.Instance{Project: project, Workflow: "w", ID: fmt.Sprint(r.IntN(3))}
	}
	subjects := func() []string {
		i := instance()
		return []string{i.CreateSubject(), i.EventSubject(), i.LogSubject(), i.ControlSubject(), i.InputsSubject(), protocol.WorkflowSubjects(project)}
	}
	what := []string{"append", "append", "append", "publish", "last", "next", "many", "page", "page", "purge", "purge all", "state"}[r.IntN(12)]
	x := request{what: what, sequence: last - min(last, uint64(r.IntN(12))), limit: 1 + r.IntN(5), body: fmt.Sprint(r.IntN(1e9))}
	kinds := 4
	switch what {
	case "last", "next", "page":
		kinds = 5
	case "purge":
		kinds = 6
	}
	x.subject = subjects()[r.IntN(kinds)]
	for range 1 + r.IntN(3) {
		x.filters = append(x.filters, subjects()[r.IntN(5)])
	}
	if what == "append" && r.IntN(3) == 0 {
		x.sequence = 0
	}
	return x
}

// do asks a Store and tells what it says, but for what the time is.
func (x request) do(ctx context.Context, s *journal.Store) string {
	switch x.what {
	case "append":
		// What it expects is mostly right.
		tail, err := s.Last(ctx, workflows, x.subject)
		if err == nil && x.sequence%3 != 0 {
			x.sequence = tail.Sequence
		}
		at, err := s.Append(ctx, workflows, x.subject, x.sequence, []byte(x.body))
		return fmt.Sprint(at, err)
	case "publish":
		at, err := s.Publish(ctx, x.subject, nil, []byte(x.body))
		return fmt.Sprint(at, err)
	case "last":
		return text(s.Last(ctx, workflows, x.subject))
	case "next":
		return text(s.NextFromLeader(ctx, workflows, x.subject, max(1, x.sequence)))
	case "many":
		b, err := s.LastOfMany(ctx, workflows, x.filters)
		return fmt.Sprint(texts(b.Messages), b.UpTo, b.Cut, err)
	case "page":
		page, more, err := s.Page(ctx, workflows, x.subject, x.sequence, x.limit)
		return fmt.Sprint(texts(page), more, err)
	}
	if x.what == "purge all" {
		return fmt.Sprint(s.PurgeAll(ctx, workflows, max(1, x.sequence-min(x.sequence, 20))))
	}
	if x.what == "state" {
		state, err := s.State(ctx, workflows)
		return fmt.Sprint(state.First, state.Last, state.Messages, state.Messages == 0 || !state.Now.Before(state.FirstTime), err)
	}
	return fmt.Sprint(s.Purge(ctx, workflows, x.subject, max(1, x.sequence)))
}

func text(m *journal.Message, err error) string {
	if errors.Is(err, journal.ErrNotFound) || m == nil {
		return fmt.Sprint("nothing, ", err)
	}
	return fmt.Sprintf("%s %d %s", m.Subject, m.Sequence, m.Data)
}

func texts(all []journal.Message) string {
	var lines []string
	for _, m := range all {
		lines = append(lines, text(&m, nil))
	}
	return strings.Join(lines, "\n")
}
