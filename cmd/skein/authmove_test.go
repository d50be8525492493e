package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

// What instances of grind have to do, beside one that has what is large: of one that is paused, and of one that no runner has seen yet.
const paused, unseen = "it is paused", "nobody has seen it"

// TestFromOneAccountToOneEach goes the way that docs/security.md describes: two projects of one account, which call each other, are
// backed up by themselves and restored to an account each. Nothing of the other is there, a doctor finds nothing, and what was begun
// in the old cluster ends in the new one, through doors.
func TestFromOneAccountToOneEach(t *testing.T) {
	t.Parallel()
	one, each := newFort(t, 1), newFort(t, 1, "--accounts")
	ticks := 0
	if !t.Run("in one account", func(t *testing.T) { one.t = t; ticks = one.halfDone() }) { // its processes are stopped then
		return
	}
	one.t = t
	one.cli("mill/operator", "", "workflows", "create", "grind", "--id", "c", "--params", `"`+unseen+`"`)
	for _, name := range []string{"desk", "mill"} {
		dir := filepath.Join(t.TempDir(), name)
		saysIn(t, 0, []string{": " + name + ", "}, append([]string{"backup", dir, "--project", name}, one.flags("admin")...)...)
		if text := saysIn(t, 0, []string{"restored " + name + " as of "}, append([]string{"restore", dir}, each.flags(name+"/admin")...)...); strings.Contains(text, "put right") {
			t.Errorf("something was wrong with %s:\n%s", name, text)
		}
		each.holdsOnly(name)
		each.cli(name+"/viewer", "findings 0", "doctor")
	}
	each.otherHalf(ticks)
}

// halfDone has an agent of desk start a workflow of mill, which waits for the agent, and pauses another. It returns how often the
// agent's cron has fired.
func (f *fort) halfDone() (ticks int) {
	f.runAll()
	desks := agent.Bind[*desk]("Desk").In(f.open("desk/operator", deskConfig))
	if _, err := agent.Call(f.t.Context(), desks.Agent("jo"), (*desk).Start, "a"); err != nil {
		f.t.Fatal(err)
	}
	f.cli("mill/operator", "", "workflows", "create", "grind", "--id", "b", "--params", `"`+paused+`"`)
	f.cli("mill/operator", "", "workflows", "pause", "grind", "b")
	f.await(func() bool { // the agent's turn was committed, what it starts in another project follows
		return strings.Contains(f.cli("mill/viewer", "", "workflows", "list", "grind", "--output", "json"), `"id":"a"`)
	}, "the workflow is started")
	f.await(func() bool {
		return strings.Contains(f.cli("mill/viewer", "", "workflows", "describe", "grind", "a"), "confirmed")
	}, "the workflow waits for the agent")
	f.await(func() bool { s := f.look(desks); return s.Rung == 1 && s.Ticks > 1 }, "the schedules of the agent fire")
	f.await(func() bool {
		return strings.Contains(f.cli("desk/viewer", "", "dead-letters", "list"), "it always fails")
	}, "a dead letter")
	return f.look(desks).Ticks
}

// otherHalf starts the processes again, and has all end that was begun.
func (f *fort) otherHalf(ticks int) {
	f.runAll()
	program := f.open("desk/operator", deskConfig)
	desks := agent.Bind[*desk]("Desk").In(program)
	if s := f.look(desks); s.Rung != 1 || s.Ticks < ticks {
		f.t.Errorf("the agent has %+v, and had %d ticks", s, ticks)
	}
	f.cli("desk/viewer", "it always fails", "dead-letters", "list")
	f.cli("mill/operator", "", "workflows", "resume", "grind", "b")
	for _, id := range []string{"a", "b", "c"} {
		if ok, err := agent.Call(f.t.Context(), desks.Agent("jo"), (*desk).Confirm, id); err != nil || !ok {
			f.t.Fatalf("confirm %s: %v, %v", id, ok, err)
		}
		f.cli("mill/viewer", "complete", "workflows", "watch", "grind", id)
	}
	f.await(func() bool { return f.look(desks).Done == 1 }, "the agent hears of the end of its workflow")
	f.await(func() bool { return f.look(desks).Ticks > ticks }, "its cron fires again")
	if s := f.look(desks); s.Rung != 1 || s.Booked != len(large+paused+unseen) {
		f.t.Errorf("the agent has %+v", s)
	}
	instance, err := grindAt.In(program).Get(f.t.Context(), "a")
	if err != nil {
		f.t.Fatal(err)
	}
	if got, err := instance.Result(f.t.Context()); err != nil || got != large {
		f.t.Errorf("the result has %d bytes, error %v", len(got), err)
	}
	for _, user := range []string{"desk/viewer", "mill/viewer"} {
		f.cli(user, "findings 0", "doctor")
	}
	f.wasAllowed()
}

// holdsOnly checks that an account has the streams of its project only, and of its own in those that projects share.
func (f *fort) holdsOnly(project string) {
	f.t.Helper()
	js, shared := natstest.JetStream(f.t, f.admin(project)), map[string]int{}
	names := js.StreamNames(f.t.Context())
	for name := range names.Name() {
		_, owner, ok := protocol.ParseStream(name)
		if !ok || owner != "" && owner != project {
			f.t.Errorf("%s: stream %s is there", project, name)
		}
		if owner != "" {
			continue
		}
		s, err := js.Stream(f.t.Context(), name)
		if err != nil {
			f.t.Fatal(err)
		}
		info, err := s.Info(f.t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			f.t.Fatal(err)
		}
		shared[name] = len(info.State.Subjects)
		for subject := range info.State.Subjects {
			if !slices.Contains(strings.Split(subject, "."), project) {
				f.t.Errorf("%s: stream %s holds %s", project, name, subject)
			}
		}
	}
	if err := names.Err(); err != nil {
		f.t.Fatal(err)
	}
	for _, name := range []string{protocol.StreamClock, protocol.KVStream(protocol.BucketProjects)} {
		if shared[name] == 0 {
			f.t.Errorf("%s: stream %s holds nothing", project, name)
		}
	}
}
