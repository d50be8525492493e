package scheduler_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestCronWithTwoSchedulersOneOfThemStopped(t *testing.T) {
	t.Parallel()
	w := setup(t)
	first := w.start(t)
	w.start(t)
	row := cron("s", "* * * * * *")
	w.put(t, row)
	w.awaitFirings(t, 2)
	first.stop(t)
	assertMoments(t, w.awaitFirings(t, 5), row, time.Second)
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	w.putArmed(t, after("near", 4*time.Second))
	w.putArmed(t, after("far", 6*time.Second))
	row := cron("cron", "* * * * * *")
	w.awaitArmed(t, "cron", w.put(t, row))
	w.server.Restart(t)
	natstest.Eventually(t, wait, "all have fired, cron three times", func() bool {
		count := map[string]int{}
		for _, m := range w.mails(t, project) {
			count[m.Source]++
		}
		return count["schedule/near"] > 0 && count["schedule/far"] > 0 && count["schedule/cron"] > 2
	})
	last := map[string]uint64{}
	for _, m := range w.mails(t, project) { // those of a firing that was handled again have one number
		if m.Number < last[m.Source] {
			t.Errorf("%s: number %d came after %d", m.Source, m.Number, last[m.Source])
		}
		last[m.Source] = m.Number
	}
	// New rows are followed as before.
	w.delete(t, "cron")
	w.put(t, after("after", 100*time.Millisecond))
	w.awaitNothingLeft(t)
}

