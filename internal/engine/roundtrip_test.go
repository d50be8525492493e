package engine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// life runs a random program through deaths of its runner. What is appended survives, in random cuts; the code begins
// anew each time, its branches in another order.
type life struct {
	t       *testing.T
	r       *rand.Rand
	log     *log
	now     time.Time
	program []chore
	inputs  []engine.Input
	deaths  int
	gated   int // how often a call had to wait for those that are recorded
	decided int // races
	lost    int // calls that were given up
	// recorded is what the log holds: the answer of each step.
	recorded map[protocol.Key]string

	m       *engine.Machine
	workers []*worker
	answers map[string][]string // of each branch, in the order of its calls
	frozen  bool                // the log must answer all
}

// chore is a call of workflow code, or a branch with chores of its own.
type chore struct {
	op        protocol.Op
	name      string
	eventType string
	branch    []chore
	race      [][]chore // branches of a race
}

// worker is a branch that runs.
type worker struct {
	name    string
	b       *engine.Branch
	todo    []chore
	parent  *worker
	group   *engine.Step
	forks   int
	members int          // branches that run
	step    *engine.Step // what it waits for
	body    bool         // the body of step runs
	race    *engine.Step // that its branches run
	in      *engine.Step // the race that it is a branch of
	index   int          // which one
	end     bool         // it has lost, and does nothing more
}

// inRace reports whether it is within one.
func (w *worker) inRace() bool { return w.parent != nil && (w.in != nil || w.parent.inRace()) }

func randomChores(r *rand.Rand, depth int, prefix string) []chore {
	ops := []protocol.Op{protocol.OpDo, protocol.OpDo, protocol.OpSleep, protocol.OpEvent, protocol.OpValue}
	var all []chore
	for i := range 1 + r.IntN(5) {
		if depth > 0 && r.IntN(3) == 0 {
			all = append(all, chore{branch: randomChores(r, depth-1, fmt.Sprint(prefix, i, "/"))})
			continue
		}
		if depth > 0 && r.IntN(4) == 0 {
			race := chore{op: protocol.OpRace, name: prefix + "race"}
			race.race = append(race.race, randomChores(r, 0, prefix)) // names that are used before and after as well
			for j := range r.IntN(3) {
				race.race = append(race.race, randomChores(r, depth-1, fmt.Sprint(prefix, i, ".", j, "/")))
			}
			all = append(all, race)
			continue
		}
		letter := string(rune('a' + r.IntN(3)))
		all = append(all, chore{op: ops[r.IntN(len(ops))], name: prefix + letter, eventType: letter})
	}
	return all
}

// begin starts the code from the top.
func (x *life) begin() {
	x.m = x.log.machine()
	x.workers = []*worker{{name: "root", b: x.m.Root(), todo: x.program}}
	x.answers = map[string][]string{}
	x.m.Deliver(x.inputs)
}

// cut appends what there is and notes the answers in it.
func (x *life) cut() {
	entries, _ := x.m.Take()
	for _, e := range entries {
		if e.Step == nil {
			continue
		}
		if old, ok := x.recorded[*e.Step]; ok {
			x.t.Fatalf("%v has the outcome %s, then comes %s", *e.Step, old, jsonOf(x.t, e))
		}
		switch e.Kind {
		case protocol.EntryStarted, protocol.EntryWaiting, protocol.EntryAttemptFailed:
		default:
			x.recorded[*e.Step] = answer(e.Result, e.Error, e.Input)
		}
	}
	if len(entries) > 0 {
		x.log.add(entries...)
	}
}

func answer(result json.RawMessage, failure *protocol.Failure, input uint64) string {
	if failure != nil {
		return failure.Name
	}
	return fmt.Sprintf("%s/%d", result, input)
}

