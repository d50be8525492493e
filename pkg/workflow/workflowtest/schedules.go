package workflowtest

import (
	"log/slog"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/project"
)

// StartSchedules lets the schedules of the project start instances from now on, at their moments on the clock of the test.
// Without it none does, so that a wait of a month is not a month of instances.
func (e *Env) StartSchedules() {
	e.t.Helper()
	if !slices.ContainsFunc(e.Project.Config.Own(), func(w project.Workflow) bool { return len(w.Schedules) > 0 }) {
		e.t.Fatal("workflowtest: StartSchedules: no workflow of the project has schedules")
	}
	e.Join(&schedules{e, scheduler.NewCronHand(scheduler.Options{
		NC: e.Project.NC, JS: e.Project.JS, Log: slog.New(slog.DiscardHandler), Now: e.Now,
	}, e.Project.Journal(), e.Project.Config.Name)})
}

// schedules is a [Source].
type schedules struct {
	env  *Env
	hand *scheduler.Hand
}

// Rests is always so: what is started moves by itself.
func (*schedules) Rests() (moved uint64, rests bool) { return 0, true }

// Next is the next moment of a schedule.
func (s *schedules) Next() (at time.Time, ok bool) {
	s.env.t.Helper()
	at, ok, err := s.hand.Next(s.env.t.Context())
	if err != nil {
		s.env.t.Fatalf("workflowtest: %v", err)
	}
	return at, ok
}

// Move starts the instance of that moment.
func (s *schedules) Move() {
	s.env.t.Helper()
	if err := s.hand.Fire(s.env.t.Context()); err != nil {
		s.env.t.Fatalf("workflowtest: %v", err)
	}
}
