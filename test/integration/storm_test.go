package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// storm runs many instances while something breaks all the time, and audits every message of every one of them.
type storm struct {
	instances int
	// over is in how much time they are created.
	over time.Duration
	// every is how often something breaks, until all have ended: once in each such span, at a moment that varies. What
	// breaks in step with the 5 seconds after which a wake comes again can hit the same instance every time. When all are
	// created, the spans grow: on a machine where a runner takes longer to start than it lives, nothing would ever end.
	every  time.Duration
	damage func(w *world, runners []*process)
	// within is the time for all to end.
	within time.Duration
}

// weather are the scripts of a storm, by turns.
func weather() []script {
	return []script{
		ops(do("one"), do("two"), do("three"), do("four"), do("five")),
		ops(do("a"), slow("b", 20*time.Millisecond), sleep("nap", 2100*time.Millisecond), do("c")),
		ops(do("a"), wait("answer", "answer"), slow("b", 20*time.Millisecond), do("c")),
		ops(sideBySide(inTurn(do("x"), sleep("nap", 2100*time.Millisecond)), inTurn(slow("y", 50*time.Millisecond), wait("answer", "answer"))), do("z")),
	}
}

// run returns how often something broke, and how many runs were lost by it.
func (s storm) run(w *world) (breaks, lost int) {
	w.t.Helper()
	const runners = 3
	all := make([]*process, runners)
	for i := range all {
		all[i] = w.runner(setup{})
	}
	var creators errgroup.Group
	creators.Go(func() error { return s.create(w) })
	began := time.Now()
	every := s.every
	for span := began; ; span = span.Add(every) {
		if w.ended() == s.instances && time.Since(began) > s.over {
			break
		}
		if time.Since(began) > s.over+s.within {
			w.t.Errorf("after %v %d of %d instances have ended", time.Since(began), w.ended(), s.instances)
			break
		}
		if time.Since(began) > s.over {
			every += every / 10
		}
		pause(w.t.Context(), time.Until(span.Add(rand.N(every))))
		s.damage(w, all)
		breaks++
	}
	if err := creators.Wait(); err != nil {
		w.t.Fatal(err)
	}
	w.quiesce()
	lost = s.audit(w)
	w.t.Logf("%d instances in %v, through %d breaks and %d lost runs", s.instances, time.Since(began).Round(time.Millisecond), breaks, lost)
	return breaks, lost
}

// create starts the instances at an even pace and sends each its events, at once or some time later.
func (s storm) create(w *world) error {
	scripts := weather()
	began := time.Now()
	var group errgroup.Group
	group.SetLimit(200)
	for i := range s.instances {
		pause(w.t.Context(), time.Until(began.Add(s.over*time.Duration(i)/time.Duration(s.instances))))
		group.Go(func() error {
			instance, err := w.scripts().Create(w.t.Context(), scripts[i%len(scripts)], workflow.ID(fmt.Sprint(i)))
			if err != nil || i%len(scripts) < 2 {
				return err
			}
			pause(w.t.Context(), rand.N(time.Second))
			return instance.SendEvent(w.t.Context(), "answer", fmt.Sprint("for ", i))
		})
	}
	return group.Wait()
}

// audit reads the whole stream and looks at each instance in it. It returns how many runs were lost.
func (s storm) audit(w *world) (lost int) {
	w.t.Helper()
	trails := w.trails()
	scripts := weather()
	for i := range s.instances {
		tr := trails[fmt.Sprint(i)]
		if tr == nil {
			w.t.Errorf("instance %d is gone", i)
			continue
		}
		lost += tr.lost()
		tr.audit(w.t)
		tr.checkOutput(w.t, scripts[i%len(scripts)], tr.output(w.t))
	}
	return lost
}

// trails reads the whole streams of the project.
func (w *world) trails() map[string]*trail {
	w.t.Helper()
	trails := map[string]*trail{}
	for _, stream := range w.streams() {
		w.each(stream, protocol.WorkflowSubjects(w.name), func(m *journal.Message) {
			instance, _, err := protocol.ParseInstanceSubject(m.Subject)
			if err != nil {
				w.t.Fatal(err)
			}
			if trails[instance.ID] == nil {
				trails[instance.ID] = w.newTrail(instance.ID)
			}
			if err := trails[instance.ID].add(m); err != nil {
				w.t.Fatal(err)
			}
		})
	}
	return trails
}

// each reads what a stream holds: most of it in large pieces from any server, and what that one may not have yet from the
// leader.
func (w *world) each(stream, subjects string, add func(*journal.Message)) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	next := uint64(1)
	for more := true; more; {
		var page []journal.Message
		var err error
		if page, more, err = w.store.Page(ctx, stream, subjects, next, 500); err != nil {
			w.t.Fatal(err)
		}
		for i := range page {
			add(&page[i])
			next = page[i].Sequence + 1
		}
	}
	for {
		m, err := w.store.NextFromLeader(ctx, stream, subjects, next)
		if errors.Is(err, journal.ErrNotFound) {
			return
		}
		if err != nil {
			w.t.Fatal(err)
		}
		add(m)
		next = m.Sequence + 1
	}
}

// killOne kills one runner with SIGKILL and starts another in its place. It does not wait until that is ready.
func killOne(w *world, runners []*process) {
	w.t.Helper()
	i := rand.IntN(len(runners))
	runners[i].kill(w.t)
	runners[i] = w.runner(setup{unready: true})
}

// TestThousandInstances kills a runner every second while a thousand instances run. Not parallel: it takes the machine.
func TestThousandInstances(t *testing.T) {
	s := storm{instances: 1000, over: 6 * time.Second, every: time.Second, damage: killOne, within: patience}
	breaks, lost := s.run(newWorld(t, singleServer(t), "thousand"))
	if breaks < 6 || lost == 0 {
		t.Errorf("%d runners were killed and %d runs lost: that is no storm", breaks, lost)
	}
}

// TestSoak breaks everything that can be broken, for as long as -soak says.
func TestSoak(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		rig  func(t testing.TB) *rig
	}{{"single server", singleServer}, {"cluster", threeServers}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := storm{instances: int(20 * soak.Seconds()), over: *soak, every: 700 * time.Millisecond, damage: breakAnything, within: patience}
			if breaks, _ := s.run(newWorld(t, row.rig(t), "soak")); breaks == 0 {
				t.Error("nothing broke")
			}
		})
	}
}

// breakAnything kills, stops or freezes a runner, or moves the leader of the stream.
func breakAnything(w *world, runners []*process) {
	w.t.Helper()
	i := rand.IntN(len(runners))
	switch rand.IntN(4) {
	case 0:
		runners[i].freeze(w.t)
		pause(w.t.Context(), rand.N(ackWait+ackWait/2))
		runners[i].thaw(w.t)
	case 1:
		runners[i].awaitLog(w.t, "msg=ready") // before that, SIGTERM ends it in its own way
		runners[i].terminate(w.t)
		runners[i] = w.runner(setup{unready: true})
	case 2:
		w.disturb()
	default:
		killOne(w, runners)
	}
}
