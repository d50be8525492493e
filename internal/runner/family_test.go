package runner

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// family is an instance, by hand, and what it may have called.
type family struct {
	*rig
	parent  protocol.Instance
	created uint64
}

func newFamily(r *rig, workflow, id string) *family {
	r.t.Helper()
	f := &family{rig: r, parent: at(workflow, id)}
	r.create(f.parent)
	m, err := r.store.Last(r.t.Context(), protocol.WorkflowsStream("p", 0), f.parent.CreateSubject())
	if err != nil {
		r.t.Fatal(err)
	}
	f.created = m.Sequence
	return f
}

// call is what a child of the family knows of the call by a name.
func (f *family) call(name string) *protocol.Parent {
	return &protocol.Parent{
		Project: "p", Workflow: f.parent.Workflow, ID: f.parent.ID, Incarnation: f.created,
		Call: protocol.CallType(f.created, 0, name, 1),
	}
}

// calling is the entry by which the call of an instance begins.
func calling(name string, child protocol.Instance) protocol.Entry {
	return protocol.Entry{
		Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpCall, Name: name, Count: 1},
		Callee: &protocol.Callee{Project: child.Project, Shard: child.Shard, Workflow: child.Workflow, ID: child.ID},
	}
}

// logs appends entries by hand, to an empty log too.
func (f *family) logs(holder protocol.Wake, entries ...protocol.Entry) {
	f.t.Helper()
	var last uint64
	if all := f.log(f.parent); len(all) > 0 {
		last = all[len(all)-1].sequence
	}
	_, err := f.store.Append(f.t.Context(), protocol.WorkflowsStream("p", 0), f.parent.LogSubject(), last, f.json(protocol.Append{
		V: 1, ID: uuid.NewString(), Incarnation: f.created, Holder: holder, Runner: "test", Time: time.Now(), Entries: entries,
	}))
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *family) wake() protocol.Wake {
	return protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: f.created}
}

// controlled is how many controls were sent to an instance.
func (r *rig) controlled(i protocol.Instance) int {
	r.t.Helper()
	page, _, err := r.store.Page(r.t.Context(), i.Stream(), i.ControlSubject(), 1, 100)
	if err != nil {
		r.t.Fatal(err)
	}
	return len(page)
}

// TestOnlyOwnChildrenAreEnded: a run was lost after it had said whom it would call. Nobody knows whether it did, and an
// instance of that id may be somebody else's.
func TestOnlyOwnChildrenAreEnded(t *testing.T) {
	t.Parallel()
	r := setup(t)
	f := newFamily(r, "quick", "parent")
	child, foreign, other := at("waits", "child"), at("waits", "foreign"), at("waits", "other")
	r.createWith(child, protocol.Create{Parent: f.call("child")})
	r.createWith(foreign, protocol.Create{})
	r.createWith(other, protocol.Create{Parent: f.call("another")})
	f.logs(f.wake(), calling("child", child), calling("foreign", foreign), calling("other", other), calling("none", at("waits", "none")),
		calling("gone", protocol.Instance{Project: "gone", Workflow: "waits", ID: "x"}),
		protocol.Entry{Kind: protocol.EntryTerminated, Error: &protocol.Failure{Name: protocol.FailureTerminated}})
	r.serve(r.runner())
	r.reaches(child, terminated)
	r.quiesce(protocol.ConsumerWakes(0), 0)
	for _, i := range []protocol.Instance{foreign, other} {
		if r.reaches(i, waiting); r.controlled(i) != 0 {
			t.Errorf("%v was told to end", i)
		}
	}
}

// TestFencedRunnerEndsItsChild: an instance is ended while its runner has just made a child of which the log says nothing
// yet. Whoever ended it did not find the child.
func TestFencedRunnerEndsItsChild(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner())
	f := newFamily(r, "works", "parent")
	r.gate("parent").await(t)
	natstest.Eventually(t, patience, "the start is in the log", func() bool { return len(r.log(f.parent)) > 0 })
	child := at("waits", "child")
	f.logs(protocol.Wake{Stream: "elsewhere", Sequence: 1}, calling("child", child),
		protocol.Entry{Kind: protocol.EntryTerminated, Error: &protocol.Failure{Name: protocol.FailureTerminated}})
	r.createWith(child, protocol.Create{Parent: f.call("child")})
	r.reaches(child, waiting)
	close(r.gate("parent").open)
	r.reaches(child, terminated)
}

// TestStray: a child that was made while its parent's runner was fenced ends if nobody waits for it.
func TestStray(t *testing.T) {
	t.Parallel()
	r := setup(t)
	f := newFamily(r, "quick", "parent")
	child := at("waits", "child")
	r.createWith(child, protocol.Create{Parent: f.call("child")})
	f.logs(f.wake(), calling("child", child))
	runner := r.runner()
	call := engine.Call{Type: f.call("child").Call, Callee: *calling("child", child).Callee}
	if runner.endStray(t.Context(), f.parent, f.created, call); r.controlled(child) != 0 {
		t.Error("a child was ended for which its parent waits")
	}
	f.logs(f.wake(), protocol.Entry{Kind: protocol.EntryCompleted})
	if runner.endStray(t.Context(), f.parent, f.created, call); r.controlled(child) == 0 { // it may be told twice
		t.Error("a child was not ended for which nobody waits")
	}
}

// TestOutputForNobody: a child whose parent is gone, or of another incarnation, ends like any other.
func TestOutputForNobody(t *testing.T) {
	t.Parallel()
	r := setup(t)
	f := newFamily(r, "waits", "parent")
	before := f.call("call")
	before.Incarnation--
	r.serve(r.runner(func(c *Config) {
		c.Code["large"] = func(context.Context, protocol.Create) (json.RawMessage, error) {
			return json.RawMessage(`"` + strings.Repeat("x", protocol.InlinePayload) + `"`), nil
		}
	}))
	for id, parent := range map[string]*protocol.Parent{
		"none":   {Project: "p", Workflow: "waits", ID: "nobody", Incarnation: 1, Call: protocol.CallType(1, 0, "x", 1)},
		"before": before,
	} {
		i := r.createWith(at("large", id), protocol.Create{Parent: parent})
		r.announced(i, "with its output", func(d protocol.Done) bool { return d.OutputObject != nil })
	}
	r.reaches(f.parent, waiting)
	r.quiesce(protocol.ConsumerWakes(0), 0)
}
