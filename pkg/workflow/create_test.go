package workflow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestCreateIsRecordedAsAskedFor(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	instance, err := d.bound().Create(t.Context(), 7, ID("a"), Retention(time.Hour, 48*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var create protocol.Create
	sequence, _ := d.last(d.instance("w", "a").CreateSubject(), &create)
	if create.Source != (protocol.Source{Kind: "program", Project: "p"}) || string(create.Params) != "7" || create.Workflow != "w" || create.ID != "a" {
		t.Errorf("create is %+v", create)
	}
	if want := (protocol.Retention{Success: protocol.Duration(time.Hour), Error: protocol.Duration(48 * time.Hour)}); create.Retention == nil || *create.Retention != want {
		t.Errorf("retention is %+v", create.Retention)
	}
	if instance.Origin() != Created || instance.incarnation != sequence {
		t.Errorf("origin %q, incarnation %d; the create is stored at %d", instance.Origin(), instance.incarnation, sequence)
	}
	unnamed, err := d.bound().Create(t.Context(), 7)
	if err != nil || len(unnamed.ID()) != 36 {
		t.Errorf("instance without a chosen id: %v, %v", unnamed, err)
	}
}

// TestValuesAreTaken: what is done to params and payloads after a call does not change what was stored by it.
func TestValuesAreTaken(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	list := []int{1, 2}
	bound := Bind[[]int, int]("w").In(d.own)
	instance, err := bound.Create(t.Context(), list, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bound.CreateBatch(t.Context(), []BatchItem[[]int]{Item(list, ID("b"))}); err != nil {
		t.Fatal(err)
	}
	if err := instance.SendEvent(t.Context(), "e", list); err != nil {
		t.Fatal(err)
	}
	list[0] = 7
	var event protocol.Event
	if _, ok := d.last(d.instance("w", "a").EventSubject(), &event); !ok || string(event.Payload) != "[1,2]" {
		t.Errorf("the event is %+v", event)
	}
	for _, id := range []string{"a", "b"} {
		var create protocol.Create
		if _, ok := d.last(d.instance("w", id).CreateSubject(), &create); !ok || string(create.Params) != "[1,2]" {
			t.Errorf("the create of %s is %+v", id, create)
		}
	}
}

func TestExistingInstance(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	for _, row := range []struct {
		name     string
		existing Existing
		origin   Origin
		action   protocol.Action
	}{
		{"fail", Fail, "", ""},
		{"return", ReturnExisting, Found, ""},
		{"restart", RestartExisting, Restarted, protocol.ActionRestart},
	} {
		t.Run(row.name, func(t *testing.T) {
			first, incarnation := d.make(row.name)
			if first.Origin() != Found {
				t.Errorf("what Get returns is %q", first.Origin())
			}
			before := d.stored()
			instance, err := d.bound().Create(t.Context(), 2, ID(row.name), OnExisting(row.existing))
			if row.origin == "" {
				if !errors.Is(err, ErrExists) || d.stored() != before {
					t.Errorf("error is %v; stored are %d messages", err, d.stored()-before)
				}
				return
			}
			if err != nil || instance.Origin() != row.origin || instance.incarnation != incarnation {
				t.Fatalf("instance %+v, error %v", instance, err)
			}
			control, _ := d.control(row.name)
			if control.Action != row.action || row.action != "" && (control.Incarnation != incarnation || control.From != nil || control.Input == "") {
				t.Errorf("control is %+v", control)
			}
			var create protocol.Create
			if _, ok := d.last(d.instance("w", row.name).CreateSubject(), &create); !ok || string(create.Params) != "1" {
				t.Errorf("the create is %+v", create)
			}
		})
	}
}

// TestIdOfAnExpiredInstanceIsFree: whoever creates lets it be deleted and waits for that.
func TestIdOfAnExpiredInstanceIsFree(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	for _, row := range []struct {
		name string
		// meanwhile is what happens when the instance was told to go.
		meanwhile func(id string, incarnation uint64)
		taken     bool
	}{
		{"deleted", func(id string, _ uint64) { d.erase(id) }, false},
		{"restarted at the last moment", func(id string, incarnation uint64) {
			d.put(d.instance("w", id).ControlSubject(), protocol.Control{V: 1, Input: "r", Action: protocol.ActionRestart, Incarnation: incarnation})
		}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			id := strings.ReplaceAll(row.name, " ", "-")
			_, incarnation := d.make(id)
			d.announce(id, protocol.Done{Incarnation: incarnation, Expires: past()})
			if _, err := d.bound().Get(t.Context(), id); !errors.Is(err, ErrNotFound) {
				t.Errorf("get: %v", err)
			}
			created := make(chan error, 1)
			go func() { _, err := d.bound().Create(t.Context(), 2, ID(id)); created <- err }()
			control, at := d.awaitControl(id, 0)
			if control.Action != protocol.ActionDelete || !control.Expired || control.Incarnation != incarnation || at == 0 {
				t.Errorf("control is %+v", control)
			}
			row.meanwhile(id, incarnation)
			err := <-created
			var create protocol.Create
			now, _ := d.last(d.instance("w", id).CreateSubject(), &create)
			switch {
			case row.taken && (!errors.Is(err, ErrExists) || now != incarnation):
				t.Errorf("error is %v, the create is at %d", err, now)
			case !row.taken && (err != nil || now <= incarnation || string(create.Params) != "2"):
				t.Errorf("error is %v, the create is %+v", err, create)
			}
		})
	}
}

// TestCreateAfterDelete: what was asked for first is done first.
func TestCreateAfterDelete(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	instance, incarnation := d.make("a")
	if err := instance.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.bound().Create(impatient, 2, ID("a")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("created while the old one is there: %v", err)
	}
	created := make(chan error, 1)
	go func() { _, err := d.bound().Create(t.Context(), 3, ID("a")); created <- err }()
	d.announce("a", protocol.Done{Incarnation: incarnation, State: protocol.StateDeleted, Mark: d.stored()})
	d.erase("a")
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	if _, err := instance.Status(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a handle to the old instance finds the new one: %v", err)
	}
	if err := instance.Pause(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a handle to the old instance steers the new one: %v", err)
	}
}

func TestBadCreateOptions(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	before := d.stored()
	for _, row := range []struct {
		name   string
		option CreateOption
		says   string
	}{
		{"retention below 0", Retention(-1, 0), "Retention success is -1ns, allowed is 0 (the default) to 365 days"},
		{"retention over a year", Retention(0, 366*24*time.Hour), "Retention failure is 8784h0m0s, allowed is 0"},
		{"no such thing to do", OnExisting(7), "OnExisting is 7, allowed is Fail, ReturnExisting or RestartExisting"},
		{"reserved word", ID("latest"), `instance id "latest": reserved are`},
		{"reserved beginning", ID("skein_1"), `what begins with "skein_"`},
		{"long id", ID(strings.Repeat("x", 101)), "101 bytes long, at most 100"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := d.bound().Create(t.Context(), 1, row.option)
			if err == nil || !strings.Contains(err.Error(), row.says) || !errors.Is(err, ErrOption) && !errors.Is(err, protocol.ErrName) {
				t.Errorf("error is %v", err)
			}
			if d.stored() != before {
				t.Error("something is stored")
			}
		})
	}
}

// TestInstancesFromASteps body: source and all methods work there, and none between steps.
func TestInstancesBetweenStepsAndInBodies(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.open("p", project.Workflow{Name: "w", ClassName: "W"}, project.Workflow{Name: "other", ClassName: "Other"})
	other := Bind[int, int]("other")
	b.start(p, Define("Other", func(ctx context.Context, _ Event[int]) (int, error) {
		_, err := WaitForEvent[int](ctx, "wait", "e")
		return 1, err
	}), Define("W", func(ctx context.Context, e Event[int]) (int, error) {
		bound := other.In(p)
		instance, err := bound.Get(t.Context(), "o") // by no means of the workflow's context
		if err != nil {
			return 0, err
		}
		calls := map[string]func(ctx context.Context) error{
			"create": func(ctx context.Context) error {
				_, err := bound.Create(ctx, 1, OnExisting(ReturnExisting), ID("o"))
				return err
			},
			"get":     func(ctx context.Context) error { _, err := bound.Get(ctx, "o"); return err },
			"status":  func(ctx context.Context) error { _, err := instance.Status(ctx); return err },
			"pause":   instance.Pause,
			"resume":  func(ctx context.Context) error { return instance.Resume(ctx) },
			"send":    func(ctx context.Context) error { return instance.SendEvent(ctx, "x", 1) },
			"restart": func(ctx context.Context) error { return instance.Restart(ctx) },
		}
		for name, call := range calls {
			if err := call(ctx); !errors.Is(err, ErrBetweenSteps) {
				return 0, fmt.Errorf("%s between steps: %v", name, err)
			}
			if err := Exec(ctx, name, call); err != nil {
				return 0, fmt.Errorf("%s in a body: %v", name, err)
			}
		}
		if _, err := instance.Result(ctx); !errors.Is(err, ErrBetweenSteps) {
			return 0, fmt.Errorf("result between steps: %v", err)
		}
		if err := instance.Terminate(ctx); !errors.Is(err, ErrBetweenSteps) {
			return 0, fmt.Errorf("terminate between steps: %v", err)
		}
		if err := instance.Delete(ctx); !errors.Is(err, ErrBetweenSteps) {
			return 0, fmt.Errorf("delete between steps: %v", err)
		}
		return 1, nil
	}))
	if _, err := other.In(p).Create(t.Context(), 1, ID("o")); err != nil {
		t.Fatal(err)
	}
	instance, err := Bind[int, int]("w").In(p).Create(t.Context(), 1, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := instance.Result(t.Context()); err != nil {
		t.Error(err)
	}
	var control protocol.Control
	if _, ok := b.last(b.instance("other", "o").ControlSubject(), &control); !ok || control.Source != (protocol.Source{Kind: "step", Project: "p", Class: "w", Name: "a"}) {
		t.Errorf("control is %+v", control)
	}
}

// TestBodyThatIsTriedAgainFindsWhatItMade: a create in the body of a step is the same create in each of its attempts, and
// another one in another step.
func TestBodyThatIsTriedAgainFindsWhatItMade(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.open("p", project.Workflow{Name: "w", ClassName: "W"}, project.Workflow{Name: "other", ClassName: "Other"})
	other := Bind[int, int]("other")
	b.start(p, Define("Other", func(_ context.Context, e Event[int]) (int, error) { return e.Payload, nil }),
		Define("W", func(ctx context.Context, _ Event[int]) (string, error) {
			made, err := Do(ctx, "make", func(ctx context.Context) (string, error) {
				i, err := other.Create(ctx, Step(ctx).Number, ID("o"))
				if err == nil && Step(ctx).Number < 3 {
					err = errors.New("try again")
				}
				if err != nil {
					return "", err
				}
				return string(i.Origin()), nil
			}, Retries(2, 0, Constant))
			if err != nil {
				return "", err
			}
			err = Exec(ctx, "make another", func(ctx context.Context) error { _, err := other.Create(ctx, 7, ID("o")); return err },
				Retries(0, 0, Constant))
			return made, fmt.Errorf("another step: %w", err)
		}))
	instance, err := Bind[int, string]("w").In(p).Create(t.Context(), 1, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = instance.Result(t.Context())
	failed, ok := errors.AsType[*InstanceError](err)
	if !ok || !strings.Contains(failed.Message, "another step") || !strings.Contains(failed.Message, ErrExists.Error()) {
		t.Errorf("the error is %v", err)
	}
	s, err := instance.Status(t.Context())
	if err != nil || len(s.Steps) != 2 || len(s.Steps[0].Attempts) != 3 || string(s.Steps[0].Output) != `"created"` {
		t.Errorf("status %+v, %v", s, err)
	}
	found, err := other.In(p).Get(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if output, err := found.Result(t.Context()); err != nil || output != 1 {
		t.Errorf("what was made first returns %d, %v", output, err)
	}
}
