package integration

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// rollout replaces all runners of a project, one after the other, while instances are created, wait and go on.
type rollout struct {
	*world
	// notes is the file in which each body notes itself before it does anything.
	notes   string
	runners []*process
	stopped []time.Time
	heard   *words
	// created has what each instance was told to do.
	created atomic.Int64
}

const (
	// lanes is how many instances there are at a time, rounds how often each runner is replaced.
	lanes  = 15
	rounds = 2
)

// TestRollingUpgrade replaces three runners by others, one after the other and twice around (SIGTERM), under load. No instance
// is lost, no body runs twice, nothing that a runner has had is charged with a lost run, and what was given back goes on at
// once: long before anybody would take it for lost.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fourShards(t), "upgrade")
	w.redeliverAfter(lostAfter)
	r := &rollout{world: w, notes: filepath.Join(t.TempDir(), "notes"), heard: w.hearWords()}
	for range 3 {
		r.runners = append(r.runners, w.runner(setup{version: "0"}))
	}
	quiet, stop := context.WithCancel(t.Context())
	defer stop()
	var load errgroup.Group
	for lane := range lanes {
		load.Go(func() error { return r.drive(quiet, lane) })
	}
	for round := range rounds {
		for i := range r.runners {
			r.replace(i, fmt.Sprint(round+1))
		}
	}
	stop()
	if err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	w.quiesce()
	r.check()
}

// program is what instance n does.
func (r *rollout) program(n int) script {
	const took = 50 * time.Millisecond
	noted := func(name string) op { return op{Do: name, Took: took, Note: r.notes} }
	switch n % 3 {
	case 0:
		return ops(noted("a"), noted("b"), noted("c"), noted("d"), noted("e"), noted("f"))
	case 1:
		return ops(noted("a"), sleep("nap", 150*time.Millisecond), noted("b"), noted("c"), noted("d"))
	}
	return ops(noted("a"), wait("answer", "answer"), noted("b"), noted("c"), noted("d"))
}

