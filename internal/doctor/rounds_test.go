package doctor

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestRounds: instances whose wake or timer NATS has lost get another one, with nobody asked, and those that are well get nothing.
func TestRounds(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sleeps, works, waits := at("sleeps", "a"), at("works", "a"), at("waits", "a")
	r.parked(sleeps)
	r.remove("TIMERS_p", r.timerOf(sleeps))
	r.create(works)
	r.ackByHand(stream, wakes)
	r.parked(waits)
	close(r.gate)
	r.serve()
	row, err := streams.LookUp(t.Context(), r.js, "p")
	if err != nil {
		t.Fatal(err)
	}
	makeRounds := func() string {
		t.Helper()
		var log bytes.Buffer
		if err := rounds(t.Context(), r.store, *row, slog.New(slog.NewTextHandler(&log, nil)), 400*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	log := makeRounds()
	for _, want := range []string{"kind=no-timer instance=p/sleeps/a", "kind=no-wake instance=p/works/a"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if n := strings.Count(log, "has got it again"); n != 2 {
		t.Errorf("%d instances got something again:\n%s", n, log)
	}
	natstest.Eventually(t, patience, "a timer is armed", func() bool { return r.has("TIMERS_p", r.timerOf(sleeps)) })
	r.reaches(works, protocol.StateComplete)
	r.reaches(waits, protocol.StateWaiting)
	if log := makeRounds(); log != "" {
		t.Errorf("what is well is told of:\n%s", log)
	}
}

// TestSchedulerMakesRounds: a scheduler has an instance go on that has lost its wake, as often as it is told to look.
func TestSchedulerMakesRounds(t *testing.T) {
	t.Parallel()
	r := setup(t)
	works := at("works", "a")
	r.create(works)
	r.ackByHand(stream, wakes)
	close(r.gate)
	r.serve()
	command := scheduler.Command(Rounds)
	command.SetArgs([]string{"--nats-url", r.nc.ConnectedUrl(), "--doctor-every", "10s"})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := command.ExecuteContext(ctx); err != nil {
			t.Errorf("scheduler: %v", err)
		}
	})
	r.reaches(works, protocol.StateComplete)
	cancel()
	running.Wait()
}
