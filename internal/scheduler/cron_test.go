package scheduler_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// shop is a project that has runners and no agents.
const shop = "shop"

func setupShop(t *testing.T) *world {
	t.Helper()
	w := setup(t)
	w.registerShop(t)
	return w
}

func (w *world) registerShop(t *testing.T) {
	t.Helper()
	opts := streams.Options{Replicas: w.replicas}
	if err := errors.Join(
		streams.EnsureWorkflows(t.Context(), w.js, shop, 1, opts),
		streams.EnsureSchedules(t.Context(), w.js, shop, opts),
		streams.RegisterWorkflows(t.Context(), w.js, shop, 1, map[string]string{"digest": "Digest"}),
		streams.RegisterSchedules(t.Context(), w.js, shop),
	); err != nil {
		t.Fatal(err)
	}
}

// digest is a schedule of the shop's workflow; change makes it what the test needs.
func digest(line string, change func(*protocol.Schedule)) protocol.Schedule {
	s := protocol.Schedule{
		V: protocol.ScheduleVersion, ID: protocol.CronID(line, ""), Class: protocol.ClassCron, Name: "digest", Workflow: "digest",
		Kind: protocol.ScheduleCron, Cron: line, Payload: json.RawMessage(`{"n":1}`), Created: time.Now().UTC(),
	}
	change(&s)
	return s
}

// putDigest stores a row as a runner does.
func (w *world) putDigest(t *testing.T, s protocol.Schedule) {
	t.Helper()
	body, err := json.Marshal(s)
	if err == nil {
		_, err = w.store.Publish(t.Context(), digestSubject(s), nil, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func digestSubject(s protocol.Schedule) string {
	return protocol.KVSubject(protocol.SchedulesBucket(shop), protocol.ScheduleKey(protocol.ClassCron, "digest", s.ID))
}

func (w *world) dropDigest(t *testing.T, s protocol.Schedule) {
	t.Helper()
	header := nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}
	if _, err := w.store.Publish(t.Context(), digestSubject(s), header, nil); err != nil {
		t.Fatal(err)
	}
}

// digests are the creates of the shop's workflow, in their order: every message, also what is stored a second time.
func (w *world) digests(t *testing.T) []protocol.Create {
	t.Helper()
	page, more, err := w.store.Page(t.Context(), protocol.WorkflowsStream(shop, 0), protocol.CreateSubjects(shop, "digest"), 1, 1000)
	if err != nil || more {
		t.Fatalf("creates: more %t, error %v", more, err)
	}
	creates := make([]protocol.Create, len(page))
	for i, m := range page {
		if err := json.Unmarshal(m.Data, &creates[i]); err != nil {
			t.Fatal(err)
		}
	}
	return creates
}

// clockOf is what stands on the clock for a schedule of the shop; nil if nothing does.
func (w *world) clockOf(t *testing.T, s protocol.Schedule) *protocol.Tick {
	t.Helper()
	m, err := w.store.Last(t.Context(), protocol.StreamClock, protocol.ClockSubject(shop, protocol.ClassCron, "digest", s.ID))
	if err != nil || len(m.Data) == 0 {
		return nil
	}
	tick := new(protocol.Tick)
	if err := json.Unmarshal(m.Data, tick); err != nil {
		t.Fatal(err)
	}
	return tick
}

func TestCronStartsInstances(t *testing.T) {
	t.Parallel()
	w := setupShop(t)
	w.start(t)
	w.start(t)
	row := digest("* * * * * *", func(*protocol.Schedule) {})
	w.putDigest(t, row)
	var creates []protocol.Create
	natstest.Eventually(t, wait, "three instances are started", func() bool {
		creates = w.digests(t)
		return len(creates) >= 3
	})
	first := creates[0].Schedule
	if first == nil || first.Planned.Before(row.Created) || first.Cron != row.Cron || first.Zone != "" {
		t.Fatalf("the first instance is of %+v", first)
	}
	for i, c := range creates {
		if c.Schedule == nil || c.Schedule.Planned.Nanosecond() != 0 || c.Created.Before(c.Schedule.Planned) {
			t.Fatalf("instance %d is of %+v", i, c)
		}
		planned := c.Schedule.Planned
		if i > 0 {
			// One that is late fires for those that have passed meanwhile, and one whose handling has failed is late the next time.
			before := creates[i-1]
			gap := planned.Sub(before.Schedule.Planned)
			if late := before.Created.Sub(before.Schedule.Planned); gap <= 0 || gap-time.Second > late && !w.log.has("handling failed") {
				t.Errorf("instance %d is of %s, that before of %s was only %s late", i, planned, before.Schedule.Planned, late)
			}
		}
		want := protocol.Source{Kind: "cron", Project: shop, Class: "digest", Name: row.ID}
		if c.ID != row.ID+"-"+planned.Format("20060102T150405Z") || c.Source != want || string(c.Params) != string(row.Payload) || c.Workflow != "digest" {
			t.Errorf("instance %d is %+v", i, c)
		}
		if err := protocol.CheckNewInstance(c.ID); err != nil {
			t.Error(err)
		}
	}
	// Removed, it fires no more, and leaves nothing.
	w.dropDigest(t, row)
	natstest.Eventually(t, wait, "nothing is left of the schedule", func() bool {
		return w.messages(t, protocol.KVStream(protocol.SchedulesBucket(shop))) == 0 && w.messages(t, protocol.StreamClock) == 0
	})
}

// TestCronKilled kills a real process between two steps of a firing: the instance is there once.
func TestCronKilled(t *testing.T) {
	t.Parallel()
	for _, point := range []string{scheduler.SignalMailed, scheduler.SignalSettled} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := setupShop(t)
			w.setAckWait(t, 4*time.Second)
			row := digest("@every 1h", func(s *protocol.Schedule) { s.Created = s.Created.Add(-90 * time.Minute) })
			w.putDigest(t, row)
			w.killAt(t, point)
			if n := len(w.digests(t)); n != 1 {
				t.Fatalf("%d instances when the process was killed, want 1", n)
			}
			w.start(t)
			natstest.Eventually(t, wait, "the firing is acked", func() bool {
				return w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 0
			})
			creates := w.digests(t)
			if planned := row.Created.Truncate(time.Second).Add(time.Hour); len(creates) != 1 || !creates[0].Schedule.Planned.Equal(planned) {
				t.Errorf("instances %+v, want one of %s", creates, planned)
			}
			if next := w.clockOf(t, row); next == nil || !next.Planned.After(time.Now()) || next.Progress == nil || next.Progress.Runs != 1 {
				t.Errorf("next is %+v", next)
			}
		})
	}
}

