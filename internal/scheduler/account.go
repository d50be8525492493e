package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/process"
)

const (
	// tryFor is how long an account that is not served yet may keep the process from being ready.
	tryFor = 10 * time.Second
	// firstRetry and lastRetry are how long an account is left alone that cannot be served.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// errConnecting is what is wrong with an account at first.
var errConnecting = errors.New("not connected yet")

// account is one of NATS that is served.
type account struct {
	name string
	// data is what the file of its user holds.
	data   []byte
	env    process.Env
	rounds janitor.Rounds
	stop   context.CancelFunc
	ended  chan struct{}
	begun  time.Time
	// metrics are told while the account is served.
	metrics *group

	mu     sync.Mutex // guards what follows
	health *process.Health
	failed error
	tried  bool
}

// about names its warning.
func (s *account) about() string { return "account " + s.name }

// run serves it until ctx is done. What fails is tried again.
func (s *account) run(ctx context.Context) {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		begun := time.Now()
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > lastRetry {
			pause = firstRetry
		}
		s.env.Log.ErrorContext(ctx, "cannot serve an account, trying on", slog.Any(logkey.Error, err), slog.Duration(logkey.Delay, pause))
		s.set(process.NewHealth(), err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// session connects and serves the account until ctx is done or that cannot go on.
func (s *account) session(ctx context.Context) error {
	env := s.env
	nc, err := process.Connect(ctx, env.Name, env.Settings, env.Log)
	if err != nil {
		return err
	}
	defer process.CloseConn(ctx, nc, env.Log)
	env.NC, env.Health = nc, process.NewHealth()
	if env.JS, err = jetstream.New(nc); err != nil {
		return err
	}
	env.Health.Check("nats", func() error {
		if !nc.IsConnected() {
			return errors.New("not connected")
		}
		return nil
	})
	counted := &group{Registerer: s.metrics.Registerer}
	defer counted.drop()
	env.Metrics = counted
	scheduler := New(optionsOf(&env, s.rounds))
	s.set(env.Health, nil)
	return scheduler.Run(ctx)
}

func (s *account) set(health *process.Health, failed error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health, s.failed, s.tried = health, failed, s.tried || failed != nil
}

// trouble says what is wrong with the account; nil if it is served and nothing is late.
func (s *account) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	r := s.health.Readiness()
	if len(r.Parts) == 0 {
		return errConnecting
	}
	var errs []error
	for _, list := range []map[string]string{r.Parts, r.Warnings} {
		for _, what := range slices.Sorted(maps.Keys(list)) {
			if list[what] != "ready" {
				errs = append(errs, fmt.Errorf("%s: %s", what, list[what]))
			}
		}
	}
	return errors.Join(errs...)
}

// serves reports whether what comes due in the account is served here.
func (s *account) serves() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := s.failed == nil && s.health.Readiness().Ready
	s.tried = s.tried || is
	return is
}

// wasTried reports whether the account was served, or could not be, or had the time for that.
func (s *account) wasTried() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tried || time.Since(s.begun) > tryFor
}

// expose has the metrics tell whether the account is served.
func (s *account) expose() {
	s.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "skein", Subsystem: "scheduler", Name: "account_served",
		Help: "Whether this scheduler serves the account of NATS: 1, or 0 if it cannot.",
	}, func() float64 {
		if s.serves() {
			return 1
		}
		return 0
	}))
}

// group registers collectors that go together.
type group struct {
	prometheus.Registerer
	all []prometheus.Collector
}

// Register is that of a prometheus.Registerer.
func (g *group) Register(c prometheus.Collector) error {
	err := g.Registerer.Register(c)
	if err == nil {
		g.all = append(g.all, c)
	}
	return err
}

// MustRegister is that of a prometheus.Registerer.
func (g *group) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := g.Register(c); err != nil {
			panic(err)
		}
	}
}

// drop takes all away.
func (g *group) drop() {
	for _, c := range g.all {
		g.Unregister(c)
	}
}