// drive has one instance after the other run until it is to be quiet, and waits for the end of the last one.
func (r *rollout) drive(quiet context.Context, lane int) error {
	for n := lane; quiet.Err() == nil; n++ { // a lane goes through all programs
		id := fmt.Sprint(r.created.Add(1)-1, "-", n%3)
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		instance, err := r.scripts().Create(ctx, r.program(n), workflow.ID(id))
		if err == nil && n%3 == 2 {
			pause(ctx, rand.N(300*time.Millisecond))
			err = instance.SendEvent(ctx, "answer", "yes")
		}
		if err == nil {
			_, err = instance.Result(ctx)
		}
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return nil
}

// replace stops a runner in the middle of something, and starts another when it has ended.
func (r *rollout) replace(i int, version string) {
	r.t.Helper()
	old := r.runners[i]
	r.awaitBody(old)
	r.stopped = append(r.stopped, time.Now())
	old.terminate(r.t)
	if !strings.Contains(old.log.String(), "runner hands back its work") {
		r.t.Errorf("%s has not handed back its work", old.name)
	}
	r.runners[i] = r.runner(setup{version: version})
	r.awaitBody(r.runners[i])
}

// awaitBody waits until a runner begins a body.
func (r *rollout) awaitBody(p *process) {
	r.t.Helper()
	before := r.bodiesIn(p)
	eventually(r.t, patience, p.name+" begins a body", func() bool { return r.bodiesIn(p) > before })
}

func (r *rollout) bodiesIn(p *process) int {
	n := 0
	for _, note := range r.noted() {
		if strings.HasSuffix(note, fmt.Sprint(" ", p.pid())) {
			n++
		}
	}
	return n
}

// noted are the notes of all bodies: "<instance> <step> <process>".
func (r *rollout) noted() []string {
	r.t.Helper()
	text, err := os.ReadFile(r.notes)
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// words are the wakes of which a runner has said, when it had them for the first time, that it works, is done, or gives
// them back. Of one that the server sends as a runner ends its subscription nobody does: it counts as delivered, and comes
// again.
type words struct {
	mu  sync.Mutex
	had map[protocol.Wake]bool
}

// hearWords hears what runners say of wakes.
func (w *world) hearWords() *words {
	w.t.Helper()
	heard := &words{had: map[protocol.Wake]bool{}}
	_, err := w.nc.Subscribe(protocol.AckPrefix+"*.*.1.>", func(m *nats.Msg) {
		stream, rest, _ := strings.Cut(strings.TrimPrefix(m.Subject, protocol.AckPrefix), ".")
		sequence, err := strconv.ParseUint(strings.Split(rest, ".")[2], 10, 64)
		if err != nil {
			w.t.Errorf("word of a wake %s: %v", m.Subject, err)
		}
		heard.mu.Lock()
		defer heard.mu.Unlock()
		heard.had[protocol.Wake{Stream: stream, Sequence: sequence}] = true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return heard
}

func (h *words) of(wake protocol.Wake) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.had[wake]
}

// check holds all instances against what was noted, and says how long those stood still that were handed over.
func (r *rollout) check() {
	r.t.Helper()
	trails := r.trails()
	if err := r.nc.FlushTimeout(patience); err != nil {
		r.t.Fatal(err)
	}
	if n := int(r.created.Load()); len(trails) != n || n < lanes {
		r.t.Errorf("%d instances are stored, %d were created", len(trails), n)
	}
	want := map[string]int{}
	var took []time.Duration
	for id, tr := range trails {
		s := r.program(int(id[len(id)-1] - '0'))
		tr.audit(r.t)
		tr.checkOutput(r.t, s, tr.output(r.t))
		// A wake that a busy machine has led astray comes again in its own time, one that reached nobody at once.
		astray := tr.astray() && (tr.log[0].stored.Sub(tr.asked) >= lostAfter || !r.heard.of(*tr.log[0].Entries[0].Wake))
		if tr.lost() != 0 || tr.astray() && !astray {
			r.t.Errorf("%s was charged with a lost run", id)
			tr.show(r.t)
		}
		for _, o := range s.Ops {
			if o.Do != "" {
				want[id+" "+o.Do]++
			}
		}
		took = append(took, r.handOvers(tr)...)
	}
	for _, note := range r.noted() {
		want[note[:strings.LastIndexByte(note, ' ')]]--
	}
	for body, n := range want {
		if n != 0 {
			r.t.Errorf("the body of %s ran %d times, want once", body, 1-n)
		}
	}
	if len(took) < len(r.stopped) {
		r.t.Fatalf("%d instances were handed over by %d runners", len(took), len(r.stopped))
	}
	slices.Sort(took)
	if last := took[len(took)-1]; last > handedOver {
		r.t.Errorf("it took %v until an instance went on", last)
	}
	r.t.Logf("%d instances, %d handed over by %d runners; from SIGTERM to what was stored next: p50 %v, p99 %v",
		len(trails), len(took), len(r.stopped), took[len(took)/2], took[len(took)*99/100])
}

// handOvers are the times from SIGTERM to what was stored next of an instance that its runner gave back: an outcome, a park or
// the end.
func (r *rollout) handOvers(tr *trail) (took []time.Duration) {
	var since time.Time
	for _, l := range tr.log {
		for _, e := range l.Entries {
			switch {
			case e.Kind == protocol.EntryReleased:
				i, _ := slices.BinarySearchFunc(r.stopped, l.stored, func(a, b time.Time) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
				if i == 0 {
					r.t.Errorf("%s was given back at %v, before anybody was told to stop", tr.id, l.stored)
					continue
				}
				since = r.stopped[i-1]
			case !since.IsZero() && e.Kind != protocol.EntryClaimed:
				took, since = append(took, l.stored.Sub(since)), time.Time{}
			}
		}
	}
	return took
}