func TestConsumersMadeAgain(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	rows := protocol.KVStream(protocol.SchedulesBucket(project))
	for stream, consumer := range map[string]string{protocol.StreamClock: protocol.ConsumerClock, rows: protocol.ConsumerScheduler} {
		if err := w.js.DeleteConsumer(t.Context(), stream, consumer); err != nil {
			t.Fatal(err)
		}
	}
	w.put(t, after("s", 0))
	natstest.Eventually(t, wait, "both losses are told", func() bool {
		return strings.Count(w.log.String(), "cannot follow") == 2
	})
	if err := streams.EnsureClock(t.Context(), w.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	w.registerProject(t, project)
	w.awaitMails(t, 1)
	w.awaitNothingLeft(t)
	if n := strings.Count(w.log.String(), "cannot follow"); n != 2 {
		t.Errorf("the log tells %d times of two outages", n)
	}
}

// TestCluster moves leaders and restarts servers under two schedulers.
func TestCluster(t *testing.T) {
	t.Parallel()
	w, cluster := setupCluster(t)
	w.start(t)
	w.start(t)
	row := cron("cron", "* * * * * *")
	w.put(t, row)
	const n = 40
	for i := range n {
		w.put(t, after(fmt.Sprint(i), time.Duration(i)*250*time.Millisecond))
	}
	for i, stream := range []string{protocol.StreamClock, protocol.KVStream(protocol.SchedulesBucket(project)), protocol.InboxStream(project)} {
		cluster.MoveLeader(t, stream)
		cluster.Restart(t, i)
	}
	var mails []protocol.Mail
	natstest.Eventually(t, 2*wait, "all have fired, cron after the last of them", func() bool {
		mails = w.mails(t, project)
		fired := map[string]bool{}
		for _, m := range mails {
			fired[m.Source] = true
		}
		return len(fired) == n+1 && mails[len(mails)-1].Source == protocol.ScheduleSource("cron")
	})
	w.delete(t, "cron")
	w.awaitNothingLeft(t)
	// Mail may come twice, and what comes twice has one identity.
	for _, m := range mails {
		if m.Source != protocol.ScheduleSource("cron") {
			continue
		}
		if m.Number%1000 != 0 || m.Number != uint64(m.Planned.UnixMilli()) || !m.Planned.After(row.Created) {
			t.Errorf("mail %+v is not on the grid", m)
		}
	}
}

func TestMissedMomentsCollapse(t *testing.T) {
	t.Parallel()
	w := setup(t)
	first := w.start(t)
	row := cron("s", "* * * * * *")
	w.awaitArmed(t, "s", w.put(t, row))
	w.awaitMails(t, 1)
	first.stop(t)
	before := len(once(w.mails(t, project)))
	tick := w.awaitLeft(t, "s")
	natstest.Eventually(t, wait, "three moments are missed", func() bool { return time.Since(tick.Planned) > 3*time.Second })
	w.start(t)
	mails := w.awaitFirings(t, before+3)
	missed, next := mails[before], mails[before+1]
	if !missed.Planned.Equal(tick.Planned) {
		t.Errorf("planned %s, want the moment that was armed: %s", missed.Planned, tick.Planned)
	}
	if !next.Planned.After(missed.Sent) {
		t.Errorf("the second mail is of %s, which was missed too: the first was sent at %s", next.Planned, missed.Sent)
	}
	assertMoments(t, mails, row, time.Second)
}

// awaitLeft is what a scheduler that has ended has left on the clock: the moment may have come since.
func (w *world) awaitLeft(t *testing.T, id string) (tick *protocol.Tick) {
	t.Helper()
	natstest.Eventually(t, wait, "the next moment of "+id+" is armed, or has come", func() bool {
		if tick = w.armed(t, id); tick == nil {
			m, err := w.store.Last(t.Context(), protocol.StreamClock, protocol.ClockDueSubject(project, class, name, id))
			if err == nil {
				tick = new(protocol.Tick)
				err = json.Unmarshal(m.Data, tick)
			}
			return err == nil
		}
		return true
	})
	return tick
}

// TestFiringThatWasLeft arms a moment that the schedule has left, as a scheduler does that stood still before its append: the
// clock subject is empty again, as it was then, because the moment that another scheduler armed has just fired.
func TestFiringThatWasLeft(t *testing.T) {
	t.Parallel()
	w := setup(t)
	row := cron("s", "* * * * * *")
	row.Created = row.Created.Add(-time.Minute)
	first := w.start(t)
	w.put(t, row)
	collapsed := w.awaitFirings(t, 2)[1] // the first moment came a minute ago, and others before this one
	tick := w.awaitNext(t, "s")
	first.stop(t)
	natstest.Eventually(t, wait, "what is armed has fired", func() bool { return w.armed(t, "s") == nil })
	left := *tick
	left.Planned = collapsed.Planned.Add(-5 * time.Second)
	body, err := json.Marshal(left)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.AppendWith(t.Context(), protocol.StreamClock, protocol.ClockSubject(project, class, name, "s"), 0, nats.Header{
		protocol.HeaderSchedule:       {"@at " + left.Planned.Format(time.RFC3339Nano)},
		protocol.HeaderScheduleTarget: {protocol.ClockDueSubject(project, class, name, "s")},
		protocol.HeaderRollup:         {protocol.RollupSubject},
	}, body); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, wait, "it has fired, too", func() bool { return w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 2 })
	before := len(once(w.mails(t, project)))
	w.start(t)
	for i, m := range w.awaitFirings(t, before+3) {
		if m.Planned.Equal(left.Planned) {
			t.Errorf("firing %d is of %s, which the schedule has left", i, m.Planned)
		}
	}
}

// TestFiringOfOneThatStoodStill arms the moment that fires just now, as a scheduler does that stood still before its append while another
// one came to the same moment: by way of those that the first one takes for missed. What has fired counts as that.
func TestFiringOfOneThatStoodStill(t *testing.T) {
	t.Parallel()
	w := setup(t)
	row := schedule("s", func(s *protocol.Schedule) {
		s.Kind, s.Interval = protocol.ScheduleInterval, protocol.Duration(time.Hour)
	})
	row.Created = row.Created.Add(8*time.Second - time.Hour)
	first := w.start(t)
	w.put(t, row)
	natstest.Eventually(t, wait, "its moment is armed", func() bool { return w.armed(t, "s") != nil || time.Since(row.Created) > time.Hour })
	first.stop(t)
	tick := w.awaitLeft(t, "s")
	if tick.Progress != nil {
		t.Fatalf("the moment is handled already: %+v", tick)
	}
	c, err := w.js.Consumer(t.Context(), protocol.StreamClock, protocol.ConsumerClock)
	if err != nil {
		t.Fatal(err)
	}
	held, err := c.Next(jetstream.FetchMaxWait(wait)) // as if by one that handles it
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, wait, "it is late to arm that moment", func() bool { return time.Since(tick.Planned) > time.Second })
	late := *tick
	late.Progress = &protocol.Progress{Missed: 1}
	w.arm(t, "s", late)
	natstest.Eventually(t, wait, "it has fired, too", func() bool { return w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 2 })
	w.start(t)
	natstest.Eventually(t, wait, "it is let go, or counts", func() bool {
		return w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 1
	})
	if err := held.Nak(); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, wait, "the next moment is armed", func() bool { tick = w.armed(t, "s"); return tick != nil })
	if p := tick.Progress; p == nil || p.Runs != 1 || p.Missed != 0 {
		t.Errorf("it stands at %+v, want one run and nothing missed", p)
	}
}

