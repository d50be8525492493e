package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// open opens a project on the bench's server. Its entries are those of skein.jsonc.
func (b *bench) open(name string, entries ...project.Workflow) *project.Project {
	b.t.Helper()
	p, err := project.Open(b.t.Context(), project.Config{Name: name, Workflows: entries},
		project.Conn(b.nc), project.Logger(slog.New(b.log)))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(p.Close)
	return p
}

// register says what a runner of project p has said once.
func (b *bench) register(classes map[string]string) {
	b.t.Helper()
	err := streams.EnsureProjects(b.t.Context(), b.js, streams.Options{})
	if err == nil {
		err = streams.RegisterWorkflows(b.t.Context(), b.js, "p", 1, classes)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// start runs the service of project p until the returned function is called or the test ends.
func (b *bench) start(p *project.Project, definitions ...Definition) (stop func()) {
	b.t.Helper()
	return b.startWithin(context.Background(), p, definitions...)
}

func (b *bench) startWithin(ctx context.Context, p *project.Project, definitions ...Definition) (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, p, Runner(definitions...)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("the service ended with %v", err)
		}
	})
	b.t.Cleanup(stop)
	natstest.Eventually(b.t, natstest.Patience, "the runner is ready", p.IsReady)
	return stop
}

type order struct{ Item string }

// ship waits for an event and fails for an item called "lost".
func ship(ctx context.Context, e Event[order]) (string, error) {
	paid, err := WaitForEvent[int](ctx, "wait for the money", "paid")
	if err != nil {
		return "", err
	}
	if e.Payload.Item == "lost" {
		return "", fmt.Errorf("ship %s: %w", e.InstanceID, noMoney{})
	}
	return fmt.Sprintf("%s for %d", e.Payload.Item, paid.Payload), nil
}

var shop = []project.Workflow{{Name: "ship", Binding: "SHIP", ClassName: "Ship"}}

