package scheduler_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestDelayFiresOnceAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := setup(t)
	s := w.start(t)
	row := after("call/1", 300*time.Millisecond)
	w.put(t, row)
	w.awaitMails(t, 1)
	w.awaitNothingLeft(t)
	mails := w.mails(t, project)
	if len(once(mails)) != 1 {
		t.Fatalf("mails %+v, want those of one firing", mails)
	}
	m := once(mails)[0]
	if m.V != protocol.Version || m.Source != "schedule/call/1" || m.Number != uint64(row.At.UnixMilli()) || m.Life != row.Life ||
		m.Callback != row.Callback || string(m.Payload) != string(row.Payload) || !m.Planned.Equal(*row.At) {
		t.Errorf("mail %+v of row %+v", m, row)
	}
	if m.Sent.Before(*row.At) {
		t.Errorf("sent at %s, before %s", m.Sent, row.At)
	}
	if stats := s.Stats(); stats.Fired == 0 || stats.Fired > uint64(len(mails)) || stats.Late > 0 && m.Sent.Sub(*row.At) <= late {
		t.Errorf("stats %+v of %+v", stats, mails)
	}
}

// late is how late a firing may be before it is called late.
const late = 5 * time.Second

func TestDateInThePastFiresAtOnce(t *testing.T) {
	t.Parallel()
	for name, moment := range map[string]time.Time{
		"an hour ago":       time.Now().Add(-time.Hour),
		"before all epochs": time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			s := w.start(t)
			row := at("d", moment)
			w.put(t, row)
			w.awaitMails(t, 1)
			w.awaitNothingLeft(t)
			m := once(w.mails(t, project))[0]
			if !m.Planned.Equal(moment) || m.Number == 0 || m.Number > math.MaxInt64 {
				t.Errorf("mail %+v", m)
			}
			if stats := s.Stats(); stats.Late != 0 && m.Sent.Sub(row.Created) <= late {
				t.Errorf("stats %+v: what was asked for in the past is not late", stats)
			}
		})
	}
}

func TestUpdateRearms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		first, second time.Duration
	}{
		{"earlier", time.Hour, 300 * time.Millisecond},
		{"later", 5 * time.Second, 6 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.start(t)
			first := after("s", tt.first)
			w.putArmed(t, first)
			row := after("s", tt.second)
			w.putArmed(t, row)
			// A moment that is only followed by another on its subject comes back when the server is killed.
			n := w.messages(t, protocol.StreamClock)
			come := time.Now() // what was to come by now may have come before it was armed anew
			if n != 1 && come.Before(*first.At) && come.Before(*row.At) {
				t.Errorf("the clock holds %d messages, want 1", n)
			}
			w.awaitNothingLeft(t)
			firings := once(w.mails(t, project))
			if len(firings) == 2 && firings[0].Planned.Equal(*first.At) && !come.Before(*first.At) {
				firings = firings[1:]
			}
			if len(firings) != 1 || !firings[0].Planned.Equal(*row.At) {
				t.Errorf("firings %+v, want one of %s", firings, row.At)
			}
		})
	}
}

func TestDeleteCancels(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	w.awaitArmed(t, "far", w.put(t, after("far", time.Hour)))
	near := after("near", 5*time.Second)
	w.putArmed(t, near)
	w.awaitArmed(t, "cron", w.put(t, cron("cron", "*/2 * * * * *")))
	for _, id := range []string{"far", "near", "cron"} {
		w.delete(t, id)
	}
	w.awaitNothingLeft(t)
	cancelled := time.Now()
	// Whatever was armed would have fired by the time that a later one does.
	w.put(t, after("witness", 5*time.Second))
	natstest.Eventually(t, wait, "the witness has fired", func() bool {
		for _, m := range w.mails(t, project) {
			if m.Source == protocol.ScheduleSource("witness") {
				return true
			}
		}
		return false
	})
	for _, m := range w.mails(t, project) {
		if m.Source == protocol.ScheduleSource("far") || m.Source == protocol.ScheduleSource("near") && cancelled.Before(*near.At) {
			t.Errorf("cancelled schedule fired: %+v", m)
		}
	}
}

func TestDeletedAndPutAgain(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	w.awaitArmed(t, "s", w.put(t, after("s", time.Hour)))
	w.delete(t, "s")
	row := after("s", 500*time.Millisecond) // within the second in which the tombstone stands
	w.put(t, row)
	if mails := w.awaitMails(t, 1); !mails[0].Planned.Equal(*row.At) {
		t.Errorf("mails %+v, want one of %s", mails, row.At)
	}
	w.awaitNothingLeft(t)
}