// work lets a worker do one thing; it returns false if it waits.
func (x *life) work(w *worker) bool {
	s := w.step
	switch {
	case s != nil && !s.Done && x.m.GivenUp(s.Key):
		x.lose(w)
	case w.race != nil && w.members == 0:
		x.raced(w)
	case w.body:
		w.body = false
		x.endBody(s)
	case s != nil && s.Done:
		x.answers[w.name] = append(x.answers[w.name], answer(s.Result, s.Error, took(s)))
		w.step = nil
	case s != nil && (s.Op != protocol.OpDo || s.Until != nil), (len(w.todo) == 0 || w.race != nil) && w.members > 0:
		return false
	case s != nil:
		x.m.Begin(s, x.now)
		w.body = true
	case len(w.todo) == 0 && !x.m.OpenEnd(w.b), len(w.todo) > 0 && w.todo[0].op != "" && !x.m.Open(w.b, w.todo[0].op, w.todo[0].name):
		x.gated++ // another branch goes on: what never does so was held in vain
		return false
	case len(w.todo) == 0 && w.in != nil && !x.arrive(w):
		x.gated++
		return false
	case len(w.todo) == 0:
		x.leave(w)
	default:
		next := w.todo[0]
		w.todo = w.todo[1:]
		x.call(w, next)
	}
	return true
}

func (x *life) endBody(s *engine.Step) {
	if x.r.IntN(3) == 0 {
		failAttempt(x.m, s, &protocol.Failure{Name: fmt.Sprint("Boom", x.r.IntN(100))}, x.now)
		return
	}
	x.m.Complete(s, json.RawMessage(fmt.Sprint(x.r.IntN(1e6))), x.now)
}

// lose ends a worker that has lost a race.
func (x *life) lose(w *worker) {
	x.lost++
	w.step, w.body, w.todo, w.end = nil, false, nil, true
	x.m.Exempt(w.b)
}

// raced lets a worker go on whose race is over.
func (x *life) raced(w *worker) {
	race := w.race
	if w.race = nil; !race.Done {
		x.lose(w)
		return
	}
	x.answers[w.name] = append(x.answers[w.name], fmt.Sprint("winner ", *race.Winner, " ", string(race.Result)))
}

// arrive reports whether a branch of a race may return: the first decides it.
func (x *life) arrive(w *worker) bool {
	switch race := w.in; {
	case w.end, x.m.GivenUp(race.Key):
	case !race.Done && !x.m.Decidable(race):
		return false
	case !race.Done:
		x.decided++
		x.m.Decide(race, engine.Verdict{Winner: w.index, Result: json.RawMessage(fmt.Sprint(x.r.IntN(1e6)))})
	case *race.Winner == w.index:
		x.m.Settle(race)
	}
	return true
}

func (x *life) leave(w *worker) {
	x.workers = slices.DeleteFunc(x.workers, func(o *worker) bool { return o == w })
	if w.parent != nil {
		x.m.Join(w.b)
		w.parent.members--
	}
}

func (x *life) fork(w *worker, branch []chore) {
	if w.group == nil {
		w.group = x.m.Group(w.b)
	}
	w.forks++
	w.members++
	x.workers = append(x.workers, &worker{
		name: fmt.Sprint(w.name, "/", w.forks), b: x.m.Fork(w.b, w.group), todo: branch, parent: w,
	})
}

func (x *life) contend(w *worker, race *engine.Step, branches [][]chore) {
	w.race = race
	for i, branch := range branches {
		w.forks++
		w.members++
		x.workers = append(x.workers, &worker{
			name: fmt.Sprint(w.name, "/", w.forks), b: x.m.Contend(race, w.b), todo: branch, parent: w, in: race, index: i,
		})
	}
}

