package scheduler_test

import (
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/protocol"
)

// update changes a row as an agent does, and stores it.
func (w *world) update(t *testing.T, row *protocol.Schedule, change func(*protocol.Schedule)) uint64 {
	t.Helper()
	to := *row
	change(&to)
	if changed, err := row.Update(to, time.Now()); err != nil || !changed {
		t.Errorf("updated %t, %v", changed, err)
	}
	return w.put(t, *row)
}

// TestUpdates changes a schedule again and again while it fires, under two schedulers.
func TestUpdates(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	w.start(t)
	row := cron("s", "* * * * * *")
	w.put(t, row)
	for i, change := range []func(*protocol.Schedule){
		func(s *protocol.Schedule) {
			s.Kind, s.Cron, s.Interval = protocol.ScheduleInterval, "", protocol.Duration(time.Second)
		},
		func(s *protocol.Schedule) { s.Payload = json.RawMessage(`{"n":2}`) },
		func(s *protocol.Schedule) {
			s.Kind, s.Cron, s.Interval = protocol.ScheduleCron, "*/2 * * * * *", 0
		},
		func(s *protocol.Schedule) { s.Lines, s.Cron = []string{"*/2 * * * * *", "1-59/2 * * * * *"}, "" },
	} {
		w.awaitFirings(t, i+1)
		w.update(t, &row, change)
	}
	var mails []protocol.Mail
	natstest.Eventually(t, wait, "it fires as it is now, and all is counted", func() bool {
		mails = once(w.mails(t, project))
		tick := w.armed(t, "s")
		last := mails[len(mails)-1]
		return last.Planned.After(row.Updated.Add(time.Second)) && tick != nil && tick.Progress != nil && tick.Progress.Runs == len(mails)
	})
	for i, m := range mails[1:] {
		if m.Number <= mails[i].Number {
			t.Errorf("number %d came after %d", m.Number, mails[i].Number)
		}
	}
	if last := mails[len(mails)-1]; string(last.Payload) != `{"n":2}` || last.Planned.Nanosecond() != 0 {
		t.Errorf("last is %+v", last)
	}
}

// TestUpdateAfterAKill has a row that was updated when a real process was killed between two steps of a firing.
func TestUpdateAfterAKill(t *testing.T) {
	t.Parallel()
	hourly := func() protocol.Schedule {
		return schedule("s", func(s *protocol.Schedule) {
			s.Kind, s.Interval, s.Created = protocol.ScheduleInterval, protocol.Duration(time.Hour), s.Created.Add(-90*time.Minute)
		})
	}
	payload := func(s *protocol.Schedule) { s.Payload = json.RawMessage(`2`) }
	interval := func(s *protocol.Schedule) { s.Interval = protocol.Duration(7 * time.Hour) }
	for _, tt := range []struct {
		name, point string
		row         protocol.Schedule
		change      func(*protocol.Schedule)
		numbers     int // that mail has
		next        time.Duration
	}{
		{"payload", scheduler.SignalMailed, hourly(), payload, 1, 2 * time.Hour},
		{"interval", scheduler.SignalMailed, hourly(), interval, 1, 7 * time.Hour},
		{"interval, settled", scheduler.SignalSettled, hourly(), interval, 1, 7 * time.Hour},
		{"date", scheduler.SignalMailed, after("s", 0), func(s *protocol.Schedule) { s.At = new(s.At.Add(4 * time.Second)) }, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.setAckWait(t, 4*time.Second)
			w.put(t, tt.row)
			w.killAt(t, tt.point)
			w.update(t, &tt.row, tt.change)
			w.start(t)
			natstest.Eventually(t, wait, "the firing is acked, and the schedule stands where it should", func() bool {
				tick := w.armed(t, "s")
				stands := tick == nil && w.messages(t, protocol.StreamClock) == 0
				if tt.next > 0 {
					stands = tick != nil && tick.Planned.Equal(tt.row.Created.Add(tt.next))
				}
				return stands && w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 0
			})
			var numbers []uint64
			for _, m := range w.mails(t, project) {
				numbers = append(numbers, m.Number)
			}
			if numbers = slices.Compact(numbers); len(numbers) != tt.numbers {
				t.Errorf("mail has the numbers %d, want %d of them", numbers, tt.numbers)
			}
		})
	}
}

