package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

const historyAgents, callers = 200, 8

// promises are the notes that somebody was told would be there.
type promises struct {
	mu    sync.Mutex // guards notes
	notes map[string][]string
}

func (p *promises) add(agent string, notes ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes[agent] = append(p.notes[agent], notes...)
}

// TestAgentHistory calls, tells, plans and has workflows call back 200 agents on three hosts without a pause, while hosts
// are killed (SIGKILL) and frozen for longer than their leases (SIGSTOP, SIGCONT). Every revision of every record is checked
// as it comes; at the end, everything that was promised is there, once, and in the order of its lane. Not parallel: it takes
// the machine.
func TestAgentHistory(t *testing.T) {
	w := newWorld(t, singleServer(t), "history")
	w.narrow()
	w.answers()
	w.scheduler()
	h := w.follow()
	hosts := []*agentHost{w.host(""), w.host(""), w.host("")}
	examined := w.underDoctors()
	p := &promises{notes: map[string][]string{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for n := range callers {
		load.Go(func() { w.ask(ctx, p, n) })
	}
	kills, freezes := w.breakHosts(time.Now().Add(max(8*time.Second, *soak)), hosts, h.moved, stop)
	load.Wait()
	h.upTo(w)
	h.report(t)
	if t.Failed() { // then what was promised may never come
		return
	}
	w.checkPromises(p)
	examined()
	h.upTo(w)
	h.report(t)
	if letters := w.deadLetters(); len(letters) > 0 {
		t.Errorf("dead letters %+v, want none", letters)
	}
	t.Logf("%d revisions, %d more not seen, of %d agents that were taken %d times, through %d kills and %d freezes",
		h.count, len(h.holes), len(h.last), h.takes, kills, freezes)
	if kills == 0 || freezes == 0 || !h.moved() || len(h.holes) > h.count/10 {
		t.Error("too little happened, or was seen")
	}
}

// narrow makes what the agents store, and sets the windows in which servers drop duplicates to 100 ms: they must hide
// nothing.
func (w *world) narrow() {
	w.t.Helper()
	ctx := w.t.Context()
	if err := streams.EnsureAgents(ctx, w.js, w.name, streams.Options{Replicas: w.replicas}); err != nil {
		w.t.Fatal(err)
	}
	var all []jetstream.StreamConfig
	natstest.Ask(w.t, "the streams", func(ctx context.Context) error {
		all = nil
		lister := w.js.ListStreams(ctx)
		for info := range lister.Info() {
			all = append(all, info.Config)
		}
		return lister.Err()
	})
	for _, config := range all {
		config.Duplicates = 100 * time.Millisecond
		natstest.Ask(w.t, "narrow "+config.Name, func(ctx context.Context) error {
			_, err := w.js.UpdateStream(ctx, config)
			return err
		})
	}
}

// answersBinding leads to a workflow that calls back.
var answersBinding = workflow.Bind[callBack, string]("answers")

// callBack says whom a workflow calls back, and with what.
type callBack struct{ Agent, Note string }

// answers runs the workflows that call agents back, until the test ends, or stop is called.
func (w *world) answers() (stop func()) {
	w.t.Helper()
	run := func(ctx context.Context, e workflow.Event[callBack]) (string, error) {
		to := clerkClass.Agent(e.Payload.Agent)
		if err := agent.Tell(ctx, to, (*clerk).Do, order{Note: e.Payload.Note + ".told"}); err != nil {
			return "", err
		}
		_, err := agent.Call(ctx, to, (*clerk).Done, order{Note: e.Payload.Note + ".called"}, agent.Timeout(patience))
		return e.Payload.Note + ".ended", err
	}
	p, err := project.Open(w.t.Context(), project.Config{Name: w.name, Workflows: []project.Workflow{{Name: "answers", ClassName: "Answers"}}},
		project.Conn(w.connect(w.t)))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := aside(func() error { return project.Run(ctx, p, workflow.Runner(workflow.Define("Answers", run))) })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("runner: %v", err)
		}
		p.Close()
	})
	w.t.Cleanup(stop)
	eventually(w.t, patience, "the runner is ready", p.IsReady)
	return stop
}