func (x *life) call(w *worker, c chore) {
	var err error
	var race *engine.Step
	switch c.op {
	case protocol.OpRace:
		if race, err = x.m.Race(w.b, c.name); err == nil {
			x.contend(w, race, c.race)
			return
		}
	case protocol.OpDo:
		w.step, err = x.m.Do(w.b, c.name, protocol.StepConfig{Retries: 2, Delay: protocol.Duration(time.Minute), LostRuns: 1000})
	case protocol.OpSleep:
		w.step, err = x.m.Sleep(w.b, c.name, x.now.Add(time.Duration(x.r.IntN(60))*time.Minute))
	case protocol.OpEvent:
		var until *time.Time
		if x.r.IntN(2) == 0 {
			moment := x.now.Add(time.Duration(x.r.IntN(60)) * time.Minute)
			until = &moment
		}
		w.step, err = x.m.WaitForEvent(w.b, c.name, c.eventType, until)
	case protocol.OpValue:
		w.step = &engine.Step{Done: true}
		w.step.Result, err = x.m.Value(w.b, c.name, func() json.RawMessage { return json.RawMessage(fmt.Sprint(x.r.IntN(1e6))) })
		if w.inRace() { // what a branch gets that has lost is chance
			w.step = nil
			return
		}
	default:
		x.fork(w, c.branch)
		return
	}
	if errors.Is(err, engine.ErrLost) {
		x.lose(w)
		return
	}
	if err != nil {
		x.t.Fatal(err)
	}
	want, recorded := x.recorded[w.step.Key]
	if got := answer(w.step.Result, w.step.Error, took(w.step)); recorded && (!w.step.Done || got != want) {
		x.t.Fatalf("%v is done: %v, with %s, the log says %s", w.step.Key, w.step.Done, got, want)
	}
	if x.frozen && !w.step.Done {
		x.t.Fatalf("%v has no outcome in the log of a finished run", w.step.Key)
	}
}

// happen lets something happen that no branch does.
func (x *life) happen() {
	switch k := x.r.IntN(10); {
	case k < 4:
		in := x.log.input(fmt.Sprint(len(x.inputs)-x.r.IntN(2)), string(rune('a'+x.r.IntN(3))))
		x.inputs = append(x.inputs, in)
		x.m.Deliver([]engine.Input{in})
	case k < 7:
		if next, ok := x.m.NextDue(); ok && next.After(x.now) {
			x.now = next
		}
		x.m.Due(x.now)
	case k == 9 && x.deaths < 6:
		x.deaths++
		x.log.add(x.log.history().ClaimEntry(x.log.holder))
		x.begin()
	default:
		x.cut()
	}
}

// live runs the code to its end.
func (x *life) live() {
	x.begin()
	for steps := 0; len(x.workers) > 0; steps++ {
		if steps > 20_000 {
			for _, w := range x.workers {
				x.t.Logf("%s: todo %v, step %+v, race %+v, %d members, ended %v", w.name, w.todo, w.step, w.race, w.members, w.end)
			}
			x.t.Fatalf("no end: %v", x.program)
		}
		if w := x.workers[x.r.IntN(len(x.workers))]; !x.frozen && x.r.IntN(4) == 0 || !x.work(w) {
			if !x.frozen {
				x.happen()
			}
		}
	}
}

// TestRoundTrip checks that whatever was appended before a death is answered from the log by the next run, that no
// body runs again whose outcome is there, that nothing has two outcomes and no event is consumed twice.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	deaths, steps, gated, decided, lost := 0, 0, 0, 0, 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 6))
		x := &life{t: t, r: r, log: newLog(t), now: noon, program: randomChores(r, 2, ""), recorded: map[protocol.Key]string{}}
		x.live()
		x.m.Finish(nil, nil)
		x.cut()
		deaths, steps, gated = deaths+x.deaths, steps+len(x.recorded), gated+x.gated
		decided, lost = decided+x.decided, lost+x.lost

		consumed := map[uint64]bool{}
		for k, s := range x.log.history().Steps {
			if in := took(s); in != 0 && consumed[in] {
				t.Fatalf("seed %d: %v took an event that another took", seed, k)
			} else if in != 0 {
				consumed[in] = true
			}
		}
		answers := x.answers
		x.frozen = true
		x.live()
		if x.m.Buffered() || !maps.EqualFunc(x.answers, answers, slices.Equal) {
			t.Fatalf("seed %d: replayed, the answers are %v, were %v", seed, x.answers, answers)
		}
		if d := x.m.Divergence(x.m.Root(), "", ""); len(d.Recorded) > 0 {
			t.Fatalf("seed %d: replayed, %v were not called", seed, d.Recorded)
		}
	}
	if deaths < 400 || steps < 2000 || gated < 100 || decided < 200 || lost < 200 {
		t.Errorf("%d deaths, %d steps, %d calls that waited, %d races and %d calls that lost are too few to tell anything",
			deaths, steps, gated, decided, lost)
	}
}
