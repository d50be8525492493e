package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func withSubjects(filter string) jetstream.StreamInfoOpt { return jetstream.WithSubjectFilter(filter) }

// waiter is a workflow that waits for the event "go on" and returns its payload.
func waiter(class string) Definition {
	return Define(class, func(ctx context.Context, _ Event[string]) (string, error) {
		got, err := WaitForEvent[string](ctx, "go on", "go-on")
		return got.Payload, err
	})
}

func TestCallReturnsTheResult(t *testing.T) {
	t.Parallel()
	b := setup(t)
	shop, bank := b.house("shop", own("order"), from("bank", "pay")), b.house("bank", own("pay"))
	pay := Bind[int, string]("pay")
	shop.serve(Define("order", func(ctx context.Context, e Event[int]) (string, error) {
		first, err := Call(ctx, "pay", pay, e.Payload)
		if err != nil {
			return "", err
		}
		second, err := Call(ctx, "pay", pay, e.Payload+1)
		return first + " " + second, err
	}))
	bank.serve(Define("pay", func(ctx context.Context, e Event[int]) (string, error) {
		return Do(ctx, "move money", func(context.Context) (string, error) { return fmt.Sprintf("paid %d", e.Payload), nil })
	}))
	begin(shop, "order", "o-1", 7)
	s := shop.ends("order", "o-1", Complete)
	if string(s.Output) != `"paid 7 paid 8"` {
		t.Errorf("output %s", s.Output)
	}
	ids := bank.children("pay")
	if len(ids) != 2 {
		t.Fatalf("children %q", ids)
	}
	for _, step := range s.Steps {
		if step.State != "completed" || step.Callee == nil || !slices.Contains(ids, step.Callee.ID) || !strings.HasPrefix(string(step.Output), `"paid `) {
			t.Errorf("the call shows %s", asText(step))
		}
		c, _ := bank.status("pay", step.Callee.ID)
		want := protocol.Parent{Project: "shop", Workflow: "order", ID: "o-1", Incarnation: s.Incarnation, Call: protocol.CallType(s.Incarnation, 0, step.Name, step.Count)}
		if c.Parent == nil || *c.Parent != want || c.Incarnation != step.Callee.Incarnation {
			t.Errorf("the child shows %s, want parent %+v", asText(c), want)
		}
		if c.Source != (protocol.Source{Kind: "call", Project: "shop", Class: "order", Name: "o-1"}) {
			t.Errorf("the source is %+v", c.Source)
		}
	}
}

type cardError struct{}

func (cardError) Error() string       { return "the card is refused" }
func (cardError) FailureName() string { return "CardError" }
func (cardError) FailureDetails() any { return map[string]int{"code": 51} }

// TestCallFails: the failure of a child comes up typed, and the same in every run.
func TestCallFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("child"))
	var last atomic.Pointer[string]
	differs := make(chan string, 1)
	h.serve(
		Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
			_, err := Call(ctx, "pay", Bind[int, string]("child"), 1, ID("c-1"))
			failed, ok := errors.AsType[*CallError](err)
			instance, ok2 := errors.AsType[*InstanceError](err)
			if !ok || !ok2 {
				return "", fmt.Errorf("untyped: %w", err)
			}
			text := fmt.Sprintf("%v | %s %s %s %s | %v %s", err, failed.Step, failed.Project, failed.Workflow, failed.ID, instance, instance.Details)
			if before := last.Swap(&text); before != nil && *before != text {
				differs <- *before
			}
			if err := Sleep(ctx, "park", 50*time.Millisecond); err != nil {
				return "", err
			}
			return text, nil
		}),
		Define("child", func(context.Context, Event[int]) (string, error) {
			return "", NonRetryable(fmt.Errorf("pay: %w", cardError{}))
		}),
	)
	begin(h, "parent", "a", 1)
	s := h.ends("parent", "a", Complete)
	want := `call "pay": instance "c-1" of workflow "child" failed: pay: the card is refused | pay p child c-1 | ` +
		`instance "c-1" of workflow "child" failed: pay: the card is refused {"code":51}`
	var text string
	if err := json.Unmarshal(s.Output, &text); err != nil || text != want {
		t.Errorf("the error is %s\nwant %s", text, want)
	}
	if step := called(t, s, "pay"); step.State != "failed" || step.Error == nil || step.Error.Name != "CardError" {
		t.Errorf("the call shows %s", asText(step))
	}
	select {
	case before := <-differs:
		t.Errorf("a replay saw another error than %s", before)
	default:
	}
}

