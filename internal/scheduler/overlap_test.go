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
		{"cancel running", protocol.OverlapCancelRunning, 1, false},
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
					if m.Source != mails[0].Source || m.Number != mails[0].Number || m.Key != mails[0].Key || !m.Planned.Equal(moment.Planned) ||
						m.Overlap == protocol.OverlapCancelRunning != (tt.overlap == protocol.OverlapCancelRunning) {
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

// end announces that an instance of the shop has ended, as a runner does.
func (w *world) end(t *testing.T, planned time.Time, row protocol.Schedule) {
	t.Helper()
	at := protocol.Instance{Project: shop, Workflow: "digest", ID: protocol.CronInstance(row.ID, planned)}
	m, err := w.store.Last(t.Context(), protocol.WorkflowsStream(shop, 0), at.CreateSubject())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(protocol.Done{
		V: protocol.Version, Workflow: "digest", ID: at.ID, Incarnation: m.Sequence, State: protocol.StateComplete, Mark: m.Sequence,
	})
	if err == nil {
		_, err = w.store.Publish(t.Context(), at.DoneSubject(), nil, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// terminates are the controls that ask instances of the shop to end.
func (w *world) terminates(t *testing.T) (all []protocol.Control) {
	t.Helper()
	page, more, err := w.store.Page(t.Context(), protocol.WorkflowsStream(shop, 0), protocol.ControlSubjects(shop, 0), 1, 1000)
	if err != nil || more {
		t.Fatalf("controls: more %t, error %v", more, err)
	}
	for _, m := range page {
		var c protocol.Control
		if err := json.Unmarshal(m.Data, &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// flow is a schedule of the shop that has started an instance, and whose next moment has come due.
type flow struct {
	*world
	row           protocol.Schedule
	first, moment *protocol.Tick
}

func startFlow(t *testing.T, overlap protocol.Overlap, change func(*protocol.Tick)) *flow {
	t.Helper()
	f := &flow{world: setupShop(t)}
	f.setAckWait(t, 4*time.Second)
	f.row = digest("@every 1h", func(s *protocol.Schedule) { s.Created, s.Overlap = s.Created.Add(-90*time.Minute), overlap })
	f.putDigest(t, f.row)
	s := f.start(t)
	f.first = f.await(t, "it has started an instance", func(tick *protocol.Tick) bool { return tick.Progress != nil && tick.Progress.Runs == 1 })
	s.stop(t)
	change(f.first)
	f.moment = f.comeDue(t, f.first, protocol.ClockSubject(shop, protocol.ClassCron, "digest", f.row.ID),
		protocol.ClockDueSubject(shop, protocol.ClassCron, "digest", f.row.ID))
	return f
}

// await waits until what is armed is as wanted, and nothing is in work.
func (f *flow) await(t *testing.T, what string, wanted func(*protocol.Tick) bool) (tick *protocol.Tick) {
	t.Helper()
	natstest.Eventually(t, wait, what, func() bool {
		tick = f.clockOf(t, f.row)
		return tick != nil && wanted(tick) && f.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 0
	})
	return tick
}

// TestCronOverlapKilled kills a real process between two steps of a firing, while the instance before has not ended, or has.
func TestCronOverlapKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		overlap protocol.Overlap
		waited  bool // the instance before has ended meanwhile
		started int  // instances, before that ends
		skipped int
		holds   bool
		cancels int
	}{
		{"skip", protocol.OverlapSkip, false, 1, 1, false, 0},
		{"buffer one", protocol.OverlapBufferOne, false, 1, 0, true, 0},
		{"buffer one that has waited", protocol.OverlapBufferOne, true, 2, 0, false, 0},
		{"buffer all", protocol.OverlapBufferAll, false, 1, 0, true, 0},
		{"buffer all that has waited", protocol.OverlapBufferAll, true, 2, 0, false, 0},
		{"cancel running", protocol.OverlapCancelRunning, false, 1, 0, true, 1},
		{"allow all", protocol.OverlapAllowAll, false, 2, 0, false, 0},
	} {
		for _, point := range []string{scheduler.SignalMailed, scheduler.SignalSettled} {
			t.Run(tt.name+" "+point, func(t *testing.T) {
				t.Parallel()
				f := startFlow(t, tt.overlap, func(tick *protocol.Tick) {
					if tt.waited {
						tick.Since = new(time.Now().UTC())
					}
				})
				if tt.waited {
					f.end(t, *f.first.Progress.Last, f.row)
				}
				f.killAt(t, point)
				f.start(t)
				tick := f.await(t, "it was decided about the moment", func(tick *protocol.Tick) bool {
					return tick.Since != nil == tt.holds && tick.Progress.Runs == tt.started && tick.Progress.Skipped == tt.skipped
				})
				if creates := f.digests(t); len(creates) != tt.started || tick.Progress.Missed != 0 || tick.Planned.Equal(f.moment.Planned) != tt.holds {
					t.Errorf("armed is %+v with %+v, started are %+v", tick, tick.Progress, creates)
				}
				if c := f.terminates(t); len(c) != tt.cancels || tt.cancels > 0 && (c[0].Action != protocol.ActionTerminate || c[0].Source.Kind != "cron") {
					t.Errorf("controls %+v", c)
				}
				if !tt.holds {
					return
				}
				f.end(t, *f.first.Progress.Last, f.row)
				tick = f.await(t, "what waited is started", func(tick *protocol.Tick) bool { return tick.Progress.Runs == 2 })
				creates := f.digests(t)
				if len(creates) != 2 || !creates[1].Schedule.Planned.Equal(f.moment.Planned) || tick.Since != nil || tick.Progress.Skipped+tick.Progress.Missed != 0 {
					t.Errorf("armed is %+v with %+v, started are %+v", tick, tick.Progress, creates)
				}
				if c := f.terminates(t); len(c) != tt.cancels {
					t.Errorf("controls %+v", c)
				}
			})
		}
	}
}

// TestCronOverlapWaits has two schedulers and what an operator can do while a moment waits.
func TestCronOverlapWaits(t *testing.T) {
	t.Parallel()
	holding := func(t *testing.T) *flow {
		f := &flow{world: setupShop(t)}
		f.row = digest("@every 1h", func(s *protocol.Schedule) {
			s.Created, s.Overlap, s.CatchUp = s.Created.Add(-125*time.Minute), protocol.OverlapBufferAll, new(9)
		})
		f.start(t)
		f.start(t)
		f.putDigest(t, f.row)
		f.moment = f.await(t, "the moment waits", func(tick *protocol.Tick) bool { return tick.Since != nil })
		return f
	}
	change := func(t *testing.T, f *flow, change func(*protocol.Schedule)) {
		f.row.Updated = new(time.Now().UTC())
		change(&f.row)
		f.putDigest(t, f.row)
	}
	t.Run("removed", func(t *testing.T) {
		t.Parallel()
		f := holding(t)
		f.dropDigest(t, f.row)
		natstest.Eventually(t, wait, "nothing is left of the schedule", func() bool {
			return f.messages(t, protocol.KVStream(protocol.SchedulesBucket(shop))) == 0 && f.messages(t, protocol.StreamClock) == 0
		})
		if n := len(f.digests(t)); n != 1 {
			t.Errorf("%d instances, want 1", n)
		}
	})
	t.Run("paused", func(t *testing.T) {
		t.Parallel()
		f := holding(t)
		change(t, f, func(s *protocol.Schedule) { s.Pause(time.Now(), "") })
		f.await(t, "it is parked", func(tick *protocol.Tick) bool { return tick.Parked })
		f.end(t, *f.moment.Progress.Last, f.row)
		change(t, f, func(s *protocol.Schedule) { s.Resume(time.Now()) })
		tick := f.await(t, "the next moment is armed", func(tick *protocol.Tick) bool { return tick.Planned.After(time.Now()) })
		if n := len(f.digests(t)); n != 1 || tick.Progress.Runs != 1 || tick.Progress.Skipped != 1 || tick.Since != nil {
			t.Errorf("%d instances, progress %+v", n, tick.Progress)
		}
	})
	t.Run("told to allow all", func(t *testing.T) {
		t.Parallel()
		f := holding(t)
		change(t, f, func(s *protocol.Schedule) { s.Overlap, s.Payload = protocol.OverlapAllowAll, json.RawMessage(`2`) })
		f.await(t, "it has fired", func(tick *protocol.Tick) bool { return tick.Progress.Runs == 2 })
		if all := f.digests(t); len(all) != 2 || string(all[1].Params) != "2" || !all[1].Schedule.Planned.Equal(f.moment.Planned) {
			t.Errorf("instances %+v", all)
		}
	})
	t.Run("told to end before", func(t *testing.T) {
		t.Parallel()
		f := holding(t)
		change(t, f, func(s *protocol.Schedule) { s.Until = new(f.moment.Planned.Add(-time.Minute)) })
		tick := f.await(t, "it is over", func(tick *protocol.Tick) bool { return tick.Over })
		if n := len(f.digests(t)); n != 1 || tick.Since != nil {
			t.Errorf("%d instances, over is %+v", n, tick)
		}
	})
	t.Run("the last of its times", func(t *testing.T) {
		t.Parallel()
		f := holding(t)
		change(t, f, func(s *protocol.Schedule) { s.Times = 2 })
		f.end(t, *f.moment.Progress.Last, f.row)
		f.await(t, "it is over", func(tick *protocol.Tick) bool { return tick.Over && tick.Progress.Runs == 2 })
		if n := len(f.digests(t)); n != 2 {
			t.Errorf("%d instances, want 2", n)
		}
	})
}

// TestCronOverlapOfAnotherScheduler has an instance of a moment that the clock says was skipped: another scheduler had found that
// it need not be. The next moment finds it.
func TestCronOverlapOfAnotherScheduler(t *testing.T) {
	t.Parallel()
	var skipped time.Time
	f := startFlow(t, protocol.OverlapSkip, func(tick *protocol.Tick) {
		skipped = tick.Progress.Last.Add(10 * time.Minute)
		tick.Progress.Skipped, tick.Progress.LastSkipped = 1, &skipped
	})
	at := protocol.Instance{Project: shop, Workflow: "digest", ID: protocol.CronInstance(f.row.ID, skipped)}
	body, err := json.Marshal(protocol.Create{
		V: protocol.Version, Input: protocol.CronInput(f.row.ID, skipped), Workflow: "digest", ID: at.ID, Created: time.Now().UTC(),
	})
	if err == nil {
		_, err = f.store.Append(t.Context(), protocol.WorkflowsStream(shop, 0), at.CreateSubject(), 0, body)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.end(t, *f.first.Progress.Last, f.row)
	f.start(t)
	tick := f.await(t, "it was decided about the moment", func(tick *protocol.Tick) bool { return tick.Planned.After(time.Now()) })
	if tick.Progress.Skipped != 2 || tick.Progress.Runs != 1 {
		t.Errorf("progress %+v, want that the moment was skipped", tick.Progress)
	}
}
