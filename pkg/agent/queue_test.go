package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func numbers(items []QueueItem) (numbers []uint64) {
	for _, i := range items {
		numbers = append(numbers, i.number)
	}
	return numbers
}

// TestQueueOfOneTurn holds what a draft makes of its queue, without a host.
func TestQueueOfOneTurn(t *testing.T) {
	t.Parallel()
	a := &desk{}
	stored := protocol.Record{Life: 3, Turn: 4, Seen: map[string]uint64{protocol.SourceQueue: 2}, Queue: &protocol.Queue{Last: 2}}
	ctx, d := turnOf(t, desks(nil)[0], a, stored)
	var ids []string
	for n := range 5 {
		callback := a.Note
		if n == 3 {
			callback = a.Ring
		}
		item, err := Queue(ctx, callback, fmt.Sprint(n))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, item.ID)
	}
	if want := []string{"3.5.1", "3.5.2", "3.5.3", "3.5.4", "3.5.5"}; !slices.Equal(ids, want) {
		t.Errorf("ids %v, want %v: of life, turn and position", ids, want)
	}
	expect := func(what string, done uint64, cancelled []uint64, waiting ...uint64) {
		t.Helper()
		items, err := ListQueue(ctx)
		if err != nil || !slices.Equal(numbers(items), waiting) {
			t.Errorf("%s: items %v, %v; want %v", what, numbers(items), err, waiting)
		}
		next, _ := d.next("c", time.Now())
		if next.Seen[protocol.SourceQueue] != done || !slices.Equal(next.Queue.Cancelled, cancelled) || next.Queue.Last != 7 {
			t.Errorf("%s: record has %d done and queue %+v; want %d and %v cancelled", what, next.Seen[protocol.SourceQueue], next.Queue, done, cancelled)
		}
	}
	expect("queued", 2, nil, 3, 4, 5, 6, 7)
	if found, err := Dequeue(ctx, ids[1]); !found || err != nil {
		t.Errorf("Dequeue = %v, %v", found, err)
	}
	if found, err := Dequeue(ctx, ids[1]); found || err != nil {
		t.Errorf("Dequeue again = %v, %v", found, err)
	}
	expect("one from the middle", 2, []uint64{4}, 3, 5, 6, 7)
	if n, err := DequeueCallback(ctx, a.Ring); n != 1 || err != nil {
		t.Errorf("DequeueCallback = %d, %v", n, err)
	}
	expect("those of a callback", 2, []uint64{4, 6}, 3, 5, 7)
	if found, err := Dequeue(ctx, ids[0]); !found || err != nil {
		t.Errorf("Dequeue of the first = %v, %v", found, err)
	}
	expect("the first", 4, []uint64{6}, 5, 7)
	if n, err := DequeueAll(ctx); n != 2 || err != nil {
		t.Errorf("DequeueAll = %d, %v", n, err)
	}
	expect("all", 7, nil)
	if stored.Queue.Last != 2 || stored.Queue.Cancelled != nil || stored.Seen[protocol.SourceQueue] != 2 {
		t.Errorf("the stored record was changed: %+v", stored)
	}
}

func TestQueueRefuses(t *testing.T) {
	t.Parallel()
	a := &desk{}
	class := desks(nil)[0]
	ctx, d := turnOf(t, class, a, protocol.Record{Life: 1})
	_, err := Queue(ctx, a.Note, strings.Repeat("x", protocol.MaxPayload))
	if refused, ok := errors.AsType[*QueueError](err); !ok || refused.Field != "payload" {
		t.Errorf("Queue with a large payload = %v, want a QueueError", err)
	}
	_, err = Queue(ctx, a.Note, "x", Retry{MaxAttempts: -1})
	if _, ok := errors.AsType[*RetryError](err); !ok {
		t.Errorf("Queue with a Retry that cannot be = %v, want a RetryError", err)
	}
	for _, callback := range []func(context.Context, string) error{nil, plainFunction, (&fancy{}).Plain, func(context.Context, string) error { return nil }} {
		_, err = Queue(ctx, callback, "x")
		if _, ok := errors.AsType[*CallbackError](err); !ok {
			t.Errorf("Queue of what is no method of the agent = %v, want a CallbackError", err)
		}
		if _, err = DequeueCallback(ctx, callback); err == nil {
			t.Error("DequeueCallback of what is no method of the agent is no mistake")
		}
	}
	if len(d.out) != 0 {
		t.Errorf("draft has %+v, want nothing", d.out)
	}
	full, _ := turnOf(t, class, a, protocol.Record{Life: 1, Seen: map[string]uint64{protocol.SourceQueue: 5}, Queue: &protocol.Queue{Last: 5 + protocol.MaxWaiting}})
	_, err = Queue(full, a.Note, "x")
	if _, ok := errors.AsType[*InboxFullError](err); !ok {
		t.Errorf("Queue beyond the limit = %v, want an InboxFullError", err)
	}
	if _, err := ListQueue(t.Context()); !errors.Is(err, ErrNoTurn) {
		t.Errorf("ListQueue outside of a turn = %v, want ErrNoTurn", err)
	}
}

