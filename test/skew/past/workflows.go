// Package past is a project that stops in the middle of everything. What it has stored then, as programs of earlier versions have stored
// it, is in test/skew/testdata; the tests go on with it. It uses only what the oldest of those versions had, and must never
// change: recorded instances belong to this code.
package past

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// Recording is set while the project is recorded: some bodies do not return then, and one workflow has older code.
var Recording atomic.Bool

// Nap is how long sleepers sleep. Recordings are older, so that their sleeps have ended.
const Nap = time.Minute

// Config is the project's, at a server.
func Config(url string) project.Config {
	c := project.Config{Name: "past", Settings: project.Settings{NATSURL: url, HTTPAddr: "127.0.0.1:0", HealthAddr: "127.0.0.1:0"}}
	for _, name := range Names {
		c.Workflows = append(c.Workflows, project.Workflow{Name: name, ClassName: name})
	}
	return c
}

// Names are those of the workflows. They have a class of the same name.
var Names = []string{"sleeper", "waiter", "branches", "parent", "stuck", "retried", "large", "changed"}

// Workflows are the workflows.
func Workflows() []workflow.Definition {
	return []workflow.Definition{
		workflow.Define("sleeper", sleeper), workflow.Define("waiter", waiter), workflow.Define("branches", branches),
		workflow.Define("parent", parent), workflow.Define("stuck", stuck), workflow.Define("retried", retried),
		workflow.Define("large", large), workflow.Define("changed", changed),
	}
}

func say(ctx context.Context, name, text string) (string, error) {
	return workflow.Do(ctx, name, func(context.Context) (string, error) { return text, nil })
}

// TimedOut is what instances have got whose recording is older than a year, the longest that a wait may be.
const TimedOut = "timed out"

func wait(ctx context.Context, name string) (string, error) {
	received, err := workflow.WaitForEvent[string](ctx, name, "go", workflow.Timeout(365*24*time.Hour))
	if _, ok := errors.AsType[*workflow.TimeoutError](err); ok {
		return TimedOut, nil
	}
	return received.Payload, err
}

func sleeper(ctx context.Context, e workflow.Event[string]) (string, error) {
	before, err := say(ctx, "before", e.Payload)
	if err != nil {
		return "", err
	}
	if err := workflow.Sleep(ctx, "nap", Nap); err != nil {
		return "", err
	}
	after, err := say(ctx, "after", "after")
	return before + ", " + after, err
}

func waiter(ctx context.Context, e workflow.Event[string]) (string, error) {
	got, err := wait(ctx, "wait")
	return e.Payload + ", " + got, err
}

func branches(ctx context.Context, e workflow.Event[string]) (string, error) {
	var slept, got string
	g := workflow.NewGroup(ctx)
	g.Go(func(ctx context.Context) (err error) {
		if err := workflow.Sleep(ctx, "branch nap", Nap); err != nil {
			return err
		}
		slept, err = say(ctx, "slept", "slept")
		return err
	})
	g.Go(func(ctx context.Context) error {
		var err error
		got, err = wait(ctx, "branch wait")
		return err
	})
	err := g.Wait()
	return e.Payload + ", " + slept + ", " + got, err
}

// waiterBinding leads to the children of parents.
var waiterBinding = workflow.Bind[string, string]("waiter")

func parent(ctx context.Context, e workflow.Event[string]) (string, error) {
	child, err := workflow.Call(ctx, "child", waiterBinding, "child of "+e.Payload, workflow.ID("child-of-"+e.Payload))
	return "parent, " + child, err
}

// stuck is in the middle of a step when its runner stops.
func stuck(ctx context.Context, e workflow.Event[string]) (string, error) {
	return workflow.Do(ctx, "work", func(ctx context.Context) (string, error) {
		if Recording.Load() {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return e.Payload + ", worked", nil
	})
}

// retried waits for another attempt.
func retried(ctx context.Context, e workflow.Event[string]) (string, error) {
	return workflow.Do(ctx, "try", func(context.Context) (string, error) {
		if Recording.Load() {
			return "", errors.New("not yet")
		}
		return e.Payload + ", tried again", nil
	}, workflow.Retries(3, Nap, workflow.Constant))
}

// large has values that are objects.
func large(ctx context.Context, e workflow.Event[string]) (string, error) {
	part, err := workflow.Do(ctx, "double", func(context.Context) (string, error) { return e.Payload + e.Payload, nil })
	if err != nil {
		return "", err
	}
	got, err := wait(ctx, "wait")
	if !strings.HasPrefix(part, e.Payload) || len(part) != 2*len(e.Payload) {
		return "", errors.New("the value of the step is not what it was")
	}
	return got, err
}

// changed is held: after its event, its code asks for something else than what is recorded.
func changed(ctx context.Context, e workflow.Event[string]) (string, error) {
	name := "new"
	if Recording.Load() {
		name = "old"
	}
	first, err := say(ctx, name, name)
	if err != nil {
		return "", err
	}
	got, err := wait(ctx, "wait")
	return e.Payload + ", " + first + ", " + got, err
}

// Input is the payload of an instance.
func Input(name, id string) string {
	if name == "large" {
		return strings.Repeat("x", 200<<10)
	}
	return id
}
