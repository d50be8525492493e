package janitor_test

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestRoundsAreMade: a janitor looks after the instances of a project again and again, also when that could not be done, and not with
// each of its looks.
func TestRoundsAreMade(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	rounds := make(chan protocol.Project, 10)
	var log lines
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := time.Now()
	go func() {
		ended <- janitor.New(janitor.Options{
			Store: y.store, JS: y.js, Log: slog.New(slog.NewTextHandler(&log, nil)), ID: "janitor", Every: 20 * time.Millisecond,
			RoundsEvery: 500 * time.Millisecond,
			Rounds: func(_ context.Context, _ *journal.Store, row protocol.Project, _ *slog.Logger) error {
				rounds <- row
				return errors.New("on purpose")
			},
		}).Run(ctx)
	}()
	for range 3 {
		select {
		case row := <-rounds:
			if row.Name != "p" || len(row.Workflows) == 0 {
				t.Errorf("it looks after %+v", row)
			}
		case <-time.After(natstest.Patience):
			t.Fatal("it looks after nothing")
		}
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("three rounds within %s", took)
	}
	natstest.Eventually(t, natstest.Patience, "it says what it could not do", func() bool {
		return log.count("cannot look after the instances of a project now") > 0
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestLooksAreOftenEnoughForRounds: a janitor looks at projects twice between two rounds at least, and every five minutes.
func TestLooksAreOftenEnoughForRounds(t *testing.T) {
	t.Parallel()
	for rounds, want := range map[time.Duration]time.Duration{0: 5 * time.Minute, time.Hour: 5 * time.Minute, time.Minute: 30 * time.Second} {
		if got := janitor.New(janitor.Options{RoundsEvery: rounds}); got.Every != want || got.RoundsEvery != cmp.Or(rounds, 10*time.Minute) {
			t.Errorf("with rounds every %v it looks every %v, and makes them every %v", rounds, got.Every, got.RoundsEvery)
		}
	}
}
