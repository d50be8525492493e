package journal_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
)

func TestPurgeKeepsWhatCameAfterItsBound(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowRollup: true}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	put := func(subject string) uint64 {
		sequence, err := store.Publish(t.Context(), subject, nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return sequence
	}
	other, old, kept := put("s.b"), put("s.a"), put("s.a")
	for range 2 { // the second time nothing is there to remove
		if err := store.Purge(t.Context(), "S", "s.a", old+1); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := store.NextFromLeader(t.Context(), "S", "s.a", 1); err != nil || m.Sequence != kept {
		t.Errorf("first of s.a is %+v, %v, want sequence %d", m, err, kept)
	}
	if m, err := store.Last(t.Context(), "S", "s.b"); err != nil || m.Sequence != other {
		t.Errorf("s.b holds %+v, %v, want sequence %d", m, err, other)
	}
	if err := store.Purge(t.Context(), "S", "s.>", 0); err == nil {
		t.Error("a purge without a bound was done")
	}
	err = store.Purge(t.Context(), "NONE", "s.>", 1)
	if server, ok := errors.AsType[*journal.ServerError](err); !ok || server.Code != 404 {
		t.Errorf("purge of a stream that is not there: %v", err)
	}
}

// TestDeleteEach: what a consumer has delivered and nobody has acked comes again, whatever is removed beside it and acked
// after it.
func TestDeleteEach(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>", "other"}}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	config := jetstream.ConsumerConfig{Durable: "c", FilterSubject: "s.>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour}
	consumer, err := js.CreateConsumer(t.Context(), "S", config)
	if err != nil {
		t.Fatal(err)
	}
	take := func() jetstream.Msg {
		t.Helper()
		m, err := consumer.Next(jetstream.FetchMaxWait(natstest.Patience))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, subject := range []string{"other", "s.held", "s.gone", "s.acked", "s.gone"} {
		if _, err := store.Publish(t.Context(), subject, nil, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if take().Subject() != "s.held" || take().Subject() != "s.gone" {
		t.Fatal("the consumer delivers out of order")
	}
	for range 2 { // the second time nothing is there to remove
		if err := store.DeleteEach(t.Context(), "S", "s.gone", 5); err != nil {
			t.Fatal(err)
		}
	}
	if err := take().DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := take(); m.Subject() != "s.gone" { // the one behind the bound
		t.Errorf("the consumer delivers %s, want the message that was kept", m.Subject())
	}
	config.AckWait = 500 * time.Millisecond // now it may come again
	if _, err := js.UpdateConsumer(t.Context(), "S", config); err != nil {
		t.Fatal(err)
	}
	if m := take(); m.Subject() != "s.held" {
		t.Errorf("the consumer delivers %s, want what was not acked", m.Subject())
	}
	if err := store.DeleteEach(t.Context(), "S", "s.>", 0); err == nil {
		t.Error("messages were deleted without a bound")
	}
}

// TestDelete takes one message out of a work queue whose consumer has delivered it: it is not delivered again.
func TestDelete(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Retention: jetstream.WorkQueuePolicy})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := store.Publish(t.Context(), "s.a", nil, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := consumer.Fetch(3); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is gone
		if err := store.Delete(t.Context(), "S", 2); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Delete(t.Context(), "S", 99); err != nil {
		t.Errorf("delete of what never was: %v", err)
	}
	for from, want := range map[uint64]uint64{1: 1, 2: 3} {
		if m, err := store.NextFromLeader(t.Context(), "S", "s.a", from); err != nil || m.Sequence != want {
			t.Errorf("first from %d is %+v, %v, want sequence %d", from, m, err, want)
		}
	}
	natstest.Eventually(t, natstest.Patience, "the consumer forgets it", func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumAckPending == 2
	})
	err = store.Delete(t.Context(), "NONE", 1)
	if server, ok := errors.AsType[*journal.ServerError](err); !ok || server.Code != 404 {
		t.Errorf("delete in a stream that is not there: %v", err)
	}
}

// TestStateAndPurgeAll: a stream says what it holds, and lets go of its beginning.
func TestStateAndPurgeAll(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *journal.Store) {
		begin := time.Now()
		for range 5 {
			if _, err := s.Publish(t.Context(), subject("a"), nil, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		before, err := s.State(t.Context(), stream)
		if err != nil || before.First != 1 || before.Last != 5 || before.Messages != 5 || before.Bytes == 0 ||
			before.FirstTime.Before(begin) || before.Now.Before(before.FirstTime) {
			t.Fatalf("the stream says %+v, %v", before, err)
		}
		if err := s.PurgeAll(t.Context(), stream, 4); err != nil {
			t.Fatal(err)
		}
		after, err := s.State(t.Context(), stream)
		if err != nil || after.First != 4 || after.Last != 5 || after.Messages != 2 || after.Bytes >= before.Bytes {
			t.Errorf("after a purge, it says %+v, %v", after, err)
		}
		if err := s.PurgeAll(t.Context(), stream, 0); err == nil {
			t.Error("a purge without a bound was done")
		}
		if _, err := s.State(t.Context(), "NONE"); !errors.Is(err, journal.ErrNoStream) {
			t.Errorf("the state of a stream that is not there: %v", err)
		}
	})
}

func TestAppendWithHeaders(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowRollup: true}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	header := nats.Header{"Nats-Rollup": {"sub"}}
	first, err := store.AppendWith(t.Context(), "S", "s.a", 0, header, []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if len(header) != 1 {
		t.Errorf("the caller's headers were changed: %v", header)
	}
	second, err := store.AppendWith(t.Context(), "S", "s.a", first, header, []byte("2"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := store.NextFromLeader(t.Context(), "S", "s.a", 1); err != nil || m.Sequence != second {
		t.Errorf("the rollup left %+v, %v", m, err)
	}
	if _, err := store.AppendWith(t.Context(), "S", "s.a", first, header, []byte("3")); !errors.Is(err, journal.ErrConflict) {
		t.Errorf("append after an old message: %v", err)
	}
}