// TestUncaughtFailureOfAChild: it is stored as that of the parent, with its name and details.
func TestUncaughtFailureOfAChild(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("child"))
	h.serve(
		Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
			return Call(ctx, "pay", Bind[int, string]("child"), 1)
		}),
		Define("child", func(context.Context, Event[int]) (string, error) { return "", cardError{} }),
	)
	begin(h, "parent", "a", 1)
	f := h.ends("parent", "a", Errored).Error
	if f.Name != "CardError" || string(f.Details) != `{"code":51}` {
		t.Errorf("the parent failed with %s", asText(f))
	}
}

// TestCallRefused: what cannot be called is a recorded failure of the call, and nothing is stored elsewhere.
func TestCallRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.house("q", own("child"))
	h := b.house("p", own("parent"), own("child"), project.Workflow{Name: "child", Binding: "class", ClassName: "Other", ScriptName: "q"},
		from("nowhere", "lost"), project.Workflow{Name: "none", ClassName: "none", ScriptName: "q"})
	h.p.Config.Settings.MaxValueSize = protocol.MaxPayload
	begin(h, "child", "taken", "")
	tests := []struct {
		name, binding, want, says string
		params                    string
		options                   []CallOption
	}{
		{"a binding that is none", "what", "UnknownBindingError", `binding "what"`, "", nil},
		{"a project that nobody registered", "lost", "NoTargetError", `no project "nowhere"`, "", nil},
		{"a workflow that nobody registered", "none", "NoTargetError", `no workflow "none"`, "", nil},
		{"another class", "class", "ClassError", `class_name is "Other"`, "", nil},
		{"params too large", "child", protocol.FailureEncoding, "bytes", strings.Repeat("x", protocol.MaxPayload), nil},
		{"an id that is taken", "child", protocol.FailureExists, `instance "taken"`, "", []CallOption{ID("taken")}},
	}
	var runs atomic.Int64
	h.serve(Define("parent", func(ctx context.Context, e Event[int]) (string, error) {
		runs.Add(1)
		tt := tests[e.Payload]
		_, err := Call(ctx, "call", Bind[string, string](tt.binding), tt.params, tt.options...)
		_, exists := errors.AsType[*ExistsError](err)
		failed, ok := errors.AsType[*CallError](err)
		if !ok || exists != (tt.want == protocol.FailureExists) || errors.Is(err, ErrExists) != exists {
			return "", fmt.Errorf("untyped: %w", err)
		}
		if err := Sleep(ctx, "park", time.Second); err != nil {
			return "", err
		}
		return failed.Failure.Name + " " + err.Error(), nil
	}), waiter("child"))
	before := len(h.children("child"))
	for i := range tests {
		begin(h, "parent", fmt.Sprint("a", i), i)
	}
	for i, tt := range tests {
		s := h.ends("parent", fmt.Sprint("a", i), Complete)
		if out := string(s.Output); !strings.HasPrefix(out, `"`+tt.want+" ") || !strings.Contains(strings.ReplaceAll(out, `\"`, `"`), tt.says) {
			t.Errorf("%s: %s, want %s and %q", tt.name, out, tt.want, tt.says)
		}
		if step := called(t, s, "call"); step.State != "failed" || step.Error == nil || !step.Error.Terminal {
			t.Errorf("%s: the call shows %s", tt.name, asText(step))
		}
	}
	if n := len(h.children("child")); n != before {
		t.Errorf("%d instances were created", n-before)
	}
	if runs.Load() < int64(2*len(tests)) {
		t.Errorf("%d runs: no instance was replayed", runs.Load())
	}
}

