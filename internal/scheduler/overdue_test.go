package scheduler_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// watched is a scheduler that looks all the time for what is more than a second late.
type watched struct {
	*running
	registry *prometheus.Registry
}

func (w *world) startWatched(t *testing.T) *watched {
	t.Helper()
	r := prometheus.NewRegistry()
	return &watched{registry: r, running: w.startWith(t, func(o *scheduler.Options) {
		o.Metrics, o.LateAfter, o.LookEvery = r, time.Second, 20*time.Millisecond
	})}
}

// metric is the value of a line of /metrics; ok is false if there is none.
func (s *watched) metric(t *testing.T, name string) (value float64, ok bool) {
	t.Helper()
	page := httptest.NewRecorder()
	promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(page.Body.String()) {
		if text, found := strings.CutPrefix(line, name+" "); found {
			var err error
			if value, err = strconv.ParseFloat(strings.TrimSpace(text), 64); err != nil {
				t.Fatal(err)
			}
			return value, true
		}
	}
	return 0, false
}

// awaitLate waits until the health warns of a schedule, which leaves the scheduler ready.
func (s *watched) awaitLate(t *testing.T, id string) {
	t.Helper()
	natstest.Eventually(t, wait, "the health warns of "+id+", which does not make it unready", func() bool {
		r := s.health.Readiness()
		return r.Ready && strings.Contains(r.Warnings["schedules"], "/"+id+"\" of project ")
	})
	if late, _ := s.metric(t, "skein_scheduler_overdue_seconds"); late <= 1 {
		t.Errorf("the metric says %v s", late)
	}
}

func (s *watched) awaitInTime(t *testing.T, log *logBuffer) {
	t.Helper()
	natstest.Eventually(t, wait, "schedules are in time again", func() bool {
		return len(s.health.Readiness().Warnings) == 0
	})
	if late, ok := s.metric(t, "skein_scheduler_overdue_seconds"); !ok || late > 1 {
		t.Errorf("the metric says %v s, there %t", late, ok)
	}
	for _, line := range []string{"schedules are late: a firing waits", "schedules are in time again"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("the log says %d times %q", n, line)
		}
	}
}

// What keeps failing is late, and so seen.
func TestLateAsItsInboxIsGone(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.withoutInbox(t)
	s := w.startWatched(t)
	w.put(t, after("s", 0))
	s.awaitLate(t, "s")
	w.registerProject(t, project)
	w.awaitMails(t, 1)
	s.awaitInTime(t, w.log)
	// A try that began without the inbox may break off when its mail is there, and count again.
	fired, ok := s.metric(t, `skein_scheduler_firings_total{project="flight-desk"}`)
	if mails := w.mails(t, project); !ok || fired < 1 || int(fired) > len(mails) || len(once(mails)) != 1 {
		t.Errorf("the metric counts %v firings, there %t, of %d mails", fired, ok, len(mails))
	}
	if n, _ := s.metric(t, "skein_scheduler_firing_lateness_seconds_count"); n != fired {
		t.Errorf("the lateness of %v firings was measured, of %v", n, fired)
	}
}

