package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/backup"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/workflow"
)

// saved is what a backup is made of: a world of agents that tell each other, plan and have workflows call them back, with
// schedules; and one of instances that sleep, wait for an event and call those of another one.
type saved struct {
	*world
	flows, called *world
	notes         *promises

	mu sync.Mutex // guards what follows
	// created are the instances that were acknowledged, sent those of them whose event was, too.
	created map[string]bool
	sent    map[string]bool
}

const savedBells = 3

func savedScript() script {
	child := ops(do("x"), sleep("nap", 2500*time.Millisecond))
	return ops(do("a"), slow("b", tenths), sleep("nap", 2500*time.Millisecond), wait("go", "go"), do("c"), op{Call: "call", Script: &child}, do("d"))
}

func newSaved(t *testing.T, r *rig) *saved {
	t.Helper()
	s := &saved{
		world: newWorld(t, r, "saved"), flows: newWorld(t, r, "saved-flows"), called: newWorld(t, r, "saved-calls"),
		notes: &promises{notes: map[string][]string{}}, created: map[string]bool{}, sent: map[string]bool{},
	}
	s.flows.calls = s.called
	s.narrow()
	return s
}

// serve starts processes for everything. They are killed with the returned function.
func (s *saved) serve() (kill func()) {
	s.t.Helper()
	stop := s.answers()
	all := []*process{s.flows.runner(setup{}), s.called.runner(setup{}), s.host("").process, s.clock()}
	return func() {
		stop()
		for _, p := range all {
			p.kill(s.t)
		}
	}
}

// clock starts a scheduler.
func (s *saved) clock() *process {
	s.t.Helper()
	p := launch(s.t, "scheduler of "+s.name, roleScheduler, nil, "--nats-url", s.url, "--replicas", fmt.Sprint(s.replicas), "--log-level", "debug")
	p.awaitLog(s.t, `msg="following schedules" project=`+s.name+"\n")
	return p
}

func bellName(n int) string { return fmt.Sprint("bell", n) }