// TestMisusedCalls: mistakes of the code are told at once and stored nowhere.
func TestMisusedCalls(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("child"))
	child := Bind[string, string]("child")
	if _, err := Call(t.Context(), "x", child, ""); !errors.Is(err, ErrNoWorkflow) {
		t.Errorf("outside of a workflow: %v", err)
	}
	if _, err := Start(t.Context(), "x", child, ""); !errors.Is(err, ErrNoWorkflow) {
		t.Errorf("started outside of a workflow: %v", err)
	}
	h.serve(Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
		_, err := Call(ctx, "", child, "")
		_, err2 := Call(ctx, "x", child, "", Timeout(-1))
		_, err3 := Start(ctx, "x", child, "", ID("no good"))
		nested, _ := Do(ctx, "nested", func(ctx context.Context) (bool, error) {
			_, err := Call(ctx, "x", child, "")
			return errors.Is(err, ErrNested), nil
		})
		return fmt.Sprint(errors.Is(err, protocol.ErrName), errors.Is(err2, ErrOption), errors.Is(err3, protocol.ErrName), nested), nil
	}), waiter("child"))
	begin(h, "parent", "a", 1)
	if s := h.ends("parent", "a", Complete); string(s.Output) != `"true true true true"` || len(s.Steps) != 1 {
		t.Errorf("%s with steps %s", s.Output, asText(s.Steps))
	}
	if n := len(h.children("child")); n != 0 {
		t.Errorf("%d children", n)
	}
}

// TestParentHoldsNoSlot: parent and child share a runner with one slot, and so do grandchildren.
func TestParentHoldsNoSlot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("nest"))
	h.slots = 1
	h.serve(Define("nest", func(ctx context.Context, e Event[int]) (string, error) {
		if e.Payload == 0 {
			return "0", nil
		}
		inner, err := Call(ctx, "inner", Bind[int, string]("nest"), e.Payload-1)
		return fmt.Sprint(e.Payload, inner), err
	}))
	begin(h, "nest", "a", 4)
	if s := h.ends("nest", "a", Complete); string(s.Output) != `"43210"` {
		t.Errorf("output %s", s.Output)
	}
}

// TestCallsSideBySide: children of a group run at the same time, and one ends while another branch of its parent is in
// a body.
func TestCallsSideBySide(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("child"))
	finish, answered := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(answered) })
	h.serve(Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
		g := NewGroup(ctx)
		results := make([]string, 3)
		for i, name := range []string{"a", "b"} {
			g.Go(func(ctx context.Context) (err error) {
				results[i], err = Call(ctx, name, Bind[string, string]("child"), "", ID("c-"+name))
				if name == "a" && err == nil {
					first()
				}
				return err
			})
		}
		g.Go(func(ctx context.Context) (err error) {
			results[2], err = Do(ctx, "body", func(ctx context.Context) (string, error) {
				select {
				case <-finish:
				case <-ctx.Done():
				}
				return "body", ctx.Err()
			})
			return err
		})
		err := g.Wait()
		return strings.Join(results, " "), err
	}), waiter("child"))
	begin(h, "parent", "p-1", 1)
	for _, id := range []string{"c-a", "c-b"} {
		h.until("child", id, "waits", func(s protocol.Status) bool { return s.State == Waiting })
	}
	h.goOn("child", "c-a", "one")
	<-answered // in the very run in which the body still runs
	close(finish)
	h.until("parent", "p-1", "waits", func(s protocol.Status) bool { return s.State == Waiting })
	h.goOn("child", "c-b", "two")
	if s := h.ends("parent", "p-1", Complete); string(s.Output) != `"one two body"` {
		t.Errorf("output %s", s.Output)
	}
}

