package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
)

// writer appends to a log of its own. What was acknowledged is in appended.
type writer struct {
	subject  string
	appended []uint64
	n        atomic.Int64 // of appended, for others to see
}

func (w *writer) append(t *testing.T, s *journal.Store) bool {
	sequence, err := s.Append(t.Context(), stream, w.subject, w.tail(), w.body(len(w.appended)))
	if err != nil {
		t.Errorf("append %d to %s: %v", len(w.appended), w.subject, err)
		return false
	}
	w.appended = append(w.appended, sequence)
	w.n.Add(1)
	return true
}

func (w *writer) body(n int) []byte { return fmt.Appendf(nil, "%s %d", w.subject, n) }

func (w *writer) tail() uint64 {
	if len(w.appended) == 0 {
		return 0
	}
	return w.appended[len(w.appended)-1]
}

// read returns the sequences of the log as the leader has it.
func (w *writer) read(t *testing.T, s *journal.Store) (sequences []uint64) {
	t.Helper()
	for next := uint64(1); ; {
		m, err := s.NextFromLeader(t.Context(), stream, w.subject, next)
		if errors.Is(err, journal.ErrNotFound) {
			return sequences
		}
		if err != nil {
			t.Fatal(err)
		}
		if body := w.body(len(sequences)); !bytes.Equal(m.Data, body) {
			t.Errorf("message %d is %q, want %q", m.Sequence, m.Data, body)
		}
		sequences, next = append(sequences, m.Sequence), m.Sequence+1
	}
}

// TestDiskIsLost: the leader of the stream loses its disk while logs are written, and comes back with nothing. When it is healthy again,
// another server may be stopped: with that of the lost disk as the leader, everything is there that was ever acknowledged, once, and logs go on.
func TestDiskIsLost(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	s := open(t, cluster.Connect(t), 3)
	writers := make([]*writer, 4)
	stopped, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for i := range writers {
		w := &writer{subject: subject(fmt.Sprint("w", i))}
		writers[i] = w
		wg.Go(func() {
			for w.append(t, s) && ctxtime.Sleep(stopped, 5*time.Millisecond) == nil {
			}
		})
	}
	more := func(when string) {
		t.Helper()
		for _, w := range writers {
			from := w.n.Load()
			natstest.Eventually(t, natstest.Patience, "logs go on "+when, func() bool { return t.Failed() || w.n.Load() >= from+20 })
		}
	}
	more("before the disk is lost")
	victim := slices.Index(cluster.Servers, cluster.Leader(t, stream))
	cluster.LoseDisk(t, victim)
	more("when it is lost")
	cluster.AwaitHealthy(t, victim)
	cluster.Stop(t, (victim+1)%3)
	more("with two servers")
	if cluster.Leader(t, stream) != cluster.Servers[victim] {
		cluster.MoveLeader(t, stream)
	}
	more("with the server of the lost disk as the leader")
	stop()
	wg.Wait()
	for _, w := range writers {
		got := w.read(t, s)
		if !slices.Equal(got, w.appended) {
			t.Errorf("%s: %d entries were acknowledged, there are %d, or not the same", w.subject, len(w.appended), len(got))
		}
		t.Logf("%s: %d entries", w.subject, len(got))
	}
}
