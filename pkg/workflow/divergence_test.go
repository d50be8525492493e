package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// script is workflow code of a test.
type script func(ctx context.Context) error

func steps(names ...string) script {
	return func(ctx context.Context) error {
		for _, name := range names {
			if err := Exec(ctx, name, func(context.Context) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	}
}

// gate is where instances wait while another version of the code is deployed.
func gate(ctx context.Context) error { return event("gate", "go")(ctx) }

func event(name, eventType string) script {
	return func(ctx context.Context) error { _, err := WaitForEvent[string](ctx, name, eventType); return err }
}

func dozes(ctx context.Context) error { return Sleep(ctx, "nap", time.Millisecond) }

func call(ctx context.Context) error {
	_, err := Call(ctx, "pay", Bind[int, int]("child"), 7)
	return err
}

func launch(ctx context.Context) error {
	_, err := Start(ctx, "launch", Bind[int, int]("child"), 7)
	return err
}

func branches(scripts ...script) script {
	return func(ctx context.Context) error {
		g := NewGroup(ctx)
		for _, s := range scripts {
			g.Go(s)
		}
		return g.Wait()
	}
}

func contest(scripts ...script) script {
	return func(ctx context.Context) error {
		var functions []func(ctx context.Context) (int, error)
		for i, s := range scripts {
			functions = append(functions, func(ctx context.Context) (int, error) { return i, s(ctx) })
		}
		_, _, err := Race(ctx, "contest", functions...)
		return err
	}
}

func sleepsLong(ctx context.Context) error { return Sleep(ctx, "long", time.Second) }

func reserve(undo bool) script {
	return func(ctx context.Context) error {
		var options []StepOption
		if undo {
			options = append(options, Compensate(func(context.Context, struct{}, error) error { return nil }))
		}
		return Exec(ctx, "reserve", func(context.Context) error { return nil }, options...)
	}
}

var errBroken = errors.New("on purpose")

func broken(context.Context) error { return errBroken }

func result[T any](v T) script {
	return func(ctx context.Context) error {
		_, err := Do(ctx, "result", func(context.Context) (T, error) { return v, nil })
		return err
	}
}

// change is a workflow whose code changes while its instances wait at the gate.
type change struct {
	name     string
	old, new []script
	// told is what is said of the contradiction; empty if there is none.
	told string
	// fails is set if the new code ends with an error, failed if the old does.
	fails, failed bool
	// mended is set if the new code does not fail from the first step on.
	mended bool
}

func changes() []change {
	return []change{
		{name: "a step is gone", old: []script{steps("a", "b"), gate}, new: []script{steps("a"), gate},
			told: `the log holds step "b", but the code called wait "gate" without`},
		{name: "a step is new", old: []script{steps("a", "b"), gate}, new: []script{steps("a", "new", "b"), gate},
			told: `the log holds step "b", wait "gate", but the code called step "new" without`},
		{name: "two steps swapped", old: []script{steps("a", "b"), gate}, new: []script{steps("b", "a"), gate},
			told: `the log holds step "a", but the code called step "b" without`},
		{name: "a step is a sleep now", old: []script{steps("nap"), gate}, new: []script{dozes, gate},
			told: `the log holds step "nap", wait "gate", but the code called sleep "nap" without`},
		{name: "a sleep is gone", old: []script{steps("a"), dozes, gate}, new: []script{steps("a"), gate},
			told: `the log holds sleep "nap", but the code called wait "gate" without`},
		{name: "a wait is another", old: []script{steps("a"), gate}, new: []script{steps("a"), event("door", "go")},
			told: `the log holds wait "gate", but the code called wait "door" without`},
		{name: "a wait that is over is gone", old: []script{event("early", "early"), gate}, new: []script{gate},
			told: `the log holds wait "early", but the code called wait "gate" without`},
		{name: "fewer rounds", old: []script{steps("a", "a", "a"), gate}, new: []script{steps("a", "a"), gate},
			told: `the log holds step "a" #3, but the code called wait "gate" without`},
		{name: "a function of a group is shorter", old: []script{branches(steps("a", "b"), steps("c")), gate},
			new: []script{branches(steps("a"), steps("c")), gate}, told: `the log holds step "b", but a function of a group returned without`},
		{name: "a group is gone", old: []script{branches(steps("a"), steps("b")), gate}, new: []script{gate},
			told: `but the code called wait "gate" without`},
		{name: "a call is gone", old: []script{steps("a"), call, gate}, new: []script{steps("a"), gate},
			told: `the log holds call "pay", but the code called wait "gate" without`},
		{name: "a start is gone", old: []script{steps("a"), launch, gate}, new: []script{steps("a"), gate},
			told: `the log holds step "launch", but the code called wait "gate" without`},
		{name: "a race is gone", old: []script{contest(steps("a"), steps("b")), gate}, new: []script{steps("a"), gate},
			told: `the log holds race "contest"`},
		{name: "the winner of a race is gone", old: []script{contest(sleepsLong, steps("a")), gate}, new: []script{contest(sleepsLong), gate},
			told: `the log holds `},
		{name: "it returns", old: []script{steps("a", "b"), gate}, new: []script{steps("a")},
			told: `the log holds step "b", wait "gate", but the workflow function returned without calling it first. Deploy`},
		{name: "it fails", old: []script{steps("a"), gate}, new: []script{broken}, fails: true,
			told: `the log holds step "a", wait "gate", but the workflow function returned without calling it first (its error: on purpose)`},
		{name: "a result is of another type", old: []script{result(7), gate}, new: []script{result("seven"), gate}, fails: true, mended: true,
			told: `(its error: result of step "result": json: cannot unmarshal number`},
		{name: "a compensation is gone", old: []script{reserve(true), gate, broken}, new: []script{reserve(false), gate, broken}, fails: true, failed: true,
			told: `the log holds the compensation of step "reserve", and the code has none`},

		{name: "nothing", old: []script{steps("a", "b"), gate}, new: []script{steps("a", "b"), gate}},
		{name: "a step is new at the end", old: []script{steps("a"), gate}, new: []script{steps("a"), gate, steps("new"), dozes}},
		{name: "a value is new", old: []script{steps("a"), gate}, new: []script{steps("a"), func(ctx context.Context) error { Now(ctx); NewID(ctx); return nil }, gate}},
		{name: "a compensation is new", old: []script{reserve(false), gate}, new: []script{reserve(true), gate}},
		{name: "steps are side by side now", old: []script{steps("a", "b", "c"), gate}, new: []script{branches(steps("a"), steps("b"), steps("c")), gate}},
		{name: "functions of a group change places", old: []script{branches(steps("a", "b"), dozes, call, launch), gate},
			new: []script{branches(launch, call, steps("a", "b"), dozes), gate}},
		{name: "a race goes on", old: []script{contest(steps("a"), sleepsLong), gate}, new: []script{contest(steps("a"), steps("new")), gate}},
		{name: "another step at the end of a group", old: []script{branches(steps("a"), gate)}, new: []script{branches(steps("a", "new"), gate)}},
	}
}

// define makes a workflow of scripts.
func (c change) define(scripts []script) Definition {
	return Define(c.class(), func(ctx context.Context, _ Event[int]) (string, error) {
		for _, s := range scripts {
			if err := s(ctx); err != nil {
				return "", err
			}
		}
		return "done", nil
	})
}

func (c change) class() string { return strings.ReplaceAll(c.name, " ", "-") }

// deployed are the versions of the code of all workflows.
func deployed(scripts func(c change) []script) (all []Definition) {
	for _, c := range changes() {
		all = append(all, c.define(scripts(c)))
	}
	return append(all, Define("child", func(context.Context, Event[int]) (int, error) { return 7, nil }))
}

func before(c change) []script { return c.old }
func after(c change) []script  { return c.new }

// rollout is a project with a workflow for each change.
type rollout struct {
	*bench
	p *project.Project
}

func newRollout(t *testing.T) *rollout {
	b := setup(t)
	entries := []project.Workflow{{Name: "child", ClassName: "child"}}
	for i, c := range changes() {
		w := project.Workflow{Name: c.class(), ClassName: c.class()}
		if i == 0 { // what is held must hold no slot, or the others never get one
			w.Concurrency = 1
		}
		entries = append(entries, w)
	}
	return &rollout{b, b.open("p", entries...)}
}

// deploy runs a version of the code until the returned function is called.
func (r *rollout) deploy(version string, definitions []Definition) (stop func()) {
	r.t.Helper()
	p := r.open("p", r.p.Config.Workflows...)
	p.Config.Settings.Version = version
	ctx := execution.ContextWith(context.Background(), execution.Settings{Hold: 200 * time.Millisecond})
	return r.startWithin(ctx, p, definitions...)
}

func (r *rollout) get(c change, id string) *Instance[string] {
	r.t.Helper()
	i, err := Bind[int, string](c.class()).In(r.p).Get(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

// begin starts an instance and brings it to the gate.
func (r *rollout) begin(c change, id string) {
	r.t.Helper()
	i, err := Bind[int, string](c.class()).In(r.p).Create(r.t.Context(), 1, ID(id))
	if err == nil && strings.Contains(c.name, "over") {
		err = i.SendEvent(r.t.Context(), "early", "here")
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rollout) goOn(c change, id string) {
	r.t.Helper()
	if err := r.get(c, id).SendEvent(r.t.Context(), "go", "on"); err != nil && !errors.Is(err, ErrFinished) {
		r.t.Fatal(err)
	}
}

func (r *rollout) ends(c change, id string, failed bool) Status {
	r.t.Helper()
	s := r.reaches(c.class(), id, "has ended", func(s Status) bool { return s.State.Finished() })
	if want := map[bool]State{false: Complete, true: Errored}[failed]; s.State != want {
		r.t.Errorf("%s, %s: it is %s: %v", c.name, id, s.State, s.Error)
	}
	return s
}

// The ways out, each for an instance of its own.
const (
	fix    = "fix"
	accept = "accept"
	redo   = "restart"
	twice  = "twice"
)

// TestDivergenceAndItsWaysOut: runners get new code while instances wait. Those that it contradicts are held, and go on
// with the old code, as accepted, or from a step; all others go on as if nothing had happened.
func TestDivergenceAndItsWaysOut(t *testing.T) {
	t.Parallel()
	r := newRollout(t)
	each := func(do func(c change, id string)) {
		for _, c := range changes() {
			for _, id := range []string{fix, accept, redo, twice} {
				do(c, id)
			}
		}
	}
	held := func(do func(c change, id string)) {
		each(func(c change, id string) {
			if c.told != "" {
				do(c, id)
			}
		})
	}
	stop := r.deploy("v1", deployed(before))
	each(r.begin)
	each(func(c change, id string) {
		r.reaches(c.class(), id, "is at the gate", func(s Status) bool {
			return s.State == Waiting && slices.ContainsFunc(s.Steps, func(s protocol.StepStatus) bool { return s.Name == "gate" })
		})
	})
	stop()

	stop = r.deploy("v2", deployed(after))
	each(r.goOn)
	each(func(c change, id string) {
		if c.told == "" {
			r.ends(c, id, c.fails)
			return
		}
		s := r.reaches(c.class(), id, "is held", func(s Status) bool { return s.State == Held })
		if s.Divergence == nil || len(s.Divergence.Recorded) == 0 || s.Error == nil || s.Version != "v2" ||
			s.Error.Name != protocol.FailureDivergence || !strings.Contains(s.Error.Message, c.told) {
			t.Errorf("%s: %v, both sides are %+v", c.name, s.Error, s.Divergence)
		}
	})
	r.costsNothing()
	held(func(c change, id string) {
		switch id {
		case fix: // whether it will do is known before it is deployed
			h, err := r.get(c, id).Export(t.Context())
			if err == nil {
				err = Replay(t.Context(), c.define(c.old), h)
			}
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		case twice: // the fix is not deployed yet
			r.steer(c, id, func(i *Instance[string]) error { return i.Resume(t.Context()) })
			s := r.reaches(c.class(), id, "is held again", func(s Status) bool {
				return s.State == Held && r.kinds(c.class(), id)[protocol.EntryHeld] == 2
			})
			if !strings.Contains(s.Error.Message, c.told) {
				t.Errorf("%s, held again: %v", c.name, s.Error)
			}
		case accept:
			r.steer(c, id, func(i *Instance[string]) error { return i.Resume(t.Context(), AcceptDivergence()) })
		case redo:
			first := r.reaches(c.class(), id, "is held", func(s Status) bool { return s.State == Held }).Steps[0]
			r.steer(c, id, func(i *Instance[string]) error {
				return i.Restart(t.Context(), FromStep(first.Op, first.Name, first.Count))
			})
			r.goOn(c, id)
		}
	})
	held(func(c change, id string) {
		if id == accept || id == redo {
			r.ends(c, id, c.fails && !(c.mended && id == redo))
		}
	})
	stop()

	r.deploy("v3", deployed(before))
	held(func(c change, id string) {
		if id == fix || id == twice {
			r.steer(c, id, func(i *Instance[string]) error { return i.Resume(t.Context()) })
			if s := r.ends(c, id, c.failed); s.Version != "v3" || s.Divergence != nil {
				t.Errorf("%s: ended by %q, with %+v", c.name, s.Version, s.Divergence)
			}
		}
	})
}

func (r *rollout) steer(c change, id string, how func(*Instance[string]) error) {
	r.t.Helper()
	if err := how(r.get(c, id)); err != nil {
		r.t.Fatalf("%s, %s: %v", c.name, id, err)
	}
}

// compact asks for a snapshot and waits for it.
func (r *rollout) compact(c change, id string) {
	r.t.Helper()
	r.put(r.instance(c.class(), id).ControlSubject(), protocol.Control{V: 1, Input: "compact", Action: protocol.ActionCompact, Sent: time.Now()})
	natstest.Eventually(r.t, natstest.Patience, "there is a snapshot", func() bool {
		return r.kinds(c.class(), id)[protocol.EntrySnapshot] == 1
	})
}

// costsNothing waits until every wake is acked: nobody has work with what is held.
func (r *rollout) costsNothing() {
	r.t.Helper()
	for _, name := range []string{protocol.ConsumerWakes(0), protocol.ConsumerControls(0)} {
		natstest.Eventually(r.t, natstest.Patience, "all wakes of "+name+" are acked", func() bool {
			c, err := r.js.Consumer(r.t.Context(), protocol.WorkflowsStream("p", 0), name)
			return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
		})
	}
}

// TestReplay: what a runner would hold, Replay finds in the exported history, without a server; and nothing else.
func TestReplay(t *testing.T) {
	t.Parallel()
	r := newRollout(t)
	stop := r.deploy("v1", deployed(before))
	type file struct {
		change
		state string
		json  []byte
	}
	var files []file
	export := func(c change, state string) {
		h, err := r.get(c, "a").Export(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file{c, state, body})
	}
	for _, c := range changes() {
		r.begin(c, "a")
	}
	for _, c := range changes() {
		r.reaches(c.class(), "a", "is at the gate", func(s Status) bool {
			return s.State == Waiting && slices.ContainsFunc(s.Steps, func(s protocol.StepStatus) bool { return s.Name == "gate" })
		})
		export(c, "waiting")
		r.compact(c, "a")
		export(c, "after a snapshot")
		r.goOn(c, "a")
	}
	for _, c := range changes() {
		r.ends(c, "a", c.failed)
		export(c, "ended")
	}
	stop()
	r.nc.Close()
	ctx := execution.ContextWith(t.Context(), execution.Settings{Hold: 100 * time.Millisecond})
	for _, f := range files {
		t.Run(f.name+", "+f.state, func(t *testing.T) {
			t.Parallel()
			var h History
			if err := json.Unmarshal(f.json, &h); err != nil {
				t.Fatal(err)
			}
			if err := Replay(ctx, f.define(f.old), h); err != nil {
				t.Errorf("with the code that wrote it: %v", err)
			}
			f.checkDiverged(t, Replay(ctx, f.define(f.new), h))
		})
	}
}

// checkDiverged holds what Replay says of the new code against what a runner would say.
func (c change) checkDiverged(t *testing.T, err error) {
	t.Helper()
	if c.told == "" {
		if err != nil {
			t.Errorf("with code that may go on: %v", err)
		}
		return
	}
	diverged, ok := errors.AsType[*DivergenceError](err)
	told, _, _ := strings.Cut(c.told, ". Deploy")
	if !ok || !errors.Is(err, ErrDivergence) || diverged.Version != "v1" || diverged.ID != "a" || diverged.Divergence == nil ||
		!strings.Contains(err.Error(), told) {
		t.Errorf("the error is %v, want %s", err, told)
	}
}