func (h *house) goOn(workflow, id, payload string) {
	h.t.Helper()
	i, err := Bind[string, string](workflow).In(h.p).Get(h.t.Context(), id)
	if err == nil {
		err = i.SendEvent(h.t.Context(), "go-on", payload)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// TestCallbacksComeTwiceAndLate: an answer that comes again ends no other call, not even of a parent that has ended.
func TestCallbacksComeTwiceAndLate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("child"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
		var all []string
		for i := range 3 {
			r, err := Call(ctx, "call", Bind[string, string]("child"), "", ID(fmt.Sprint("c-", i)))
			if err != nil {
				return "", err
			}
			all = append(all, r)
		}
		return strings.Join(all, " "), nil
	}), waiter("child"))
	begin(h, "parent", "a", 1)
	parent := protocol.Instance{Project: "p", Workflow: "parent", ID: "a"}
	for i := range 3 {
		id := fmt.Sprint("c-", i)
		h.until("child", id, "waits", func(s protocol.Status) bool { return s.State == Waiting })
		h.goOn("child", id, fmt.Sprint("result ", i))
		h.ends("child", id, Complete)
		var answer []byte
		natstest.Eventually(t, patience, "the answer is stored", func() bool {
			m, err := h.store.Last(t.Context(), parent.Stream(), parent.EventSubject())
			if err == nil && strings.Contains(string(m.Data), fmt.Sprint("result ", i)) {
				answer = m.Data
			}
			return answer != nil
		})
		for range 2 {
			if _, err := h.store.Publish(t.Context(), parent.EventSubject(), nil, answer); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s := h.ends("parent", "a", Complete); string(s.Output) != `"result 0 result 1 result 2"` {
		t.Errorf("output %s", s.Output)
	}
	natstest.Eventually(t, patience, "all wakes are acked", func() bool {
		c, err := h.js.Consumer(t.Context(), protocol.WorkflowsStream("p", 0), protocol.ConsumerWakes(0))
		return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
	})
	if n := h.kinds("parent", "a")[protocol.EntryReceived]; n != 3 {
		t.Errorf("%d answers were taken", n)
	}
}

// TestParentIsGone: a child whose caller's project does not exist any more ends, and its wake is acked.
func TestParentIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	caller, h := b.house("caller", own("parent"), from("p", "child")), b.house("p", own("child"))
	h.goneAfter = 100 * time.Millisecond
	stop := caller.serve(Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
		return Call(ctx, "call", Bind[string, string]("child"), "", ID("c"))
	}))
	begin(caller, "parent", "a", 1)
	h.serve(waiter("child"))
	h.until("child", "c", "waits", func(s protocol.Status) bool { return s.State == Waiting })
	stop()
	if err := b.js.DeleteStream(t.Context(), protocol.WorkflowsStream("caller", 0)); err != nil {
		t.Fatal(err)
	}
	h.goOn("child", "c", "done")
	h.ends("child", "c", Complete)
	natstest.Eventually(t, patience, "all wakes are acked", func() bool {
		c, err := h.js.Consumer(t.Context(), protocol.WorkflowsStream("p", 0), protocol.ConsumerWakes(0))
		return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
	})
}

// TestLargeValuesOfACall: params and output are too large for a message, and the output outlives the child.
func TestLargeValuesOfACall(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h, other := b.house("p", own("parent"), from("q", "child")), b.house("q", own("child"))
	code := Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
		out, err := Call(ctx, "call", Bind[string, string]("child"), large("params"), ID("c"))
		if err != nil || out != large("output") {
			return "", fmt.Errorf("output of %d bytes: %w", len(out), err)
		}
		got, err := WaitForEvent[string](ctx, "go on", "go-on")
		return got.Payload, err
	})
	stop := h.serve(code)
	other.serve(Define("child", func(_ context.Context, e Event[string]) (string, error) {
		if e.Payload != large("params") {
			return "", fmt.Errorf("params of %d bytes", len(e.Payload))
		}
		return large("output"), nil
	}))
	begin(h, "parent", "a", 1)
	h.until("parent", "a", "waits for its event", func(s protocol.Status) bool { return s.State == Waiting && len(s.Steps) == 2 })
	stop()
	var create protocol.Create
	child := protocol.Instance{Project: "q", Workflow: "child", ID: "c"}
	m, err := h.store.Last(t.Context(), protocol.WorkflowsStream("q", 0), child.CreateSubject())
	if err == nil {
		err = json.Unmarshal(m.Data, &create)
	}
	if err == nil {
		err = other.p.Objects().DeleteInstance(t.Context(), protocol.OwnerOf(child, create.Input))
	}
	if err != nil || create.ParamsObject == nil {
		t.Fatalf("create %s, %v", asText(create), err)
	}
	h.serve(code)
	h.goOn("parent", "a", "well")
	s := h.ends("parent", "a", Complete)
	if step := called(t, s, "call"); step.Output != nil || step.OutputObject == nil || string(s.Output) != `"well"` {
		t.Errorf("output %s, the call shows %s", s.Output, asText(step))
	}
}