// startAsked starts a scheduler that does something the first time that a firing asks what time it is. Who looks for late firings asks
// as well, when there is one: it does so once, before the test puts a row.
func (w *world) startAsked(t *testing.T, do func()) {
	t.Helper()
	looked := make(chan struct{}, 1)
	nc := w.dial(t)
	if _, err := nc.Subscribe("$JS.API.STREAM.MSG.GET."+protocol.StreamClock, func(m *nats.Msg) {
		var asked struct {
			Subject string `json:"next_by_subj"`
		}
		if json.Unmarshal(m.Data, &asked) != nil || asked.Subject != protocol.ClockDueSubjects {
			return
		}
		select {
		case looked <- struct{}{}:
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var first sync.Once
	w.startWith(t, func(o *scheduler.Options) {
		o.LookEvery = time.Hour
		o.Now = func() time.Time {
			first.Do(do)
			return time.Now()
		}
	})
	select {
	case <-looked:
	case <-time.After(wait):
		t.Fatal("nobody looks for late firings")
	}
}

// TestChangedAsItsLastFiringIsMailed changes a row after the scheduler has read it to fire it for the last time.
func TestChangedAsItsLastFiringIsMailed(t *testing.T) {
	t.Parallel()
	lastOfAll := schedule("s", func(s *protocol.Schedule) {
		s.Kind, s.Interval, s.Times, s.Created = protocol.ScheduleInterval, protocol.Duration(time.Hour), 1, s.Created.Add(-90*time.Minute)
		s.SetVersion()
	})
	pause := func(_ *testing.T, _ *world, row *protocol.Schedule) { row.Pause(time.Now(), "") }
	for _, tt := range []struct {
		name   string
		row    protocol.Schedule
		change func(*testing.T, *world, *protocol.Schedule)
		mails  int // each with a callback
	}{
		{"a date is paused", after("s", 0), pause, 1},
		{"the last of its times, paused", lastOfAll, pause, 1},
		{"a date is moved", after("s", 0), func(t *testing.T, w *world, row *protocol.Schedule) {
			w.update(t, row, func(s *protocol.Schedule) { s.At = new(s.At.Add(time.Second)) })
		}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.startAsked(t, func() { // after the row was read
				tt.change(t, w, &tt.row)
				w.put(t, tt.row)
			})
			w.put(t, tt.row)
			w.awaitFirings(t, tt.mails)
			w.awaitNothingLeft(t)
			fired := once(slices.DeleteFunc(w.mails(t, project), func(m protocol.Mail) bool { return m.Callback == "" }))
			if len(fired) != tt.mails {
				t.Errorf("fired %d times, want %d: %+v", len(fired), tt.mails, fired)
			}
		})
	}
}

// TestExtendedAsItsLastFiringIsMailed changes a row in the same moment so that there are more firings: the mail tells by which
// row it is the last one, and the scheduler goes on.
func TestExtendedAsItsLastFiringIsMailed(t *testing.T) {
	t.Parallel()
	w := setup(t)
	row := schedule("s", func(s *protocol.Schedule) {
		s.Kind, s.Interval, s.Times, s.Created = protocol.ScheduleInterval, protocol.Duration(time.Hour), 1, s.Created.Add(-90*time.Minute)
		s.SetVersion()
	})
	before, err := row.Bounds()
	if err != nil {
		t.Fatal(err)
	}
	w.startAsked(t, func() { w.update(t, &row, func(s *protocol.Schedule) { s.Times = 2 }) })
	w.put(t, row)
	natstest.Eventually(t, wait, "the second firing is armed", func() bool {
		tick := w.armed(t, "s")
		return tick != nil && tick.Progress != nil && tick.Progress.Runs == 1 && tick.Planned.Equal(row.Created.Add(2*time.Hour))
	})
	if mails := w.mails(t, project); len(once(mails)) != 1 || !mails[0].Last || mails[0].Bounds != before {
		t.Errorf("mail is %+v, want one that is the last of %s", mails, before)
	}
}
