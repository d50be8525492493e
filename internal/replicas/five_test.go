package replicas

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// flow is what goes through a stream and one of its durable consumers, one message after the other.
type flow struct {
	*testing.T
	js               jetstream.JetStream
	stream, consumer string
	subject          string
	stored           []uint64        // what was acknowledged to who published it
	came             map[uint64]bool // what was delivered, and whether it is known to be acknowledged
}

// put stores a message.
func (f *flow) put() {
	f.Helper()
	natstest.Ask(f.T, "publish to "+f.stream, func(ctx context.Context) error {
		ack, err := f.js.Publish(ctx, f.subject, []byte("{}"))
		if err == nil {
			f.stored = append(f.stored, ack.Sequence)
		}
		return err
	})
}

// take takes a message, and acknowledges it. What has come before and was not known to be acknowledged may come again, and after later
// ones, also as if for the first time: a new leader of the consumer need not know that it was delivered.
func (f *flow) take() {
	f.Helper()
	natstest.Ask(f.T, "take of "+f.stream, func(ctx context.Context) error {
		c, err := f.js.Consumer(ctx, f.stream, f.consumer)
		if err != nil {
			return err
		}
		m, err := c.Next(jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		at := meta.Sequence.Stream
		if f.came[at] {
			f.Errorf("%s: message %d was acknowledged, and comes again", f.stream, at)
		}
		f.came[at] = false
		if err := m.DoubleAck(ctx); err != nil {
			return err
		}
		f.came[at] = true
		return nil
	})
}

// finish takes what is left, and makes sure that everything has come.
func (f *flow) finish() {
	f.Helper()
	for {
		var left uint64
		natstest.Ask(f.T, "what is left of "+f.stream, func(ctx context.Context) error {
			c, err := f.js.Consumer(ctx, f.stream, f.consumer)
			if err == nil {
				left = c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending)
			}
			return err
		})
		if left == 0 {
			break
		}
		f.take()
	}
	for _, at := range f.stored {
		if _, ok := f.came[at]; !ok {
			f.Errorf("%s: message %d has not come", f.stream, at)
		}
	}
}

// TestScaleToFive: with five servers three copies become five while messages come and go, which bear the loss of two servers then.
// Nothing is lost, and what was acknowledged before, meanwhile or after does not come again.
func TestScaleToFive(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 5)
	js := natstest.JetStream(t, cluster.Connect(t))
	three := streams.Options{Replicas: 3}
	if err := errors.Join(streams.EnsureWorkflows(t.Context(), js, "p", 1, three), streams.EnsureAgents(t.Context(), js, "p", three)); err != nil {
		t.Fatal(err)
	}
	desk, pay := protocol.Agent{Project: "p", Class: "Desk", Name: "a"}, protocol.Instance{Project: "p", Workflow: "pay", ID: "a"}
	flows := []*flow{
		{stream: protocol.WorkflowsStream("p", 0), consumer: protocol.ConsumerWakes(0), subject: pay.EventSubject()},
		{stream: protocol.InboxStream("p"), consumer: protocol.ConsumerDoorbell, subject: desk.InboxSubject("p")},
	}
	for _, f := range flows {
		f.T, f.js, f.came = t, js, map[uint64]bool{}
	}
	move := func(put, take int) {
		for _, f := range flows {
			for range put {
				f.put()
			}
			for range take {
				f.take()
			}
		}
	}
	move(30, 10)
	ended := make(chan error, 1)
	store, copies := opened(t, js), map[string]int{}
	go func() {
		_, err := Scale(t.Context(), Options{JS: js, Store: store, Replicas: 5, Found: func(s *jetstream.StreamInfo) {
			copies[s.Config.Name] = 1 + len(s.Cluster.Replicas)
		}})
		ended <- err
	}()
	before := len(flows[0].came)
	for scaled := false; !scaled; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			scaled = true
		default:
			move(1, 1)
		}
	}
	if during := len(flows[0].came) - before; during == 0 {
		t.Error("no message came while copies were made")
	} else {
		t.Logf("%d messages came while copies were made", during)
	}
	for stream, n := range replicasOf(t, js) {
		if n != 5 || copies[stream] != 5 {
			t.Errorf("stream %s has %d replicas, and %d copies", stream, n, copies[stream])
		}
	}
	cluster.Stop(t, 0)
	cluster.Stop(t, 1)
	move(10, 10)
	for _, f := range flows {
		f.finish()
		t.Logf("%s: %d messages", f.stream, len(f.stored))
	}
}

// TestFiveOfThree: three servers have no room for five copies: that is said before anything changes.
func TestFiveOfThree(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t, natstest.StartCluster(t, 3).Connect(t))
	if err := errors.Join(
		streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{Replicas: 3}), streams.EnsureProjects(t.Context(), js, streams.Options{}),
	); err != nil {
		t.Fatal(err)
	}
	before := replicasOf(t, js)
	_, err := Scale(t.Context(), Options{JS: js, Replicas: 5})
	few, ok := errors.AsType[*ServersError](err)
	if !ok || few.Wanted != 5 {
		t.Errorf("five of three: %v", err)
	}
	if after := replicasOf(t, js); !maps.Equal(before, after) {
		t.Errorf("streams had %v replicas and have %v", before, after)
	}
}