func TestInstanceThroughABinding(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.start(b.open("p", shop...), Define("Ship", ship))
	client := b.open("client", project.Workflow{Name: "ship", Binding: "SHIP", ClassName: "Ship", ScriptName: "p"})
	binding := Bind[order, string]("SHIP")
	ctx := project.With(t.Context(), client)
	if err := CheckBinding(ctx, client, binding.BindingName()); err != nil {
		t.Fatal(err)
	}
	created, err := binding.Create(ctx, order{"tea"}, ID("o-1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = binding.Create(ctx, order{"coffee"}, ID("o-1")); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	exists, ok := errors.AsType[*ExistsError](err)
	if !ok || *exists != (ExistsError{"ship", "o-1"}) {
		t.Errorf("the error is %#v", err)
	}
	instance, err := binding.Get(ctx, "o-1")
	if err != nil || instance.ID() != "o-1" {
		t.Fatal(instance, err)
	}
	natstest.Eventually(t, natstest.Patience, "the instance waits", func() bool {
		s, err := created.Status(ctx)
		return err == nil && s.State == Waiting && len(s.Steps) == 1 && s.Workflow == "ship" && s.ID == "o-1"
	})
	result := make(chan string, 1)
	go func() {
		r, err := created.Result(ctx)
		result <- fmt.Sprint(r, err)
	}()
	if err := instance.SendEvent(ctx, "paid", 7); err != nil {
		t.Fatal(err)
	}
	if r := <-result; r != "tea for 7<nil>" {
		t.Errorf("result %s", r)
	}
	if err := instance.SendEvent(ctx, "paid", 8); !errors.Is(err, ErrFinished) {
		t.Errorf("sent to an instance that has ended: %v", err)
	}
	s, err := instance.Status(ctx)
	if err != nil || s.State != Complete || string(s.Output) != `"tea for 7"` || s.Finished == nil {
		t.Errorf("status %+v, %v", s, err)
	}
	if r, err := instance.Result(ctx); err != nil || r != "tea for 7" {
		t.Errorf("result, asked late: %q, %v", r, err)
	}
}

func TestResultOfAFailedInstance(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.open("p", shop...)
	b.start(p, Define("Ship", ship))
	instance, err := Bind[order, string]("SHIP").In(p).Create(t.Context(), order{"lost"})
	if err != nil {
		t.Fatal(err)
	}
	if err := instance.SendEvent(t.Context(), "paid", 1); err != nil {
		t.Fatal(err)
	}
	_, err = instance.Result(t.Context())
	failed, ok := errors.AsType[*InstanceError](err)
	if !ok {
		t.Fatalf("the error is %#v", err)
	}
	want := []protocol.Cause{{Name: "NoMoneyError", Message: "no money"}}
	if failed.ID != instance.ID() || failed.Workflow != "ship" || failed.Name != protocol.FailureError ||
		failed.Message != "ship "+instance.ID()+": no money" || !reflect.DeepEqual(failed.Causes, want) {
		t.Errorf("failed with %+v", failed.Failure)
	}
}

// TestStatusWithoutARunner reads the log itself.
func TestStatusWithoutARunner(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.open("p", shop...)
	stop := b.start(p, Define("Ship", ship))
	binding := Bind[order, string]("SHIP").In(p)
	instance, err := binding.Create(t.Context(), order{"tea"})
	if err != nil {
		t.Fatal(err)
	}
	b.reaches("ship", instance.ID(), "waits", func(s protocol.Status) bool { return s.State == Waiting })
	stop()
	if s, err := instance.Status(t.Context()); err != nil || s.State != Waiting || len(s.Runs) != 1 {
		t.Errorf("status %+v, %v", s, err)
	}
	queued, err := binding.Create(t.Context(), order{"tea"})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := queued.Status(t.Context()); err != nil || s.State != Queued || s.Created.IsZero() {
		t.Errorf("status of what nobody has begun: %+v, %v", s, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := queued.Result(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("result of what nobody has begun: %v", err)
	}
}

// TestRefusedBeforeAnythingIsStored: every error is typed and says what is allowed, and the stream has no new message.
func TestRefusedBeforeAnythingIsStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.register(map[string]string{"ship": "Ship", "pack": "Pack"})
	p := b.open("p", append(shop,
		project.Workflow{Name: "send", ClassName: "Send"},
		project.Workflow{Name: "pack", ClassName: "Packing"},
		project.Workflow{Name: "ship", Binding: "ELSEWHERE", ClassName: "Ship", ScriptName: "nobody"})...)
	p.Config.Settings.MaxValueSize = protocol.MaxPayload
	ctx := t.Context()
	instance, err := Bind[any, any]("SHIP").In(p).Create(ctx, 1, ID("there"))
	if err != nil {
		t.Fatal(err)
	}
	create := func(binding string, params any, options ...CreateOption) func() error {
		return func() error { _, err := Bind[any, any](binding).In(p).Create(ctx, params, options...); return err }
	}
	get := func(id string) func() error {
		return func() error { _, err := Bind[any, any]("SHIP").In(p).Get(ctx, id); return err }
	}
	send := func(eventType string, payload any) func() error {
		return func() error { return instance.SendEvent(ctx, eventType, payload) }
	}
	large := strings.Repeat("x", protocol.MaxPayload)
	for _, row := range []struct {
		name string
		call func() error
		is   func(error) bool
		says []string
	}{
		{"empty id", create("SHIP", 1, ID("")), is(protocol.ErrName), []string{"instance id is empty"}},
		{"id with a dot", create("SHIP", 1, ID("a.b")), is(protocol.ErrName), []string{`"a.b"`}},
		{"id with a space", create("SHIP", 1, ID("a b")), is(protocol.ErrName), []string{`"a b"`}},
		{"id with a wildcard", create("SHIP", 1, ID("*")), is(protocol.ErrName), []string{`"*"`}},
		{"id that is too long", create("SHIP", 1, ID(strings.Repeat("x", 101))), is(protocol.ErrName), []string{"101 bytes", "at most 100"}},
		{"id that is taken", create("SHIP", 1, ID("there")), is(ErrExists), []string{`"there"`, `"ship"`}},
		{"params that are too large", create("SHIP", large), size, []string{`binding "SHIP"`, "524290 bytes", "at most 524288"}},
		{"params that are a channel", create("SHIP", make(chan int)), encoding, []string{`binding "SHIP"`, "chan int"}},
		{"params that are no number", create("SHIP", math.NaN()), encoding, []string{"NaN"}},
		{"unknown binding", create("SHOP", 1), unknownBinding, []string{`"SHOP"`, `"ELSEWHERE", "SHIP", "pack", "send"`}},
		{"unknown workflow", create("send", 1), is(ErrNoTarget), []string{`"send"`, `there are "pack", "ship"`}},
		{"unknown project", create("ELSEWHERE", 1), is(ErrNoTarget), []string{`"nobody"`, `there is "p"`}},
		{"another class", create("pack", 1), class, []string{`"Packing"`, `"Pack"`}},
		{"get with a bad id", get("a b"), is(protocol.ErrName), []string{`"a b"`}},
		{"get of nothing", get("nowhere"), is(ErrNotFound), []string{`"nowhere"`}},
		{"event type with a dot", send("a.b", 1), is(protocol.ErrName), []string{`event type "a.b"`}},
		{"no event type", send("", 1), is(protocol.ErrName), []string{"event type is empty"}},
		{"payload that is too large", send("paid", large), size, []string{`payload of event "paid"`, "524290"}},
		{"payload that is a function", send("paid", func() {}), encoding, []string{`payload of event "paid"`}},
		{"no project", func() error { _, err := Bind[int, int]("SHIP").Create(ctx, 1); return err }, is(ErrNoProject), []string{`"SHIP"`}},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := b.stored()
			err := row.call()
			if err == nil || !row.is(err) {
				t.Fatalf("error is %#v", err)
			}
			for _, part := range row.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error is %v, want %s in it", err, part)
				}
			}
			if after := b.stored(); after != before {
				t.Errorf("the stream went from %d to %d", before, after)
			}
		})
	}
}