// blockClock lets no scheduler have a firing until unblock is called.
func (w *world) blockClock(t *testing.T) (c jetstream.Consumer, unblock func()) {
	t.Helper()
	c = w.setAckWait(t, wait)
	if _, err := w.js.PauseConsumer(t.Context(), protocol.StreamClock, protocol.ConsumerClock, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	return c, func() {
		t.Helper()
		if _, err := w.js.ResumeConsumer(t.Context(), protocol.StreamClock, protocol.ConsumerClock); err != nil {
			t.Fatal(err)
		}
	}
}

// A scheduler that does nothing wrong itself sees what another one, which is frozen, holds.
func TestLateAsAnotherSchedulerIsFrozen(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c, unblock := w.blockClock(t)
	first := w.start(t)
	w.put(t, after("s", 0))
	natstest.Eventually(t, wait, "it has come due", func() bool { return w.dueNow(t) == 1 })
	first.stop(t)
	unblock()
	frozen, err := c.Next(jetstream.FetchMaxWait(wait))
	if err != nil {
		t.Fatal(err)
	}
	s := w.startWatched(t)
	s.awaitLate(t, "s")
	if n := len(w.mails(t, project)); n != 0 {
		t.Fatalf("%d mails: somebody else had the firing", n)
	}
	if err := frozen.Nak(); err != nil {
		t.Fatal(err)
	}
	w.awaitMails(t, 1)
	s.awaitInTime(t, w.log)
}

// What nobody can serve, as its row cannot be read, waits.
func TestLateAsItsRowCannotBeRead(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, unblock := w.blockClock(t)
	first := w.start(t)
	w.put(t, after("s", 0))
	natstest.Eventually(t, wait, "it has come due", func() bool { return w.dueNow(t) == 1 })
	first.stop(t)
	if err := w.js.DeleteStream(t.Context(), protocol.KVStream(protocol.SchedulesBucket(project))); err != nil {
		t.Fatal(err)
	}
	unblock()
	s := w.startWatched(t)
	s.awaitLate(t, "s")
	w.registerProject(t, project)
	s.awaitInTime(t, w.log)
	if n := len(w.mails(t, project)); n != 0 {
		t.Errorf("%d mails of a schedule whose row is gone", n)
	}
}

// What does not fire any more is not late, and does not hide what is.
func TestLateBehindWhatDoesNotFire(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, unblock := w.blockClock(t)
	first := w.start(t)
	paused, changed := after("paused", 0), after("changed", 0)
	for i, row := range []protocol.Schedule{paused, after("gone", 0), changed, after("late", 0)} {
		w.put(t, row)
		natstest.Eventually(t, wait, row.ID+" has come due", func() bool { return w.dueNow(t) == i+1 })
	}
	first.stop(t)
	paused.Pause(time.Now(), "for a test")
	changed.At = new(time.Now().Add(time.Hour).UTC())
	w.put(t, paused)
	w.put(t, changed)
	w.delete(t, "gone")
	s := w.startWatched(t)
	s.awaitLate(t, "late")
	unblock()
	w.awaitMails(t, 1)
	s.awaitInTime(t, w.log)
}

// dueNow counts the firings that wait.
func (w *world) dueNow(t *testing.T) int {
	t.Helper()
	n := 0
	natstest.Ask(t, "what has come due", func(ctx context.Context) error {
		stream, err := w.js.Stream(ctx, protocol.StreamClock)
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(protocol.ClockDueSubjects))
		if err == nil {
			n = len(info.State.Subjects)
		}
		return err
	})
	return n
}

// What fires once was not late while it was paused.
func TestResumedIsNotLate(t *testing.T) {
	t.Parallel()
	w := setup(t)
	s := w.startWatched(t)
	row := at("s", time.Now().Add(-time.Hour).UTC())
	row.Created = row.Created.Add(-2 * time.Hour)
	row.Pause(time.Now().Add(-90*time.Minute), "for a test")
	w.put(t, row)
	w.awaitParked(t, "s")
	row.Resume(time.Now())
	w.put(t, row)
	w.awaitMails(t, 1)
	natstest.Eventually(t, wait, "it is counted", func() bool { return s.Stats().Fired > 0 })
	if sum, ok := s.metric(t, "skein_scheduler_firing_lateness_seconds_sum"); !ok || sum > 1800 {
		t.Errorf("it was late by %v s, measured %t", sum, ok)
	}
}

func TestIdleIsNotLate(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if err := streams.EnsureClock(t.Context(), w.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	s := w.startWatched(t)
	w.awaitArmed(t, "s", w.put(t, after("s", time.Hour)))
	if late, ok := s.metric(t, "skein_scheduler_overdue_seconds"); !ok || late != 0 || len(s.health.Readiness().Warnings) != 0 {
		t.Errorf("the metric says %v s, there %t, the health %+v", late, ok, s.health.Readiness())
	}
}