// queueing answers a POST by queueing what its body names, one line each, and a DELETE by dequeuing an id or all. A GET
// shows the log.
func queueing(d *desk, w http.ResponseWriter, r *http.Request) error {
	switch r.Method {
	case http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		var items []QueueItem
		for line := range strings.FieldsSeq(string(body)) {
			callback := d.Note
			if strings.HasPrefix(line, "ring") {
				callback = d.Ring
			}
			item, err := Queue(r.Context(), callback, line)
			if err != nil {
				return err
			}
			items = append(items, item)
		}
		return json.NewEncoder(w).Encode(items)
	case http.MethodDelete:
		if id := r.URL.Query().Get("id"); id != "" {
			found, err := Dequeue(r.Context(), id)
			if err != nil {
				return err
			}
			return json.NewEncoder(w).Encode(found)
		}
		n, err := DequeueAll(r.Context())
		if err != nil {
			return err
		}
		return json.NewEncoder(w).Encode(n)
	case http.MethodPut:
		items, err := ListQueue(r.Context())
		if err != nil {
			return err
		}
		return json.NewEncoder(w).Encode(items)
	}
	return showLog(d, w, r)
}

func TestQueueIsOneLaneInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var failures atomic.Int32
	h := r.host(t, desks(func(d *desk) {
		d.request = queueing
		d.ring = func(ctx context.Context, d *desk, text string) error {
			if text == "ring-dead" || failures.Add(1) < 3 {
				return errors.New("no luck")
			}
			return d.Note(ctx, text)
		}
	}, Retry{MaxAttempts: 3, BaseDelay: 1, MaxDelay: 1}))
	h.call(t, http.MethodPost, "/agents/desk/jo", "a b ring-late c")
	h.call(t, http.MethodPost, "/agents/desk/jo", "ring-dead d e")
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "a,b,ring-late,c,d,e")
	record, _ := r.record(t, "jo")
	if record.Seen[protocol.SourceQueue] != 7 || record.Queue.Last != 7 || len(record.Queue.Cancelled)+len(record.Parked) != 0 {
		t.Errorf("record %+v, want 7 items done and nothing left", record)
	}
	dead := list(t, r.letters(t), DeadFilter{})
	if len(dead) != 1 || dead[0].Source != protocol.SourceQueue || string(dead[0].Payload) != `"ring-dead"` {
		t.Errorf("dead letters %+v, want that of the item that failed", dead)
	}
}

// TestDequeuedItemsAreNotApplied dequeues items that are in the inbox already, while the first is being worked on and
// another waits for its next attempt.
func TestDequeuedItemsAreNotApplied(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	began, release := make(chan struct{}), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = queueing
		d.ring = func(ctx context.Context, d *desk, text string) error {
			if text == "ring-fail" {
				return errors.New("no luck")
			}
			err := Outside(ctx, func(ctx context.Context) error {
				close(began)
				select {
				case <-release:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
			if err != nil {
				return err
			}
			return d.Note(ctx, text)
		}
	}, never))
	var items, listed []QueueItem
	_, body := h.call(t, http.MethodPost, "/agents/desk/jo", "ring-first a ring-fail b c")
	if err := json.Unmarshal([]byte(body), &items); err != nil {
		t.Fatal(err)
	}
	<-began
	_, body = h.call(t, http.MethodPut, "/agents/desk/jo", "") // from the inbox
	if err := json.Unmarshal([]byte(body), &listed); err != nil || len(listed) != 5 || listed[4].ID != items[4].ID ||
		listed[1].Callback != "Note" || string(listed[1].Payload) != `"a"` || !listed[1].Created.Equal(items[1].Created) {
		t.Errorf("list %+v, %v; want the items %+v", listed, err, items)
	}
	for _, test := range []struct{ id, want string }{{items[1].ID, "true"}, {items[1].ID, "false"}, {"1.1.99", "false"}} {
		if _, found := h.call(t, http.MethodDelete, "/agents/desk/jo?id="+test.id, ""); found != test.want {
			t.Errorf("Dequeue(%s) = %s, want %s", test.id, found, test.want)
		}
	}
	close(release)
	r.awaitRecord(t, "jo", "the failing item is parked", func(p protocol.Record) bool { return len(p.Parked) == 1 })
	h.expect(t, "/agents/desk/jo", 200, "ring-first")
	h.call(t, http.MethodDelete, "/agents/desk/jo?id="+items[2].ID, "")
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "ring-first,b,c")
	if n := h.dropped(); n != 2 {
		t.Errorf("%d letters were dropped, want 2", n)
	}
	record, _ := r.record(t, "jo")
	if record.Seen[protocol.SourceQueue] != 5 || len(record.Queue.Cancelled)+len(record.Parked) != 0 {
		t.Errorf("record %+v, want nothing left", record)
	}
	// What is queued afterwards has new numbers, and an emptied queue leaves no trace.
	h.call(t, http.MethodPost, "/agents/desk/jo", "d")
	r.inboxEmpty(t)
	if _, n := h.call(t, http.MethodDelete, "/agents/desk/jo", ""); n != "0" {
		t.Errorf("DequeueAll of an empty queue = %s", n)
	}
	h.expect(t, "/agents/desk/jo", 200, "ring-first,b,c,d")
}

