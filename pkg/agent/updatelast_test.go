package agent

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// boundsOf is what the scheduler has of a schedule of the desk "jo" that fires by the row as it is.
func (r *rig) boundsOf(t *testing.T, id string) string {
	t.Helper()
	var row protocol.Schedule
	r.awaitRow(t, id, &row)
	bounds, err := row.Bounds()
	if err != nil {
		t.Fatal(err)
	}
	return bounds
}

// TestExtendedAsItsLastFiringIsMailed updates a schedule between the mail that says that it is over and the scheduler's next look
// at the row: then the scheduler goes on, and so does the agent, until it is told again.
func TestExtendedAsItsLastFiringIsMailed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(updating(func(*desk) []UpdateOption { return []UpdateOption{Times(3)} })))
	id, life := h.schedule(t, r, "?cron", "x")
	last := func(number uint64, bounds string) {
		t.Helper()
		m := firing(id, life, number, strconv.FormatUint(number, 10))
		m.Last, m.Bounds = true, bounds
		r.mail(t, "jo", testProject, m)
		r.inboxEmpty(t)
	}
	before := r.boundsOf(t, id)
	if _, body := h.call(t, http.MethodPut, "/agents/desk/jo?id="+id, ""); body != "true" {
		t.Fatalf("updated: %s", body)
	}
	r.awaitRecord(t, "jo", "the row is updated", func(protocol.Record) bool { return r.boundsOf(t, id) != before })
	last(1, before)
	last(1, before) // a copy
	last(2, before) // of a scheduler that has not seen the update
	if record, _ := r.record(t, "jo"); record.Seen[protocol.ScheduleSource(id)] != numbered(2) {
		t.Errorf("the record knows %v", record.Seen)
	}
	last(3, r.boundsOf(t, id))
	if record, _ := r.record(t, "jo"); len(record.Seen) != 0 {
		t.Errorf("the record knows %v when it is over", record.Seen)
	}
	h.expect(t, "/agents/desk/jo", 200, "1,2,3")
}

// TestUpdateInTheLastFiring: the schedule is over, whether the scheduler has taken its row away by then or not.
func TestUpdateInTheLastFiring(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = showLog
		d.ring = func(ctx context.Context, d *desk, _ string) error {
			m, _ := Firing(ctx)
			found, err := UpdateSchedule(ctx, m.Schedule, Jitter(1))
			return errors.Join(err, d.Note(ctx, strconv.FormatBool(found)))
		}
	}))
	id, life := h.schedule(t, r, "?cron", "x")
	ring := firing(id, life, 1, "x")
	ring.Callback, ring.Last, ring.Bounds = "Ring", true, r.boundsOf(t, id)
	r.mail(t, "jo", testProject, ring)
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "false")
	if record, _ := r.record(t, "jo"); len(record.Seen) != 0 {
		t.Errorf("the record knows %v", record.Seen)
	}
}

// TestUpdateOfWhatHasEnded takes a row away while a turn is about to change it. A scheduler would count anew from it.
func TestUpdateOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	refused := make(chan error, 1)
	key := func(id string) string { return protocol.ScheduleKey("Desk", "jo", id) }
	taken := func(ctx context.Context, id string) error { // as by a scheduler
		header := nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}
		_, err := r.store.Publish(ctx, bucketOf(protocol.SchedulesBucket(testProject)).subject(key(id)), header, nil)
		return err
	}
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodPost {
				return showLog(d, w, q)
			}
			id := q.URL.Query().Get("id")
			if found, err := UpdateSchedule(q.Context(), id, Times(3)); err != nil || !found {
				t.Errorf("updated: %t, %v", found, err)
			}
			return taken(q.Context(), id)
		}
		d.failed = func(_ context.Context, _ *desk, err error) error { refused <- err; return nil }
	}))
	id, _ := h.schedule(t, r, "?cron", "x")
	r.boundsOf(t, id)
	h.call(t, http.MethodPut, "/agents/desk/jo?id="+id, "")
	select {
	case err := <-refused:
		if _, ok := errors.AsType[*RefusedError](err); !ok || !errors.Is(err, ErrNoSchedule) {
			t.Errorf("OnError got %v", err)
		}
	case <-time.After(soon):
		t.Error("OnError is not told")
	}
	if row := r.row(t, protocol.SchedulesBucket(testProject), key(id)); row != nil {
		t.Errorf("the row is %s", row)
	}
}
