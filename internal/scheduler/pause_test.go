package scheduler_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

func (w *world) awaitParked(t *testing.T, id string) *protocol.Tick {
	t.Helper()
	var tick *protocol.Tick
	natstest.Eventually(t, wait, "it is parked", func() bool {
		tick = w.armed(t, id)
		return tick != nil && tick.Parked && w.unacked(t, protocol.StreamClock, protocol.ConsumerClock) == 0
	})
	return tick
}

// TestPause pauses a schedule that has fired, and resumes it after moments have passed.
func TestPause(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	row := cron("s", "* * * * * *")
	w.put(t, row)
	w.awaitFirings(t, 2)
	paused := time.Now()
	row.Pause(paused, "for a test")
	w.put(t, row)
	tick := w.awaitParked(t, "s")
	before := len(once(w.mails(t, project)))
	if tick.Progress == nil || tick.Progress.Runs != before {
		t.Fatalf("parked is %+v, after %d firings", tick, before)
	}
	natstest.Eventually(t, wait, "moments have passed", func() bool { return time.Since(tick.Planned) > 1500*time.Millisecond })
	if n := len(once(w.mails(t, project))); n != before {
		t.Fatalf("%d firings of a schedule that is paused", n-before)
	}
	resumed := time.Now()
	row.Resume(resumed)
	w.put(t, row)
	mails := w.awaitFirings(t, before+2)
	if first := mails[before]; !first.Planned.After(resumed) || first.Planned.After(resumed.Add(1500*time.Millisecond)) {
		t.Errorf("resumed at %s, the first firing is of %s", resumed, first.Planned)
	}
	natstest.Eventually(t, wait, "it counts on", func() bool {
		tick := w.armed(t, "s")
		return tick != nil && tick.Progress.Runs >= before+2
	})
}

// TestPauseOfAFiringThatWasMailed pauses a schedule whose scheduler has died between the mail and all that comes after it.
func TestPauseOfAFiringThatWasMailed(t *testing.T) {
	t.Parallel()
	w := setup(t)
	row := cron("s", "* * * * * *")
	w.put(t, row)
	first := w.start(t)
	w.awaitMails(t, 1)
	first.stop(t)
	var clock jetstream.Consumer
	natstest.Ask(t, "the consumer of the clock", func(ctx context.Context) (err error) {
		clock, err = w.js.Consumer(ctx, protocol.StreamClock, protocol.ConsumerClock)
		return err
	})
	firing, err := clock.Next(jetstream.FetchMaxWait(wait))
	if err != nil {
		t.Fatal(err)
	}
	var tick protocol.Tick
	if err := json.Unmarshal(firing.Data(), &tick); err != nil {
		t.Fatal(err)
	}
	mail := w.mails(t, project)[0]
	mail.Number, mail.Planned = protocol.FiringNumber(tick.Planned), &tick.Planned
	w.mail(t, mail)
	row.Pause(time.Now(), "for a test")
	w.put(t, row)
	if err := firing.Nak(); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	parked := w.awaitParked(t, "s")
	moments := map[uint64]bool{}
	for _, m := range w.mails(t, project) {
		moments[m.Number] = true
	}
	if parked.Progress == nil || parked.Progress.Runs != len(moments) || !parked.Planned.After(tick.Planned) {
		t.Errorf("parked is %+v with %+v, %d moments have fired, the last one was %s", parked, parked.Progress, len(moments), tick.Planned)
	}
}

func TestPausedDateFiresWhenItIsResumed(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t)
	row := after("s", time.Hour)
	w.awaitArmed(t, "s", w.put(t, row))
	row.At = new(time.Now().Add(-time.Minute).UTC())
	row.Pause(time.Now(), "")
	w.put(t, row)
	w.awaitParked(t, "s")
	row.Resume(time.Now())
	w.put(t, row)
	w.awaitMails(t, 1)
	w.awaitNothingLeft(t)
	if firings := once(w.mails(t, project)); len(firings) != 1 || !firings[0].Planned.Equal(*row.At) {
		t.Errorf("firings %+v", firings)
	}
}