func (s *saved) hang() {
	s.t.Helper()
	for n := range savedBells {
		if _, err := agent.Call(s.t.Context(), bellClass.In(s.project).Agent(bellName(n)), (*bell).Hang, time.Second, agent.Timeout(patience)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// start creates instances, and sends each its event, until ctx ends.
func (s *saved) start(ctx context.Context, by int, every time.Duration) {
	for n := 0; ctx.Err() == nil; n++ {
		pause(ctx, every) // how many there are is no matter, they all have to end
		id := fmt.Sprintf("i%d-%d", by, n)
		i, err := s.flows.scripts().Create(s.t.Context(), savedScript(), workflow.ID(id))
		if err != nil {
			s.t.Errorf("create %s: %v", id, err)
			return
		}
		s.note(s.created, id)
		if n%3 == 0 {
			continue // its event comes later
		}
		if err := i.SendEvent(s.t.Context(), "go", id); err != nil {
			s.t.Errorf("event to %s: %v", id, err)
			return
		}
		s.note(s.sent, id)
	}
}

func (s *saved) note(in map[string]bool, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in[id] = true
}

// acknowledged is what was, up to now.
func (s *saved) acknowledged() (created, sent map[string]bool, notes map[string][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes.mu.Lock()
	defer s.notes.mu.Unlock()
	notes = map[string][]string{}
	for name, all := range s.notes.notes {
		notes[name] = slices.Clone(all)
	}
	return maps.Clone(s.created), maps.Clone(s.sent), notes
}

// load has agents asked for something, and instances created, until stop is called, or the test ends.
func (s *saved) load(askers, creators int, every time.Duration) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	var load sync.WaitGroup
	for n := range askers {
		load.Go(func() { s.ask(ctx, s.notes, n) })
	}
	for n := range creators {
		load.Go(func() { s.start(ctx, n, every) })
	}
	stop = sync.OnceFunc(func() { cancel(); load.Wait() })
	s.t.Cleanup(stop) // what it started ends before its servers do
	return stop
}

// moreOf waits until so many more instances and agents have acknowledged something.
func (s *saved) moreOf(instances, agents int) {
	s.t.Helper()
	created, _, notes := s.acknowledged()
	eventually(s.t, patience, fmt.Sprintf("%d more instances and %d more agents with notes", instances, agents), func() bool {
		c, _, n := s.acknowledged()
		return len(c) >= len(created)+instances && len(n) >= len(notes)+agents
	})
}

// TestBackup makes a backup while three projects are under load, destroys them with their server, and restores the backup to another.
// What was acknowledged before the backup began goes on there and ends: each step with one result, each note once and in the order
// of its lane, each moment of each schedule once. Not parallel: it takes the machine.
func TestBackup(t *testing.T) {
	server := natstest.Start(t)
	s := newSaved(t, &rig{url: server.URL(), replicas: 1, connect: server.Connect})
	kill := s.serve()
	s.hang()
	stop := s.load(2, 1, 60*time.Millisecond)
	s.moreOf(15, 12)
	pause(t.Context(), *soak)
	created, sent, notes := s.acknowledged()
	dir := filepath.Join(t.TempDir(), "backup")
	told := map[string]int{}
	m, err := backup.Create(t.Context(), backup.Options{JS: s.js, Store: s.store, Dir: dir, Progress: func(what string, done int) { told[what] = done }})
	if err != nil {
		t.Fatal(err)
	}
	s.moreOf(5, 0) // what goes on is lost
	stop()
	kill()
	server.Stop(t)
	messages := uint64(0)
	for _, stream := range m.Streams {
		messages += stream.Messages
	}
	t.Logf("%d messages in %s, of %d instances and notes of %d agents: %v", messages, m.Ended.Sub(m.Began), len(created), len(notes), told)
	v, err := backup.Verify(t.Context(), backup.VerifyOptions{Dir: dir})
	if err != nil || !v.Whole() {
		t.Fatalf("verify: %+v, %v", v, err)
	}
	t.Logf("verified: %v, %d agents, put right: %v", v.States, v.Agents, v.Findings)
	r := singleServer(t)
	nc := r.connect(t)
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	done, err := backup.Restore(t.Context(), backup.RestoreOptions{JS: natstest.JetStream(t, nc), Store: store, Dir: dir, Patience: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restored, put right: %v", done.Findings)
	again := newSaved(t, r)
	again.serve()
	again.end(created, sent, notes)
}

// end looks whether everything ends as it should.
func (s *saved) end(created, sent map[string]bool, notes map[string][]string) {
	s.t.Helper()
	for id := range created {
		if !sent[id] {
			s.flows.sendWhileItLives(id, "go", id)
		}
	}
	for id := range created {
		s.flows.finish(id, savedScript())
	}
	s.checkNotes(notes)
	for n := range savedBells {
		s.checkBell(n)
	}
	for _, w := range []*world{s.world, s.flows, s.called} {
		if r, err := w.examine(s.t.Context(), 2*ackWait, false); err != nil || r.Findings > 0 {
			s.t.Errorf("the doctor finds %+v in %s, %v", r, w.name, err)
		}
	}
}

// checkNotes: what was promised is there; nothing is there twice, or out of order.
func (s *saved) checkNotes(promised map[string][]string) {
	s.t.Helper()
	all := map[string][]string{}
	for name, want := range promised {
		lacking := want
		eventually(s.t, patience, "all notes of "+name, func() bool {
			all[name] = s.world.notes(name)
			lacking = slices.DeleteFunc(slices.Clone(want), func(n string) bool { return slices.Contains(all[name], n) })
			return len(lacking) == 0
		})
	}
	s.inboxEmpty()
	for n := range historyAgents {
		name := fmt.Sprint("c", n)
		all[name] = s.world.notes(name)
		once := slices.Sorted(slices.Values(all[name]))
		if again := len(once) - len(slices.Compact(slices.Clone(once))); again > 0 {
			s.t.Errorf("%s has %d notes twice: %q", name, again, once)
		}
	}
	checkLanes(s.t, all)
}

// checkBell: each moment of its schedule came once, in order, those among them that came while nobody lived, and more come.
func (s *saved) checkBell(n int) {
	s.t.Helper()
	rung := func() (moments []int64) {
		r, ok := s.recordIn("Bell", bellName(n))
		if ok && r.State != nil {
			if err := json.Unmarshal(r.State, &moments); err != nil {
				s.t.Fatal(err)
			}
		}
		return moments
	}
	before := len(rung())
	eventually(s.t, patience, bellName(n)+" rings on", func() bool { return len(rung()) > before })
	all := rung()
	for i := range all[1:] {
		if step := all[i+1] - all[i]; step != time.Second.Milliseconds() {
			s.t.Errorf("%s: moment %d comes %d ms after the one before: %v", bellName(n), i+1, step, all)
		}
	}
}
