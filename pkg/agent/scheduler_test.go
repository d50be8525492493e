package agent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/protocol"
)

// scheduler runs one until the test ends.
func (r *rig) scheduler(t *testing.T) {
	t.Helper()
	nc := r.connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s := scheduler.New(scheduler.Options{NC: nc, JS: js, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("scheduler: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); run.Wait() })
}

func TestSchedulesFire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				return showLog(d, w, r)
			}
			if _, err := Schedule(r.Context(), After(10*time.Millisecond), d.Note, "once"); err != nil {
				return err
			}
			if _, err := Schedule(r.Context(), Every(time.Second), d.Ring, "beat"); err != nil {
				return err
			}
			if _, err := Schedule(r.Context(), Every(time.Second), d.Note, "twice", Times(2), Jitter(200*time.Millisecond)); err != nil {
				return err
			}
			if _, err := Schedule(r.Context(), After(0), d.Fail, "x", Retry{MaxAttempts: 2, BaseDelay: 1}); err != nil {
				return err
			}
			task, err := Schedule(r.Context(), Cron("* * * * * *"), d.Ring, "tick")
			if err != nil {
				return err
			}
			_, err = io.WriteString(w, task.ID)
			return err
		}
		d.ring = func(ctx context.Context, d *desk, text string) error {
			m, ok := Firing(ctx)
			if late := time.Since(m.Planned); !ok || late < 0 {
				t.Errorf("fired %s before its time: %+v", -late, m)
			}
			if strings.Count(strings.Join(d.State().Log, ","), text) == 1 {
				if _, err := CancelSchedule(ctx, m.Schedule); err != nil {
					return err
				}
			}
			return d.Note(ctx, text)
		}
	}, IdleAfter(50*time.Millisecond))) // so that a firing wakes the agent
	r.scheduler(t)
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	r.awaitRecord(t, "jo", "all schedules are over", func(p protocol.Record) bool { return p.Turn >= 8 && len(p.Seen) == 0 })
	_, log := h.call(t, http.MethodGet, "/agents/desk/jo", "")
	if strings.Count(log, "once") != 1 || strings.Count(log, "tick") != 2 || strings.Count(log, "beat") != 2 || strings.Count(log, "twice") != 2 {
		t.Errorf("applied %q, want one firing of the delay and two each of the cron line and the intervals", log)
	}
	natstest.Eventually(t, soon, "the dead letter is there", func() bool { return len(r.rows(t, protocol.DeadBucket(testProject))) == 1 })
	for _, letter := range r.deadLetters(t) {
		if letter.Attempts != 2 || letter.Mail.Retry == nil {
			t.Errorf("dead letter %+v, want one after the attempts that its schedule allows", letter)
		}
	}
	natstest.Eventually(t, soon, "no rows are left", func() bool {
		return len(r.rows(t, protocol.SchedulesBucket(testProject))) == 0
	})
}
