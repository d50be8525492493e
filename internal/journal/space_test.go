package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
)

const room = 4 << 20

// fill stores what nobody needs until a server has no room for an append. It returns what takes that away.
func fill(t *testing.T, js jetstream.JetStream) (free func()) {
	t.Helper()
	free = ballast(t, js, 1)
	for size := 128 << 10; size >= 32; {
		_, err := js.Publish(t.Context(), "ballast.x", bytes.Repeat([]byte("x"), size))
		if _, refused := errors.AsType[*jetstream.APIError](err); refused {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return free
}

// ballast is a stream that is in the way.
func ballast(t *testing.T, js jetstream.JetStream, replicas int) (free func()) {
	t.Helper()
	natstest.Ask(t, "make ballast", func(ctx context.Context) error {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "BALLAST", Subjects: []string{"ballast.>"}, Replicas: replicas})
		return err
	})
	return func() {
		t.Helper()
		natstest.Ask(t, "free space", func(ctx context.Context) error { return js.DeleteStream(ctx, "BALLAST") })
	}
}

// TestNoSpace: what waits for room is stored when there is some, and costs little until then; who can say no is refused.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]int64{"max_file_store": room, "account": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Start(t, natstest.Adjust(func(o *server.Options) { o.JetStreamMaxStore = limit }))
			if name == "account" {
				srv.LimitAccount(t, room)
			}
			nc := srv.Connect(t)
			s := open(t, nc, 1)
			var told atomic.Int32
			s.OnSpace(func(subjects string, err error) {
				if subjects == "wf.p.>" && (err == nil) == (told.Add(1) == 1) {
					t.Errorf("told of %s: %v", subjects, err)
				}
			})
			free := fill(t, natstest.JetStream(t, nc))
			refused(t, s)
			stored := wait(t, s, 200)
			before := nc.Stats().OutMsgs
			if _, err := s.Append(journal.Refusing(t.Context()), stream, subject("late"), 0, []byte("x")); !errors.Is(err, journal.ErrNoSpace) {
				t.Errorf("append while there is no room: %v", err)
			}
			<-time.After(2 * time.Second)
			if n := nc.Stats().OutMsgs - before; n > 20 {
				t.Errorf("200 that wait for room have sent %d messages in 2 s", n)
			}
			free()
			stored()
			if _, err := s.Append(t.Context(), stream, subject("late"), 0, []byte("x")); err != nil || told.Load() != 2 {
				t.Errorf("append when there is room: %v; told %d times", err, told.Load())
			}
		})
	}
}

// refused waits until appends are refused at once, and checks that the outcome is known.
func refused(t *testing.T, s *journal.Store) {
	t.Helper()
	began := time.Now()
	_, err := s.Append(journal.Refusing(t.Context()), stream, subject("refused"), 0, []byte("x"))
	full, ok := errors.AsType[*journal.NoSpaceError](err)
	if !ok || errors.Is(err, journal.ErrUnknownOutcome) || full.Subject != subject("refused") {
		t.Fatalf("append without room: %v", err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("refused after %s, another leader might have had room", took)
	}
	if s.Full(subject("any")) == nil {
		t.Error("nobody can know that there is no room")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Append(ctx, stream, subject("late"), 0, []byte("x")); !errors.Is(err, journal.ErrNoSpace) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("append that waits for room, given up: %v", err)
	}
}

// wait lets n writers wait for room, and returns what waits until they have stored.
func wait(t *testing.T, s *journal.Store, n int) (stored func()) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := s.Append(t.Context(), stream, subject(fmt.Sprintf("waits-%d", i)), 0, []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	return func() {
		t.Helper()
		began := time.Now()
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
			t.Logf("stored %s after there was room", time.Since(began).Round(time.Millisecond))
		case <-time.After(natstest.Patience):
			t.Fatal("what waited for room is not stored")
		}
	}
}

// TestNoSpaceOnThreeServers: a server that is full leads nothing. The leader refuses once and steps down, then nobody answers.
func TestNoSpaceOnThreeServers(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3, natstest.Adjust(func(o *server.Options) { o.JetStreamMaxStore = room }))
	nc := cluster.Connect(t)
	s := open(t, nc, 3)
	js := natstest.JetStream(t, nc)
	free := ballast(t, js, 3)
	natstest.Eventually(t, natstest.Patience, "all servers are full", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, _ = js.Publish(ctx, "ballast.x", make([]byte, 128<<10)) // nobody answers when they are
		return cluster.Stored(t) > room
	})
	stored := wait(t, s, 50)
	natstest.Eventually(t, natstest.Patience, "the waiting know that there is no room, or have nobody to ask", func() bool {
		return s.Full(subject("any")) != nil || !cluster.HasLeader(stream)
	})
	free()
	stored()
}