func TestOlderRowDoesNotReplaceWhatANewerOneArmed(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if err := streams.EnsureClock(t.Context(), w.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	old := w.put(t, after("s", time.Hour))
	newer := protocol.Tick{V: 1, Revision: old + 100, Definition: "of the newer row", Planned: time.Now().Add(2 * time.Hour).UTC()}
	w.arm(t, "s", newer)
	w.start(t)
	witness := w.put(t, after("witness", time.Hour))
	w.awaitArmed(t, "witness", witness)
	natstest.Eventually(t, wait, "both rows are handled", func() bool {
		return w.unacked(t, protocol.KVStream(protocol.SchedulesBucket(project)), protocol.ConsumerScheduler) == 0
	})
	if got := w.armed(t, "s"); got == nil || got.Revision != newer.Revision {
		t.Errorf("armed is %+v, want %+v", got, newer)
	}
}

// An outbox that is projected again puts its rows again, at any time.
func TestRowPutAgainUnchangedGoesOn(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	row := cron("s", "* * * * * *")
	w.put(t, row)
	for i := range 5 {
		mails := w.awaitFirings(t, i+1)
		assertMoments(t, mails, row, time.Second)
		w.put(t, row)
	}
}

func TestEarlyFiringWaits(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const behind = 1500 * time.Millisecond
	now := func() time.Time { return time.Now().Add(-behind) }
	w.startAt(t, now)
	row := after("s", 300*time.Millisecond)
	w.put(t, row)
	w.awaitMails(t, 1)
	w.awaitNothingLeft(t)
	if mails := w.mails(t, project); len(once(mails)) != 1 || mails[0].Sent.Before(*row.At) {
		t.Errorf("mails %+v, want those of one firing, not before %s", mails, row.At)
	}
}

func TestLateFiringIsTold(t *testing.T) {
	t.Parallel()
	w := setup(t)
	s := w.startAt(t, func() time.Time { return time.Now().Add(8 * time.Second) })
	w.put(t, after("s", 300*time.Millisecond))
	w.awaitMails(t, 1)
	w.awaitNothingLeft(t)
	if stats := s.Stats(); stats.Fired == 0 || stats.Fired > uint64(len(w.mails(t, project))) || stats.Late != stats.Fired || !w.log.has("schedule fired late") {
		t.Errorf("stats %+v", stats)
	}
}

func TestDueThatComesTwiceHasOneIdentity(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if err := streams.EnsureClock(t.Context(), w.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	row := cron("s", "@every 1h")
	w.put(t, row)
	first := w.start(t)
	natstest.Eventually(t, wait, "armed", func() bool { return w.armed(t, "s") != nil })
	first.stop(t)
	tick := *w.armed(t, "s")
	later := func() time.Time { return tick.Planned.Add(time.Second) }
	for range 2 {
		w.due(t, "s", tick)
	}
	w.startAt(t, later)
	if mails := w.awaitMails(t, 2); len(once(mails)) != 1 {
		t.Fatalf("mails %+v, want those of one firing", mails)
	}
	natstest.Eventually(t, wait, "the next moment is armed", func() bool {
		next := w.armed(t, "s")
		return next != nil && next.Planned.Equal(tick.Planned.Add(time.Hour))
	})
}

// What is on the clock from a bucket that is gone must not hold up the rows of the one that took its place.
func TestRowOlderThanItsFiringArmsItself(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if err := streams.EnsureClock(t.Context(), w.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	w.arm(t, "s", protocol.Tick{V: 1, Revision: 1000, Definition: "of a row that is gone", Planned: time.Now().Add(time.Second).UTC()})
	w.start(t)
	row := after("s", 500*time.Millisecond)
	w.put(t, row)
	w.awaitMails(t, 1)
	w.awaitNothingLeft(t)
	if firings := once(w.mails(t, project)); len(firings) != 1 || !firings[0].Planned.Equal(*row.At) {
		t.Errorf("firings %+v", firings)
	}
}

// arm puts a moment on the clock as a scheduler does.
func (w *world) arm(t *testing.T, id string, tick protocol.Tick) {
	t.Helper()
	w.publishTick(t, protocol.ClockSubject(project, class, name, id), tick, map[string][]string{
		protocol.HeaderSchedule:       {"@at " + tick.Planned.Format(time.RFC3339Nano)},
		protocol.HeaderScheduleTarget: {protocol.ClockDueSubject(project, class, name, id)},
		protocol.HeaderRollup:         {protocol.RollupSubject},
	})
}

// due makes a moment come due as the server does.
func (w *world) due(t *testing.T, id string, tick protocol.Tick) {
	t.Helper()
	w.publishTick(t, protocol.ClockDueSubject(project, class, name, id), tick, nil)
}

func (w *world) publishTick(t *testing.T, subject string, tick protocol.Tick, header map[string][]string) {
	t.Helper()
	body, err := json.Marshal(tick)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Publish(t.Context(), subject, header, body); err != nil {
		t.Fatal(err)
	}
}

// assertMoments wants the mail of a cron schedule to be on its grid, each moment once, none before it was sent, and
// none left out unless the one before was late.
func assertMoments(t *testing.T, mails []protocol.Mail, row protocol.Schedule, interval time.Duration) {
	t.Helper()
	mails = once(mails)
	for i, m := range mails {
		if m.Planned.UnixMilli()%interval.Milliseconds() != 0 || m.Number != uint64(m.Planned.UnixMilli()) {
			t.Errorf("mail %d: planned %s, number %d is not on the grid", i, m.Planned, m.Number)
		}
		if m.Sent.Before(*m.Planned) || !m.Planned.After(row.Created) {
			t.Errorf("mail %d: planned %s, sent %s, created %s", i, m.Planned, m.Sent, row.Created)
		}
		if i == 0 {
			continue
		}
		before := mails[i-1]
		gap := m.Planned.Sub(*before.Planned)
		if gap <= 0 {
			t.Errorf("mail %d: planned %s came after %s", i, m.Planned, before.Planned)
		}
		// Whoever has sent a firing arms the next one after that, and the machine may stall in between.
		const stall = 2 * time.Second
		if late := before.Sent.Sub(*before.Planned); gap > interval && late+stall < gap-interval {
			t.Errorf("mail %d: planned %s follows %s, which was only %s late", i, m.Planned, before.Planned, late)
		}
	}
}