// ask asks agents for one thing after the other and notes what they promise.
func (w *world) ask(ctx context.Context, p *promises, caller int) {
	for n, i, others := 0, 0, 0; ctx.Err() == nil; n++ {
		if n%5 != 4 { // else whoever has told tells once more, so that lanes have an order
			if i = rand.IntN(historyAgents); others < historyAgents/callers {
				i = caller*historyAgents/callers + others // so that all take part
			}
			others++
		}
		name, other := fmt.Sprint("c", i), fmt.Sprint("c", (i+1)%historyAgents)
		note := fmt.Sprintf("%d.%d", caller, n)
		ref := clerkClass.In(w.project).Agent(name)
		var err error
		switch n % 5 {
		case 0:
			err = agent.Tell(w.t.Context(), ref, (*clerk).Do, order{Note: note})
			p.add(name, note)
		case 1:
			_, err = agent.Call(w.t.Context(), ref, (*clerk).Planned, order{Note: note}, agent.Timeout(patience))
			p.add(name, note)
		case 2:
			_, err = agent.Call(w.t.Context(), ref, (*clerk).Begun, order{Note: note}, agent.Timeout(patience))
			p.add(name, note+".told", note+".called", note+".ended")
		default: // the note says who tells whom, so that order can be checked
			note = fmt.Sprintf("%s@%s>%s", note, name, other)
			_, err = agent.Call(w.t.Context(), ref, (*clerk).Done, order{Note: note, Tell: other}, agent.Timeout(patience))
			p.add(name, note)
			p.add(other, note)
		}
		if err != nil {
			w.t.Errorf("call of %s for %s: %v", name, note, err)
			return
		}
	}
}

// breakHosts kills or freezes a host every two seconds, at least until a moment, and until there were some of both and enough has come of
// it, the test has failed or its patience is over. Then it calls stop, and lets the frozen ones go on.
func (w *world) breakHosts(until time.Time, hosts []*agentHost, enough func() bool, stop func()) (kills, freezes int) {
	w.t.Helper()
	var frozen *agentHost
	var since time.Time
	thaw := func() {
		if frozen != nil {
			pause(w.t.Context(), time.Until(since.Add(9*time.Second))) // longer than its lease, and until others know
			frozen.thaw(w.t)
			frozen = nil
		}
	}
	for turn := 0; ; turn++ {
		pause(w.t.Context(), time.Second+rand.N(time.Second))
		if late := time.Since(until); late > patience || late > 0 && (kills > 0 && freezes > 0 && enough() || w.t.Failed()) {
			break
		}
		i := turn % len(hosts)
		switch {
		case hosts[i] == frozen:
			thaw()
		case frozen == nil && turn%2 == 0:
			hosts[i].freeze(w.t)
			frozen, since = hosts[i], time.Now()
			freezes++
		default:
			hosts[i].kill(w.t)
			hosts[i] = w.host("")
			kills++
		}
	}
	stop()
	thaw()
	return kills, freezes
}

// checkPromises waits until all that was promised is there, and sees that it is there once, and in order.
func (w *world) checkPromises(p *promises) {
	w.t.Helper()
	all := map[string][]string{}
	missing := ""
	eventually(w.t, patience, "everything that was promised is there", func() bool {
		for agent, promised := range p.notes {
			if len(all[agent]) >= len(promised) {
				continue
			}
			if all[agent] = w.notes(agent); len(all[agent]) < len(promised) {
				missing = agent
				return false
			}
		}
		return true
	})
	w.inboxEmpty()
	for agent := range p.notes {
		all[agent] = w.notes(agent)
		have, want := slices.Sorted(slices.Values(all[agent])), slices.Sorted(slices.Values(p.notes[agent]))
		if !slices.Equal(have, want) {
			w.t.Errorf("%s has notes %q, want %q once each (%s was late)", agent, have, want, missing)
		}
	}
	checkLanes(w.t, all)
}

// checkLanes: what one agent tells another comes in the order in which it was told.
func checkLanes(t *testing.T, all map[string][]string) {
	t.Helper()
	lanes := 0
	for _, from := range slices.Sorted(maps.Keys(all)) {
		told := map[string][]string{}
		for _, note := range all[from] {
			if route, ok := strings.CutPrefix(note[strings.IndexByte(note, '@')+1:], from+">"); ok {
				told[route] = append(told[route], note)
			}
		}
		for to, want := range told {
			heard := slices.DeleteFunc(slices.Clone(all[to]), func(note string) bool { return !strings.HasSuffix(note, "@"+from+">"+to) })
			if !slices.Equal(heard, want) {
				t.Errorf("%s has told %s %q, heard was %q", from, to, want, heard)
			}
			lanes += min(1, len(want)-1)
		}
	}
	if lanes == 0 {
		t.Error("no lane has had two messages")
	}
}
