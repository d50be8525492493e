package scheduler_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/protocol"
)

// record stores that of the test's agent, which has applied the firings of the schedule "s" up to a moment.
func (w *world) record(t *testing.T, life uint64, applied time.Time) {
	t.Helper()
	body, err := json.Marshal(protocol.Record{
		V: protocol.Version, Class: class, Name: name, Life: life, Commit: "c", Updated: time.Now().UTC(),
		Seen: map[string]uint64{protocol.ScheduleSource("s"): protocol.FiringNumber(applied)},
	})
	if err == nil {
		_, err = w.store.Publish(t.Context(), protocol.KVSubject(protocol.AgentsBucket(project), protocol.AgentKey(class, name)), nil, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// comeDue makes what is armed for a schedule come due at once, as a moment that has just passed.
func (w *world) comeDue(t *testing.T, tick *protocol.Tick, clock, target string) *protocol.Tick {
	t.Helper()
	now := *tick
	now.Planned = time.Now().UTC().Add(-time.Second).Truncate(time.Millisecond)
	body, err := json.Marshal(now)
	if err == nil {
		_, err = w.store.Publish(t.Context(), clock, nats.Header{
			protocol.HeaderSchedule:       {"@at " + now.Planned.Format(time.RFC3339Nano)},
			protocol.HeaderScheduleTarget: {target},
			protocol.HeaderRollup:         {protocol.RollupSubject},
		}, body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &now
}

// everyHour is a schedule that has fired half an hour ago.
func everyHour(overlap protocol.Overlap) protocol.Schedule {
	return schedule("s", func(s *protocol.Schedule) {
		s.V, s.Kind, s.Cron, s.Overlap = protocol.ScheduleVersion, protocol.ScheduleCron, "@every 1h", overlap
		s.Created = s.Created.Add(-90 * time.Minute)
	})
}

// TestOverlapKilled kills a real process between two steps of a firing whose forerunners are not done: whoever goes on comes to
// the same.
func TestOverlapKilled(t *testing.T) {
	t.Parallel()
	fires := map[string]int{scheduler.SignalMailed: 2, scheduler.SignalSettled: 1}
	for _, tt := range []struct {
		name    string
		overlap protocol.Overlap
		before  int // firings that are not done
		skips   bool
	}{
		{"skip", protocol.OverlapSkip, 1, true},
		{"skip nothing", protocol.OverlapSkip, 0, false},
		{"buffer one", protocol.OverlapBufferOne, 1, false},
		{"buffer no more", protocol.OverlapBufferOne, 2, true},
		{"buffer all", protocol.OverlapBufferAll, 2, false},
		{"allow all", protocol.OverlapAllowAll, 2, false},
	} {
		for point, copies := range fires {
			t.Run(tt.name+" "+point, func(t *testing.T) {
				t.Parallel()
				w := setup(t)
				w.setAckWait(t, 4*time.Second)
				row := everyHour(tt.overlap)
				w.record(t, row.Life, row.Created)
				w.put(t, row)
				first := w.start(t)
				armed := w.awaitRuns(t, 1)
				for n := 2; n <= tt.before; n++ {
					w.comeDue(t, armed, w.clock(), w.dueSubject())
					armed = w.awaitRuns(t, n)
				}
				if tt.before == 0 {
					w.record(t, row.Life, *armed.Progress.Last)
				}
				first.stop(t)
				earlier := max(tt.before, 1)
				moment := w.comeDue(t, armed, w.clock(), w.dueSubject())
				w.killAt(t, point)
				w.start(t)
				natstest.Eventually(t, wait, "the firing is acked", func() bool {
					return w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 0
				})
				mails := w.mails(t, project)[earlier:]
				next := w.armed(t, "s")
				if next == nil || !next.Planned.After(time.Now()) || next.Progress == nil {
					t.Fatalf("armed is %+v", next)
				}
				if p := next.Progress; tt.skips {
					if len(mails) != 0 || p.Runs != earlier || p.Skipped != 1 || !p.LastSkipped.Equal(moment.Planned) || p.Missed != 0 {
						t.Errorf("mails %+v, progress %+v, want that it was skipped", mails, p)
					}
				} else if len(mails) != copies || p.Runs != earlier+1 || p.Skipped != 0 || !p.Last.Equal(moment.Planned) {
					t.Errorf("mails %+v, progress %+v, want %d copies of one firing", mails, p, copies)
				}
				for _, m := range mails {
					if m.Source != mails[0].Source || m.Number != mails[0].Number || m.Key != mails[0].Key || !m.Planned.Equal(moment.Planned) {
						t.Errorf("mails of one firing differ: %+v", mails)
					}
				}
			})
		}
	}
}

func (w *world) clock() string      { return protocol.ClockSubject(project, class, name, "s") }
func (w *world) dueSubject() string { return protocol.ClockDueSubject(project, class, name, "s") }

// awaitRuns waits until the schedule "s" has fired n times, and nothing of it is in work.
func (w *world) awaitRuns(t *testing.T, n int) *protocol.Tick {
	t.Helper()
	var tick *protocol.Tick
	natstest.Eventually(t, wait, "the schedule has fired", func() bool {
		tick = w.armed(t, "s")
		return tick != nil && tick.Progress != nil && tick.Progress.Runs == n && w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 0
	})
	return tick
}

// TestOverlapWaitsForNoOne has firings that are not applied and never will be.
func TestOverlapWaitsForNoOne(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, w *world, row protocol.Schedule, tick *protocol.Tick){
		"the agent is gone": func(*testing.T, *world, protocol.Schedule, *protocol.Tick) {},
		"it is another life": func(t *testing.T, w *world, row protocol.Schedule, _ *protocol.Tick) {
			w.record(t, row.Life+1, row.Created)
		},
		"somebody has removed the mail": func(t *testing.T, w *world, row protocol.Schedule, tick *protocol.Tick) {
			w.record(t, row.Life, row.Created)
			if err := w.store.Delete(t.Context(), protocol.InboxStream(project), tick.Progress.Mail); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			row := everyHour(protocol.OverlapSkip)
			w.put(t, row)
			w.start(t)
			tick := w.awaitRuns(t, 1)
			prepare(t, w, row, tick)
			w.comeDue(t, tick, w.clock(), w.dueSubject())
			if next := w.awaitRuns(t, 2); next.Progress.Skipped != 0 || next.Progress.Previous == nil {
				t.Errorf("progress %+v", next.Progress)
			}
		})
	}
}
