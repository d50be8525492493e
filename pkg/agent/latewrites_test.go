package agent

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// overheard are requests that were sent to a bucket, to come once more.
type overheard struct {
	*testing.T
	nc *nats.Conn

	mu       sync.Mutex // guards requests
	requests []*nats.Msg
}

func overhear(t *testing.T, nc *nats.Conn, bucket string) *overheard {
	t.Helper()
	o := &overheard{T: t, nc: nc}
	for _, subject := range []string{protocol.KVSubject(bucket, ">"), "$JS.API.STREAM.PURGE." + protocol.KVStream(bucket)} {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.requests = append(o.requests, m)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// late sends all of it again when that many requests were heard, the newest first, as a network that was cut does with what it has kept.
func (o *overheard) late(many int) {
	o.Helper()
	var requests []*nats.Msg
	natstest.Eventually(o.T, soon, fmt.Sprint(many, " requests are heard"), func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		requests = slices.Clone(o.requests)
		return len(requests) >= many
	})
	for _, m := range slices.Backward(requests) {
		ctx, cancel := context.WithTimeout(o.Context(), soon)
		_, err := o.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
		cancel()
		if err != nil {
			o.Fatal(err)
		}
	}
}

// TestLateWritesTakeNothingAway: what a host has written of a row, or removed it with, may come a second time when the row is another one.
func TestLateWritesTakeNothingAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.idleHost(t)
	t.Run("sockets at a host", func(t *testing.T) {
		connections := overhear(t, r.nc, protocol.ConnectionsBucket(testProject))
		enlist := func(ids map[uint64]string) {
			t.Helper()
			if err := (socketHost{h}).Enlist(t.Context(), agentNamed("jo"), 0, ids); err != nil {
				t.Fatal(err)
			}
		}
		enlist(map[uint64]string{1: "one"})
		enlist(nil)
		enlist(map[uint64]string{2: "two"})
		enlist(map[uint64]string{2: "two", 3: "three"})
		connections.late(4)
		if ids, err := h.idsAt(t.Context(), h.id, agentNamed("jo")); err != nil || !maps.Equal(ids, map[uint64]string{2: "two", 3: "three"}) {
			t.Errorf("the rows have %v, %v", ids, err)
		}
		rows := bucketOf(protocol.ConnectionsBucket(testProject))
		if err := h.store.Purge(t.Context(), rows.stream, rows.subject(protocol.ConnectionsKeys(h.id)), math.MaxUint64); err != nil {
			t.Fatal(err)
		}
		enlist(map[uint64]string{4: "four"}) // the rows were taken away, as those of a host that is held for lost
		if ids, err := h.idsAt(t.Context(), h.id, agentNamed("jo")); err != nil || !maps.Equal(ids, map[uint64]string{4: "four"}) {
			t.Errorf("the rows have %v, %v", ids, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := (socketHost{h}).Enlist(ctx, agentNamed("jo"), 0, map[uint64]string{4: "four", 5: "five"}); err == nil {
			t.Error("what is given up is no error")
		}
		enlist(nil)
		if ids, err := h.idsAt(t.Context(), h.id, agentNamed("jo")); err != nil || len(ids) > 0 {
			t.Errorf("the rows have %v, %v", ids, err)
		}
	})
	t.Run("schedule", func(t *testing.T) {
		bucket := bucketOf(protocol.SchedulesBucket(testProject))
		subject := bucket.subject(protocol.ScheduleKey("Desk", "jo", "tea"))
		rows := overhear(t, r.nc, protocol.SchedulesBucket(testProject))
		var newest *journal.Message
		put := func(body string) {
			t.Helper()
			expected := uint64(0)
			if newest != nil {
				expected = newest.Sequence
			}
			if _, err := h.store.Append(t.Context(), bucket.stream, subject, expected, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		put(`{"id":"tea"}`)
		if err := dropRow(t.Context(), h.store, h.name, subject, anyLife); err != nil {
			t.Fatal(err)
		}
		var err error
		if newest, err = h.store.Last(t.Context(), bucket.stream, subject); err != nil || newest.Header.Get(protocol.HeaderKVOperation) != protocol.KVDelete {
			t.Fatalf("after the row was dropped there is %v, %v", newest, err)
		}
		put(`{"id":"tea","again":true}`)
		rows.late(3)
		if m, err := h.store.Last(t.Context(), bucket.stream, subject); err != nil || string(m.Data) != `{"id":"tea","again":true}` {
			t.Errorf("the row is %v, %v", m, err)
		}
		if err := dropRow(t.Context(), h.store, h.name, subject, anyLife); err != nil {
			t.Fatal(err)
		}
		if err := dropRow(t.Context(), h.store, h.name, subject, anyLife); err != nil {
			t.Errorf("a row that is gone: %v", err)
		}
	})
}
