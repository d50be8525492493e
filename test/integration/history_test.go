package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// history follows every revision of every record of a project's agents, from before the first, and holds each against the
// one before it. What it finds is the truth of the stream, whatever hosts believe.
type history struct {
	mu       sync.Mutex // guards what follows
	last     map[string]revision
	sequence uint64 // of the newest revision seen
	count    int
	takes    int
	// holes are revisions that were replaced before they were seen: which agents' they were is not known.
	holes  []uint64
	broken []string
}

// revision is a record as it was once stored.
type revision struct {
	protocol.Record
	sequence uint64
	notes    []string
}

// follow starts to read the history of the world's agents.
func (w *world) follow() *history {
	w.t.Helper()
	h := &history{last: map[string]revision{}}
	bucket := protocol.AgentsBucket(w.name)
	consumer, err := w.js.OrderedConsumer(w.t.Context(), protocol.KVStream(bucket), jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	reading, err := consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			w.t.Errorf("history: %v", err)
			return
		}
		h.add(strings.TrimPrefix(m.Subject(), protocol.KVSubject(bucket, "")), meta.Sequence.Stream, m.Data())
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(reading.Stop)
	return h
}

func (h *history) add(agent string, sequence uint64, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if sequence <= h.sequence {
		return // an ordered consumer that began anew
	}
	for missed := h.sequence + 1; missed < sequence; missed++ {
		h.holes = append(h.holes, missed)
	}
	h.sequence = sequence
	next := revision{sequence: sequence}
	err := json.Unmarshal(body, &next.Record)
	if err == nil && next.State != nil {
		err = json.Unmarshal(next.State, &next.notes)
	}
	if err != nil {
		h.complain("%s at %d: %v", agent, sequence, err)
		return
	}
	took := next.Epoch == 0
	if took {
		next.Epoch = sequence
		h.takes++
	}
	if next.Life == 0 {
		next.Life = sequence
	}
	if before, known := h.last[agent]; known {
		for _, why := range h.compare(before, next, took) {
			h.complain("%s from %d to %d: %s", agent, before.sequence, sequence, why)
		}
	}
	h.last[agent] = next
	h.count++
}

// moved reports whether agents were taken from other hosts.
func (h *history) moved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.takes > len(h.last)
}

func (h *history) complain(format string, args ...any) {
	h.broken = append(h.broken, fmt.Sprintf(format, args...))
}

// compare says what is wrong with the step from one revision to the next that was seen.
func (h *history) compare(a, b revision, took bool) (wrong []string) {
	missed := 0 // at most so many revisions of this agent
	for _, hole := range h.holes {
		if hole > a.sequence && hole < b.sequence {
			missed++
		}
	}
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if a.Life != b.Life {
		if a.Turn > 0 {
			say("another life after %d turns", a.Turn)
		}
		return wrong
	}
	turns := uint64(1 + missed)
	switch {
	case b.Epoch < a.Epoch:
		say("owner %s writes in epoch %d after epoch %d of %s", b.Owner, b.Epoch, a.Epoch, a.Owner)
	case b.Epoch == a.Epoch && took:
		say("taken without another epoch")
	case b.Epoch == a.Epoch && b.Owner != "" && b.Owner != a.Owner:
		say("owners %q and %q in epoch %d", a.Owner, b.Owner, b.Epoch)
	case b.Epoch > a.Epoch && !took && missed == 0:
		say("epoch %d begins with a turn of %s", b.Epoch, b.Owner)
	}
	if took && missed == 0 {
		turns = 0
	}
	if b.Turn < a.Turn || b.Turn > a.Turn+turns {
		say("turn %d after turn %d, with at most %d turns in between", b.Turn, a.Turn, turns)
	}
	if len(b.notes) < len(a.notes) || !slices.Equal(a.notes, b.notes[:len(a.notes)]) {
		say("notes are lost: %q was followed by %q", tail(a.notes), tail(b.notes))
	}
	return wrong
}

func tail(notes []string) []string { return notes[max(0, len(notes)-5):] }

// upTo waits until the history has everything that is stored.
func (h *history) upTo(w *world) {
	w.t.Helper()
	var last uint64
	eventually(w.t, patience, "the end of the stream is known", func() bool {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		defer cancel()
		s, err := w.js.Stream(ctx, protocol.KVStream(protocol.AgentsBucket(w.name)))
		if err == nil {
			last = s.CachedInfo().State.LastSeq
		}
		return err == nil
	})
	eventually(w.t, patience, "the history is read to its end", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.sequence >= last
	})
}

// report fails the test for everything that is wrong.
func (h *history) report(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, why := range h.broken {
		if i == 20 {
			t.Errorf("and %d more", len(h.broken)-i)
			break
		}
		t.Error(why)
	}
}