func is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

func size(err error) bool {
	e, ok := errors.AsType[*SizeError](err)
	return ok && errors.Is(err, ErrTooLarge) && e.Limit == protocol.MaxPayload && e.Size == protocol.MaxPayload+2
}

func encoding(err error) bool { _, ok := errors.AsType[*EncodingError](err); return ok }

func class(err error) bool {
	e, ok := errors.AsType[*ClassError](err)
	return ok && e.Want == "Packing" && e.Have == "Pack"
}

func unknownBinding(err error) bool {
	_, ok := errors.AsType[*project.UnknownBindingError](err)
	return ok
}

func TestLargestParamsAndPayload(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.open("p", project.Workflow{Name: "w", ClassName: "W"})
	b.start(p, Define("W", func(ctx context.Context, e Event[string]) (int, error) {
		got, err := WaitForEvent[string](ctx, "wait", "e")
		return len(e.Payload) + len(got.Payload), err
	}))
	largest := strings.Repeat("x", protocol.MaxPayload-2)
	instance, err := Bind[string, int]("w").In(p).Create(t.Context(), largest)
	if err != nil {
		t.Fatal(err)
	}
	if err := instance.SendEvent(t.Context(), "e", largest); err != nil {
		t.Fatal(err)
	}
	if n, err := instance.Result(t.Context()); err != nil || n != 2*len(largest) {
		t.Errorf("result %d, %v", n, err)
	}
}

// TestBindingBetweenSteps: a start that is not recorded would be made again in every run.
func TestBindingBetweenSteps(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.open("p", project.Workflow{Name: "parent", ClassName: "Parent"}, project.Workflow{Name: "child", ClassName: "Child"})
	child := Bind[int, int]("child")
	b.start(p, Define("Parent", func(ctx context.Context, e Event[int]) (int, error) {
		if _, err := child.Create(ctx, 1); err == nil || !strings.Contains(err.Error(), "in the body of a step") {
			return 0, fmt.Errorf("between steps: %v", err)
		}
		if _, err := child.Get(ctx, "c"); err == nil {
			return 0, errors.New("found between steps")
		}
		return Do(ctx, "child", func(ctx context.Context) (int, error) {
			c, err := child.Create(ctx, e.Payload, ID("c"))
			if err != nil {
				return 0, err
			}
			return c.Result(ctx)
		})
	}), Define("Child", func(_ context.Context, e Event[int]) (int, error) { return e.Payload + 1, nil }))
	instance, err := Bind[int, int]("parent").In(p).Create(t.Context(), 41)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := instance.Result(t.Context()); err != nil || n != 42 {
		t.Errorf("result %d, %v", n, err)
	}
}

// TestRunnerRefusesWhatDoesNotFit: code and skein.jsonc must name the same classes.
func TestRunnerRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ok := func(context.Context, Event[int]) (int, error) { return 0, nil }
	for _, row := range []struct {
		name        string
		definitions []Definition
		says        string
	}{
		{"no code", nil, `class_name is "Ship", but the program defines []`},
		{"other code", []Definition{Define("Shop", ok)}, `but the program defines ["Shop"]`},
		{"code without an entry", []Definition{Define("Ship", ok), Define("Extra", ok)}, `"Extra" is defined, but no entry`},
		{"class without a function", []Definition{Define[int, int]("Ship", nil)}, `"Ship" is defined without a function`},
		{"defined twice", []Definition{Define("Ship", ok), Define("Ship", ok)}, `"Ship" is defined twice`},
		{"bad class name", []Definition{Define("a b", ok)}, `class "a b"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			before := b.stored()
			err := project.Run(t.Context(), b.open("p", shop...), Runner(row.definitions...))
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("error is %v", err)
			}
			if rows, err := streams.Projects(t.Context(), b.js); err != nil || len(rows) != 0 || b.stored() != before {
				t.Errorf("something is registered: %v, %v", rows, err)
			}
		})
	}
}