// TestCronCatchesUp has a schedule that nobody has served for an hour, and that is over after that.
func TestCronCatchesUp(t *testing.T) {
	t.Parallel()
	w := setupShop(t)
	row := digest("@every 10m", func(s *protocol.Schedule) {
		s.Created = s.Created.Add(-65 * time.Minute)
		s.CatchUp, s.Until = new(3), new(time.Now().Add(-2*time.Minute).UTC())
	})
	w.putDigest(t, row)
	s := w.start(t)
	isOver := func(runs, missed int) func() bool {
		return func() bool {
			tick := w.clockOf(t, row)
			return tick != nil && tick.Over && tick.Progress != nil && tick.Progress.Runs == runs && tick.Progress.Missed == missed
		}
	}
	natstest.Eventually(t, wait, "three instances are started, and three moments missed", isOver(3, 3))
	for i, c := range w.digests(t) {
		if planned := row.Created.Truncate(time.Second).Add(time.Duration(i+1) * 10 * time.Minute); !c.Schedule.Planned.Equal(planned) || c.Created.Before(planned) {
			t.Errorf("instance %d is of %+v, want %s", i, c.Schedule, planned)
		}
	}
	// A firing whose handling breaks off counts again.
	if stats := s.Stats(); stats.Fired < 3 || stats.Fired > 3 && !w.log.has("handling failed") || stats.Late != stats.Fired || stats.Taken != 0 {
		t.Errorf("stats %+v", stats)
	}
	// What is over stays over when its params change, and goes on if it may; without what was planned until then.
	row.Payload, row.Updated = json.RawMessage(`2`), new(time.Now().UTC())
	w.putDigest(t, row)
	row.Until, row.Updated = nil, new(time.Now().UTC())
	w.putDigest(t, row)
	natstest.Eventually(t, wait, "the next moment is armed", func() bool {
		tick := w.clockOf(t, row)
		return tick != nil && !tick.Over && tick.Planned.After(*row.Updated) && tick.Progress.Runs == 3
	})
	if n := len(w.digests(t)); n != 3 {
		t.Errorf("%d instances, want 3", n)
	}
}

// An instance that somebody else has started under the id must not hold up the schedule.
func TestCronFindsItsIDTaken(t *testing.T) {
	t.Parallel()
	w := setupShop(t)
	row := digest("@every 10m", func(s *protocol.Schedule) {
		s.Created, s.CatchUp = s.Created.Add(-25*time.Minute), new(10)
	})
	first := row.Created.Truncate(time.Second).Add(10 * time.Minute)
	at := protocol.Instance{Project: shop, Workflow: "digest", ID: protocol.CronInstance(row.ID, first)}
	body := fmt.Appendf(nil, `{"v":1,"input":"mine","workflow":"digest","id":%q,"created":"2026-01-01T00:00:00Z","source":{"kind":"program"}}`, at.ID)
	if _, err := w.store.Append(t.Context(), protocol.WorkflowsStream(shop, 0), at.CreateSubject(), 0, body); err != nil {
		t.Fatal(err)
	}
	w.putDigest(t, row)
	s := w.start(t)
	natstest.Eventually(t, wait, "the second moment has its instance", func() bool { return len(w.digests(t)) == 2 })
	if c := w.digests(t)[1]; !c.Schedule.Planned.Equal(first.Add(10 * time.Minute)) {
		t.Errorf("the second instance is %+v", c)
	}
	natstest.Eventually(t, wait, "both are counted", func() bool {
		stats := s.Stats()
		return stats.Taken > 0 && stats.Fired > 0
	})
	if !w.log.has("somebody else has taken the id") || !w.log.has(at.ID) {
		t.Error("the log does not tell")
	}
}

func TestCronWaitsForItsStream(t *testing.T) {
	t.Parallel()
	w := setupShop(t)
	if err := w.js.DeleteStream(t.Context(), protocol.WorkflowsStream(shop, 0)); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	row := digest("@every 1h", func(s *protocol.Schedule) { s.Created = s.Created.Add(-90 * time.Minute) })
	w.putDigest(t, row)
	natstest.Eventually(t, wait, "a try has failed", func() bool { return w.log.has("handling failed") })
	w.registerShop(t)
	natstest.Eventually(t, wait, "the instance is started", func() bool { return len(w.digests(t)) == 1 })
}