func TestRowsThatCameWhileNobodyWasThere(t *testing.T) {
	t.Parallel()
	w := setup(t)
	row := cron("cron", "* * * * * *")
	row.Created = time.Now().Add(-time.Hour)
	w.put(t, row)
	w.put(t, after("once", 0))
	w.put(t, after("cancelled", 0))
	w.delete(t, "cancelled")
	w.start(t)
	var mails []protocol.Mail
	natstest.Eventually(t, wait, "both have fired, cron twice", func() bool {
		count := map[string]int{}
		mails = w.mails(t, project)
		for _, m := range mails {
			count[m.Source]++
		}
		return count["schedule/cron"] > 1 && count["schedule/once"] > 0
	})
	missed := 0
	for _, m := range once(mails) {
		if m.Source == "schedule/cancelled" {
			t.Errorf("a cancelled schedule fired: %+v", m)
		}
		if m.Source == "schedule/cron" && m.Sent.Sub(*m.Planned) > time.Minute {
			missed++
		}
	}
	if missed != 1 {
		t.Errorf("%d mails of what was missed in an hour, want 1: %+v", missed, mails)
	}
}

// TestCatchUp has a schedule of every ten minutes that nobody has served for an hour: six moments have passed.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		change        func(*protocol.Schedule)
		mails, missed int
		over          bool
	}{
		{"collapse", func(*protocol.Schedule) {}, 1, 5, false},
		{"some", func(s *protocol.Schedule) { s.CatchUp = new(3) }, 3, 3, false},
		{"all", func(s *protocol.Schedule) { s.CatchUp = new(100) }, 6, 0, false},
		{"none", func(s *protocol.Schedule) { s.CatchUp = new(0) }, 0, 6, false},
		{"all, but only four times", func(s *protocol.Schedule) { s.CatchUp, s.Times = new(100), 4 }, 4, 0, true},
		{"all, until a moment", func(s *protocol.Schedule) { s.CatchUp, s.Until = new(100), new(time.Now().Add(-30*time.Minute)) }, 3, 0, true},
		{"none, until a moment: told that it is over", func(s *protocol.Schedule) { s.CatchUp, s.Until = new(0), new(time.Now().Add(-30*time.Minute)) }, 1, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			row := cron("s", "@every 10m")
			row.Created = time.Now().Add(-65 * time.Minute).UTC()
			tt.change(&row)
			row.SetVersion()
			w.put(t, row)
			w.start(t)
			if tt.over {
				w.awaitFirings(t, tt.mails)
				w.awaitNothingLeft(t)
			} else {
				natstest.Eventually(t, wait, "the next moment is armed", func() bool {
					tick := w.armed(t, "s")
					return tick != nil && tick.Planned.After(time.Now()) && tick.Progress != nil &&
						tick.Progress.Runs == tt.mails && tick.Progress.Missed == tt.missed
				})
			}
			mails := once(w.mails(t, project))
			if len(mails) != tt.mails {
				t.Fatalf("%d firings, want %d: %+v", len(mails), tt.mails, mails)
			}
			for i, m := range mails {
				late := tt.name == "none, until a moment: told that it is over"
				if !late && !m.Planned.Equal(row.Created.Truncate(time.Second).Add(time.Duration(i+1)*10*time.Minute)) ||
					m.Last != (tt.over && i == len(mails)-1) || (m.Callback == "") != late {
					t.Errorf("mail %d: %+v", i, m)
				}
			}
		})
	}
}

