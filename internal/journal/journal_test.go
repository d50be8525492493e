package journal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

const stream = "WORKFLOWS_p"

func subject(id string) string {
	return protocol.Instance{Project: "p", Workflow: "w", ID: id}.LogSubject()
}

func open(t testing.TB, nc *nats.Conn, replicas int) *journal.Store {
	t.Helper()
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{Replicas: replicas}); err != nil {
		t.Fatal(err)
	}
	s, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// onBoth runs a test on one server and on a cluster of three.
func onBoth(t *testing.T, test func(t *testing.T, s *journal.Store)) {
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, natstest.Start(t).Connect(t), 1))
	})
	t.Run("three servers", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, natstest.StartCluster(t, 3).Connect(t), 3))
	})
}

func TestAppendComparesWithTheTail(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *journal.Store) {
		ctx := t.Context()
		first, err := s.Append(ctx, stream, subject("a"), 0, []byte("1"))
		if err != nil {
			t.Fatal(err)
		}
		second, err := s.Append(ctx, stream, subject("a"), first, []byte("2"))
		if err != nil || second <= first {
			t.Fatalf("second append: %d after %d, %v", second, first, err)
		}
		for _, stale := range []uint64{0, first, second + 1} {
			_, err := s.Append(ctx, stream, subject("a"), stale, []byte("3"))
			conflict, ok := errors.AsType[*journal.ConflictError](err)
			if !ok || !errors.Is(err, journal.ErrConflict) || conflict.Tail == nil || conflict.Tail.Sequence != second {
				t.Errorf("append after %d: %v, want a conflict that shows the tail %d", stale, err, second)
			}
		}
		if m, err := s.Last(ctx, stream, subject("a")); err != nil || string(m.Data) != "2" {
			t.Errorf("the tail is %v, %v", m, err)
		}
	})
}

// TestRepeatedAppendIsSettled is what a lost answer looks like: the same body again with the same expectation.
func TestRepeatedAppendIsSettled(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *journal.Store) {
		first, err := s.Append(t.Context(), stream, subject("a"), 0, []byte("mine"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.Append(t.Context(), stream, subject("a"), 0, []byte("mine"))
		if err != nil || again != first {
			t.Errorf("the same append again: %d, %v; want %d", again, err, first)
		}
		if _, err := s.Append(t.Context(), stream, subject("a"), 0, []byte("other")); !errors.Is(err, journal.ErrConflict) {
			t.Errorf("another append: %v, want a conflict", err)
		}
	})
}

func TestOneOfManyWins(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *journal.Store) {
		var won, lost atomic.Int32
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				_, err := s.Append(t.Context(), stream, subject("a"), 0, fmt.Appendf(nil, "writer %d", i))
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, journal.ErrConflict):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || lost.Load() != 49 {
			t.Errorf("%d won, %d lost; want 1 and 49", won.Load(), lost.Load())
		}
	})
}

func TestAppendOutlivesTheServer(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	s := open(t, server.Connect(t), 1)
	server.Stop(t)
	done := make(chan error, 1)
	go func() {
		_, err := s.Append(t.Context(), stream, subject("a"), 0, []byte("1"))
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("append without a server: %v", err)
	case <-time.After(50 * time.Millisecond): // it must still be trying
	}
	server.Start(t)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(natstest.Patience):
		t.Fatal("the append does not come through after the server is back")
	}
}

func TestAppendSaysThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	s := open(t, server.Connect(t), 1)
	server.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Append(ctx, stream, subject("a"), 0, []byte("1")); !errors.Is(err, journal.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("append given up: %v, want ErrUnknownOutcome with the cause", err)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t).Connect(t), 1)
	if _, err := s.Append(t.Context(), stream, subject("a"), 0, bytes.Repeat([]byte("x"), 1<<20+1)); !errors.Is(err, journal.ErrTooLarge) {
		t.Errorf("append of more than a message takes: %v, want ErrTooLarge", err)
	}
	if _, err := s.Last(t.Context(), stream, subject("a")); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("something is stored: %v", err)
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *journal.Store) {
		ctx := t.Context()
		var tails []uint64
		for _, id := range []string{"a", "b"} {
			tail := uint64(0)
			for i := range 20 {
				var err error
				if tail, err = s.Append(ctx, stream, subject(id), tail, fmt.Appendf(nil, "%s%d", id, i)); err != nil {
					t.Fatal(err)
				}
			}
			tails = append(tails, tail)
		}
		var batch journal.Batch
		natstest.Eventually(t, natstest.Patience, "a replica has everything", func() bool {
			var err error
			batch, err = s.LastOfMany(ctx, stream, []string{subject("a"), subject("b"), subject("none")})
			if err != nil {
				t.Fatal(err)
			}
			return batch.UpTo >= tails[1]
		})
		if len(batch.Messages) != 2 || batch.Messages[0].Sequence != tails[0] || string(batch.Messages[1].Data) != "b19" {
			t.Errorf("the tails are %v", batch.Messages)
		}
		pageFrom := func(from uint64, n int) (page []journal.Message, more bool) { // any replica answers, and may be behind
			t.Helper()
			natstest.Eventually(t, natstest.Patience, "a replica has the page", func() bool {
				var err error
				if page, more, err = s.Page(ctx, stream, subject("a"), from, 16); err != nil {
					t.Fatal(err)
				}
				return len(page) >= n && (more || n < 16)
			})
			return page, more
		}
		page, more := pageFrom(1, 16)
		if !more || len(page) != 16 || string(page[0].Data) != "a0" {
			t.Errorf("first page: %d messages, more %v", len(page), more)
		}
		page, more = pageFrom(page[15].Sequence+1, 4)
		if more || len(page) != 4 || string(page[3].Data) != "a19" {
			t.Errorf("second page: %d messages, more %v", len(page), more)
		}
		if m, err := s.NextFromLeader(ctx, stream, subject("b"), tails[0]+1); err != nil || string(m.Data) != "b0" {
			t.Errorf("next from the leader: %v, %v", m, err)
		}
		if page, more, err := s.Page(ctx, stream, subject("none"), 1, 16); err != nil || more || len(page) != 0 {
			t.Errorf("page of nothing: %v, %v, %v", page, more, err)
		}
		if b, err := s.LastOfMany(ctx, stream, []string{subject("none")}); err != nil || b.UpTo != 0 || len(b.Messages) != 0 {
			t.Errorf("tails of nothing: %v, %v", b, err)
		}
		if _, err := s.Last(ctx, stream, subject("none")); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("last of nothing: %v", err)
		}
	})
}

// TestSoleWriterIsNeverRefused appends as fast as it can on three servers while the leader moves: an answer may be
// lost or no verdict (10164), but a sole writer has no rival.
func TestSoleWriterIsNeverRefused(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	s := open(t, cluster.Connect(t), 3)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var appended atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			for tail, n := uint64(0), 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				body, _ := json.Marshal(map[string]int{"writer": i, "n": n})
				var err error
				if tail, err = s.Append(t.Context(), stream, subject(fmt.Sprint(i)), tail, body); err != nil {
					t.Error(err)
					return
				}
				appended.Add(1)
			}
		})
	}
	for range 3 {
		before := appended.Load()
		cluster.MoveLeader(t, stream)
		natstest.Eventually(t, natstest.Patience, "appends go on after the leader moved", func() bool { return appended.Load() > before+100 })
	}
	close(stop)
	wg.Wait()
	for i := range 4 {
		next := 0
		for from := uint64(1); ; {
			page, more, err := s.Page(t.Context(), stream, subject(fmt.Sprint(i)), from, 256)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range page {
				var body struct{ N int }
				if err := json.Unmarshal(m.Data, &body); err != nil || body.N != next {
					t.Fatalf("writer %d: %s is at the place of %d", i, m.Data, next)
				}
				next++
				from = m.Sequence + 1
			}
			if !more {
				break
			}
		}
	}
}