// TestStartOutlivesItsParent: it is started once although the parent runs several times, and goes on without it.
func TestStartOutlivesItsParent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h, other := b.house("p", own("parent"), from("q", "child")), b.house("q", own("child"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
		var ids []string
		for range 2 {
			i, err := Start(ctx, "start", Bind[string, string]("child"), "x")
			if err != nil {
				return "", err
			}
			ids = append(ids, i.ID())
			if err := Sleep(ctx, "park", 50*time.Millisecond); err != nil {
				return "", err
			}
		}
		asked, err := Do(ctx, "ask", func(ctx context.Context) (string, error) {
			i, err := Bind[string, string]("child").Get(ctx, ids[0])
			return i.ID(), err
		})
		if ids[0] == ids[1] || asked != ids[0] {
			return "", fmt.Errorf("ids %q, asked %q", ids, asked)
		}
		if err != nil {
			return "", err
		}
		_, err = Start(ctx, "again", Bind[string, string]("child"), "x", ID(ids[0]))
		if _, ok := errors.AsType[*CallError](err); !ok || !errors.Is(err, ErrExists) {
			return "", fmt.Errorf("started what exists: %w", err)
		}
		return "started", nil
	}))
	other.serve(waiter("child"))
	begin(h, "parent", "a", 1)
	h.ends("parent", "a", Complete)
	ids := other.children("child")
	if len(ids) != 2 {
		t.Fatalf("children %q", ids)
	}
	for _, id := range ids {
		s := other.until("child", id, "waits", func(s protocol.Status) bool { return s.State == Waiting })
		if s.Parent != nil || s.Source != (protocol.Source{Kind: "step", Project: "p", Class: "parent", Name: "a"}) {
			t.Errorf("the child shows %s", asText(s))
		}
	}
}

// TestOptionsOfChildren: what is said of an id that is taken and of retention holds for children, too.
func TestOptionsOfChildren(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("child"))
	child := Bind[string, string]("child")
	kept := Retention(time.Hour, 2*time.Hour)
	h.serve(Define("parent", func(ctx context.Context, _ Event[int]) (string, error) {
		if _, err := Call(ctx, "call", child, "", ID("called"), kept); err != nil {
			return "", err
		}
		i, err := Start(ctx, "start", child, "", ID("started"), kept)
		again, err2 := Start(ctx, "start again", child, "", ID("started"), OnExisting(ReturnExisting))
		if err = errors.Join(err, err2); err != nil {
			return "", err
		}
		return fmt.Sprint(i.Origin(), " ", again.Origin()), nil
	}), Define("child", func(context.Context, Event[string]) (string, error) { return "", nil }))
	begin(h, "parent", "a", 1)
	if s := h.ends("parent", "a", Complete); string(s.Output) != `"created found"` {
		t.Errorf("the output is %s", s.Output)
	}
	for _, id := range []string{"called", "started"} {
		s := h.ends("child", id, Complete)
		if s.Expires == nil || s.Finished == nil || s.Expires.Sub(*s.Finished).Round(time.Second) != time.Hour {
			t.Errorf("%s is kept until %v, it ended at %v", id, s.Expires, s.Finished)
		}
	}
}