func TestProjectThatComesLater(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	const later = "later"
	if err := streams.RegisterAgents(t.Context(), w.js, later, []string{class}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, wait, "the missing streams are told", func() bool {
		return w.log.has("cannot follow") && w.log.has("KV_SCHEDULES_"+later)
	})
	w.registerProject(t, later)
	body := fmt.Appendf(nil, `{"v":1,"id":"s","class":%q,"name":%q,"kind":"date","at":"2026-01-01T00:00:00Z","callback":"C","created":"2026-01-01T00:00:00Z"}`, class, name)
	if _, err := w.store.Publish(t.Context(), rowSubject(later, "s"), nil, body); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, wait, "the later project's agent has mail", func() bool { return len(w.mails(t, later)) > 0 })
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if err := streams.EnsureClock(t.Context(), w.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	w.putRaw(t, "garbage", []byte("garbage"))
	if _, err := w.store.Publish(t.Context(), "$KV.SCHEDULES_"+project+".odd", nil, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"clock.due.odd", protocol.ClockDueSubject(project, class, name, "garbage")} {
		if _, err := w.store.Publish(t.Context(), subject, nil, []byte("garbage")); err != nil {
			t.Fatal(err)
		}
	}
	w.start(t)
	w.put(t, after("good", 100*time.Millisecond))
	w.awaitMails(t, 1)
	rows := protocol.KVStream(protocol.SchedulesBucket(project))
	natstest.Eventually(t, wait, "everything is acked", func() bool {
		return w.unacked(t, rows, protocol.ConsumerScheduler) == 0 && w.messages(t, protocol.StreamClock) == 0
	})
	for _, text := range []string{"schedule cannot fire", "ignored a row that is no schedule", "ignored a message that is no firing"} {
		if !w.log.has(text) {
			t.Errorf("the log does not say %q", text)
		}
	}
}

func TestGarbageInPlaceOfARowDisarmsIt(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	w.awaitArmed(t, "s", w.put(t, after("s", time.Hour)))
	w.putRaw(t, "s", []byte(`{"v":1,"kind":"moon"}`))
	natstest.Eventually(t, wait, "nothing is armed", func() bool { return w.armed(t, "s") == nil })
	natstest.Eventually(t, wait, "the log says why", func() bool { return w.log.has("schedule cannot fire") })
}

func TestRowOfANewerProgramIsKept(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	w.putRaw(t, "s", []byte(`{"v":99}`))
	natstest.Eventually(t, wait, "the log tells", func() bool { return w.log.has("newer version") })
	if n := w.unacked(t, protocol.KVStream(protocol.SchedulesBucket(project)), protocol.ConsumerScheduler); n != 1 {
		t.Errorf("%d messages wait for a newer program, want 1", n)
	}
}

// withoutInbox takes the inbox away, so that firings cannot be handled.
func (w *world) withoutInbox(t *testing.T) {
	t.Helper()
	if err := w.js.DeleteStream(t.Context(), protocol.InboxStream(project)); err != nil {
		t.Fatal(err)
	}
}

func TestFiringWaitsForTheInbox(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.withoutInbox(t)
	w.start(t)
	w.put(t, after("s", 0))
	natstest.Eventually(t, wait, "a try has failed", func() bool { return w.log.has("handling failed") })
	w.registerProject(t, project)
	w.awaitMails(t, 1)
	w.awaitNothingLeft(t)
}

// setAckWait makes the clock, with another ack_wait than usual.
func (w *world) setAckWait(t *testing.T, ackWait time.Duration) jetstream.Consumer {
	t.Helper()
	if err := streams.EnsureClock(t.Context(), w.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	c, err := w.js.Consumer(t.Context(), protocol.StreamClock, protocol.ConsumerClock)
	if err != nil {
		t.Fatal(err)
	}
	config := c.CachedInfo().Config
	config.AckWait = ackWait
	if c, err = w.js.UpdateConsumer(t.Context(), protocol.StreamClock, config); err != nil {
		t.Fatal(err)
	}
	return c
}

// A message that takes longer than the consumer's ack_wait must not go to another scheduler.
func TestSlowHandlingKeepsItsMessage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const ackWait = 4 * time.Second // below the 5 s after which it is given back; a busy machine may hold up a mark
	c := w.setAckWait(t, ackWait)
	w.withoutInbox(t)
	w.start(t)
	w.put(t, after("s", 0))
	natstest.Eventually(t, wait, "the firing is held", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending == 1
	})
	start := time.Now()
	natstest.Eventually(t, wait, "the firing is given back", func() bool {
		info, err := c.Info(t.Context())
		given := w.log.has("handling failed")
		if err == nil && info.NumRedelivered != 0 && !given {
			t.Fatalf("redelivered after %s: %+v", time.Since(start), info)
		}
		return given
	})
}