// TestDequeuedItemBehindALostOne removes an item from the inbox, as an operator may: the one behind it stays dequeued.
func TestDequeuedItemBehindALostOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", "jo"), protocol.Record{
		V: protocol.Version, Class: "Desk", Name: "jo", Life: 7, Turn: 1, Commit: "c", Seen: map[string]uint64{protocol.SourceQueue: 0},
		Queue: &protocol.Queue{Last: 3, Cancelled: []uint64{2}},
	})
	for i, text := range []string{`"dequeued"`, `"kept"`} {
		n := uint64(i + 2)
		r.mail(t, "jo", testProject, protocol.Mail{Source: protocol.SourceQueue, Number: n, Life: 7, Callback: "Note", Payload: json.RawMessage(text)})
	}
	h := r.host(t, desks(func(d *desk) { d.request = queueing }))
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "kept")
	if record, _ := r.record(t, "jo"); len(record.Queue.Cancelled) != 0 {
		t.Errorf("queue %+v, want nothing left of what was passed", record.Queue)
	}
}

// dropped is how much void mail the host has dropped, by its log.
func (h *testHost) dropped() int {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	return strings.Count(h.log.text.String(), "dropped mail")
}

// TestFullInboxHoldsUpNothingElse fills the inbox of an agent with what it queues itself.
func TestFullInboxHoldsUpNothingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) { d.request = queueing }),
		timings(func(t *timing) { t.retryFirst, t.retryMost = time.Millisecond, 20*time.Millisecond }))
	config := r.inbox(t)
	config.MaxMsgsPerSubject = 2
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	h.call(t, http.MethodPost, "/agents/desk/jo", "a b c d e f g h")
	natstest.Eventually(t, soon, "all is applied in order", func() bool {
		_, log := h.call(t, http.MethodGet, "/agents/desk/jo", "")
		return log == "a,b,c,d,e,f,g,h"
	})
}

func TestQueueOnACluster(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	r := &rig{connect: cluster.Connect}
	r.nc = cluster.Connect(t)
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	replicated := func(_ *HostService, c *project.Config) { c.Settings.Replicas = 3 }
	patient := timings(func(t *timing) { t.findWithin, t.leaseMisses = soon/2, silentForGood })
	classes := desks(func(d *desk) { d.request = queueing })
	hosts := []*testHost{r.host(t, classes, replicated, patient), r.host(t, classes, replicated, patient)}
	var want []string
	for n := range 12 {
		if n%4 == 1 {
			cluster.MoveLeader(t, protocol.InboxStream(testProject))
			cluster.MoveLeader(t, protocol.KVStream(protocol.AgentsBucket(testProject)))
		}
		a, b := fmt.Sprint(n, "a"), fmt.Sprint(n, "b")
		want = append(want, a, b)
		if status, text := hosts[n%2].call(t, http.MethodPost, "/agents/desk/jo", a+" "+b); status != 200 {
			t.Fatalf("POST = %d %s", status, text)
		}
	}
	r.inboxEmpty(t)
	hosts[0].expect(t, "/agents/desk/jo", 200, strings.Join(want, ","))
}