func TestStopHandsBack(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c := w.setAckWait(t, 2*wait) // what is not handed back comes too late
	w.withoutInbox(t)
	s := w.start(t)
	const n = 100 // more than are handled at a time
	for i := range n {
		w.put(t, after(fmt.Sprint(i), 0))
	}
	natstest.Eventually(t, wait, "the scheduler has more than it handles", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending >= 80
	})
	s.stop(t)
	w.registerProject(t, project)
	w.start(t)
	w.awaitNothingLeft(t)
	fired := map[string]bool{}
	for _, m := range w.mails(t, project) {
		fired[m.Source] = true
	}
	if len(fired) != n {
		t.Errorf("%d schedules have fired, want %d", len(fired), n)
	}
}

// TestKilled kills a real process between two steps of a firing.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		point string
		mails int
		row   protocol.Schedule
	}{
		{scheduler.SignalMailed, 2, after("s", 0)},
		{scheduler.SignalSettled, 1, after("s", 0)},
		{scheduler.SignalMailed, 2, cron("s", "@every 1h")},
		{scheduler.SignalSettled, 1, cron("s", "@every 1h")},
		{scheduler.SignalMailed, 2, schedule("s", func(s *protocol.Schedule) {
			s.Kind, s.Interval, s.Times = protocol.ScheduleInterval, protocol.Duration(time.Hour), 1
		})},
	} {
		t.Run(string(tt.row.Kind)+" "+tt.point, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			tt.row.Created = tt.row.Created.Add(-90 * time.Minute)
			w.setAckWait(t, 4*time.Second)
			w.put(t, tt.row)
			w.killAt(t, tt.point)
			w.start(t)
			w.awaitMails(t, tt.mails)
			natstest.Eventually(t, wait, "the firing is acked", func() bool {
				return w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 0
			})
			mails := w.mails(t, project)
			if len(mails) != tt.mails {
				t.Fatalf("%d mails, want %d: %+v", len(mails), tt.mails, mails)
			}
			for _, m := range mails {
				if m.Source != mails[0].Source || m.Number != mails[0].Number {
					t.Errorf("mails of one firing differ: %+v", mails)
				}
			}
			if tt.row.Kind != protocol.ScheduleCron {
				w.awaitNothingLeft(t)
				return
			}
			if next := w.armed(t, "s"); next == nil || !next.Planned.After(time.Now()) {
				t.Errorf("armed is %+v", next)
			}
		})
	}
}

// killAt runs a scheduler as a process until it reaches a point, and kills it there.
func (w *world) killAt(t *testing.T, point string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+w.server.URL(), testsignal.Env+"="+point)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	reached := false
	for lines := bufio.NewScanner(stderr); !reached && lines.Scan(); {
		said = append(said, lines.Text())
		reached = strings.Contains(lines.Text(), "testsignal: "+point)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if !reached {
		t.Fatalf("the process did not reach %s:\n%s", point, strings.Join(said, "\n"))
	}
}

func TestCloseOfTheConnectionEndsRun(t *testing.T) {
	t.Parallel()
	w := setup(t)
	nc := w.dial(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	health := process.NewHealth()
	s := scheduler.New(scheduler.Options{NC: nc, JS: js, Log: w.log.logger(), Health: health})
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	natstest.Eventually(t, wait, "scheduler is ready", func() bool { return health.Readiness().Ready })
	nc.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error although the connection is closed for good")
		}
	case <-time.After(wait):
		t.Fatal("it goes on without a connection")
	}
}
