package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// script is what the one workflow of these tests is told to do: its params.
type script struct {
	Ops []op `json:"ops"`
}

// op is one call of workflow code: exactly one of Do, Hold, Sleep, Wait, Call, Group and Fail is set.
type op struct {
	Do string `json:"do,omitempty"`
	// Gate makes the body ask the test before it returns; see world.gate.
	Gate bool `json:"gate,omitempty"`
	// Took is how long the body takes.
	Took time.Duration `json:"took,omitempty"`
	// Die makes the body kill its process.
	Die bool `json:"die,omitempty"`
	// LostRuns is an option of the step, if set.
	LostRuns int `json:"lost_runs,omitempty"`
	// Undo gives the step a compensation. UndoGate makes that ask the test before it returns, at the gate of "undo <step>".
	Undo     bool `json:"undo,omitempty"`
	UndoGate bool `json:"undo_gate,omitempty"`
	// Big makes the result too large for a message.
	Big bool `json:"big,omitempty"`
	// Note is a file, if set, in which the body notes itself before it does anything: instance, step and process.
	Note string `json:"note,omitempty"`

	// Hold is code between steps that asks the test before it goes on, as a body with a gate does.
	Hold string `json:"hold,omitempty"`

	// LeftOut is the version of the code that has not got this call, if there is one.
	LeftOut string `json:"left_out,omitempty"`

	// Fail, if set, is the error that the code returns.
	Fail string `json:"fail,omitempty"`

	Sleep string        `json:"sleep,omitempty"`
	For   time.Duration `json:"for,omitempty"`

	// Wait names a wait for an event of type Type. For, if set, is its timeout.
	Wait string `json:"wait,omitempty"`
	Type string `json:"type,omitempty"`

	// Call names a call of the same workflow of another project, with Script. For, if set, is its timeout.
	Call   string  `json:"call,omitempty"`
	Script *script `json:"script,omitempty"`

	Group [][]op `json:"group,omitempty"`
	// Race lets the branches of Group race; it is the name of the race.
	Race string `json:"race,omitempty"`
	// Fails is the error with which Group ends, and which its code then returns as a result.
	Fails string `json:"fails,omitempty"`
	// Ends lets the first branch of Group end the contexts of the others when it returns. Theirs are no results.
	Ends bool `json:"ends,omitempty"`
}

func do(name string) op  { return op{Do: name} }
func big(name string) op { return op{Do: name, Big: true} }
func undone(name string, took time.Duration) op {
	return op{Do: name, Took: took, Undo: true}
}
func gated(name string) op                    { return op{Do: name, Gate: true} }
func slow(name string, took time.Duration) op { return op{Do: name, Took: took} }
func sleep(name string, d time.Duration) op   { return op{Sleep: name, For: d} }
func wait(name, eventType string) op          { return op{Wait: name, Type: eventType} }
func sideBySide(branches ...[]op) op          { return op{Group: branches} }
func race(name string, branches ...[]op) op   { return op{Race: name, Group: branches} }
func inTurn(all ...op) []op                   { return all }
func ops(all ...op) script                    { return script{Ops: all} }

func (o op) key(count int) protocol.Key {
	switch {
	case o.Do != "":
		return protocol.Key{Op: protocol.OpDo, Name: o.Do, Count: count}
	case o.Sleep != "":
		return protocol.Key{Op: protocol.OpSleep, Name: o.Sleep, Count: count}
	case o.Call != "":
		return protocol.Key{Op: protocol.OpCall, Name: o.Call, Count: count}
	case o.Race != "":
		return protocol.Key{Op: protocol.OpRace, Name: o.Race, Count: count}
	}
	return protocol.Key{Op: protocol.OpEvent, Name: o.Wait, Count: count}
}

// run is the workflow. It returns what each of its calls returned, branches of a group one after the other.
func run(ctx context.Context, e workflow.Event[script]) ([]string, error) {
	return runOps(ctx, e.Payload.Ops)
}

func runOps(ctx context.Context, all []op) ([]string, error) {
	results := []string{}
	p, _ := project.From(ctx)
	for _, o := range all {
		if o.LeftOut != "" && o.LeftOut == p.Config.Settings.Version {
			continue
		}
		r, err := o.run(ctx)
		if err != nil {
			return nil, err
		}
		results = append(results, r...)
	}
	return results, nil
}

func (o op) run(ctx context.Context) ([]string, error) {
	switch {
	case o.Hold != "":
		return nil, passGate(ctx, o.Hold)
	case o.Do != "":
		var options []workflow.StepOption
		if o.LostRuns > 0 {
			options = append(options, workflow.LostRuns(o.LostRuns))
		}
		if o.Undo {
			options = append(options, workflow.Compensate(o.undo))
		}
		r, err := workflow.Do(ctx, o.Do, o.body, options...)
		return []string{brief(r)}, err
	case o.Fail != "":
		return nil, errors.New(o.Fail)
	case o.Sleep != "":
		return []string{"slept"}, workflow.Sleep(ctx, o.Sleep, o.For)
	case o.Wait != "":
		timeout := workflow.DefaultEventTimeout
		if o.For > 0 {
			timeout = o.For
		}
		got, err := workflow.WaitForEvent[string](ctx, o.Wait, o.Type, workflow.Timeout(timeout))
		if errors.Is(err, context.DeadlineExceeded) {
			return []string{"timed out"}, nil
		}
		return []string{got.Payload}, err
	}
	if o.Call != "" {
		return o.callChild(ctx)
	}
	if o.Race != "" {
		return o.race(ctx)
	}
	return o.group(ctx)
}

func (o op) group(ctx context.Context) ([]string, error) {
	results := make([][]string, len(o.Group))
	g := workflow.NewGroup(ctx)
	others, end := context.WithCancel(ctx)
	defer end()
	for i, branch := range o.Group {
		g.Go(func(ctx context.Context) (err error) {
			if o.Ends && i > 0 {
				own, cancel := context.WithCancel(ctx)
				defer context.AfterFunc(others, cancel)()
				_, _ = runOps(own, branch)
				return nil
			}
			results[i], err = runOps(ctx, branch)
			if o.Ends {
				end()
			}
			return err
		})
	}
	err := g.Wait()
	if o.Fails != "" && err != nil {
		return []string{err.Error()}, nil
	}
	return slices.Concat(results...), err
}

func (o op) race(ctx context.Context) ([]string, error) {
	var branches []func(context.Context) ([]string, error)
	for _, branch := range o.Group {
		branches = append(branches, func(ctx context.Context) ([]string, error) { return runOps(ctx, branch) })
	}
	winner, results, err := workflow.Race(ctx, o.Race, branches...)
	return []string{won(winner, results)}, err
}

func won(winner int, results []string) string {
	return fmt.Sprint(winner, " with ", strings.Join(results, ", "))
}

// callBinding leads to the workflow of the project that a world calls.
const callBinding = "CALLED"

func (o op) callChild(ctx context.Context) ([]string, error) {
	var options []workflow.CallOption
	if o.For > 0 {
		options = append(options, workflow.Timeout(o.For))
	}
	results, err := workflow.Call(ctx, o.Call, workflow.Bind[script, []string](callBinding), *o.Script, options...)
	if errors.Is(err, context.DeadlineExceeded) {
		return []string{"timed out"}, nil
	}
	return []string{strings.Join(results, ", ")}, err
}

// call is what a body tells the test about itself.
type call struct {
	Step    string `json:"step"`
	PID     int    `json:"pid"`
	Attempt int    `json:"attempt"`
	Key     string `json:"key"`
	Fence   uint64 `json:"fence"`
}

// body returns a result that no other body returns: so the output tells which one counted.
func (o op) body(ctx context.Context) (string, error) {
	if err := o.note(ctx); err != nil {
		return "", err
	}
	if o.Gate || o.Die {
		if err := passGate(ctx, o.Do); err != nil {
			return "", err
		}
	}
	if o.Die {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return "", err
		}
		select {} // dead
	}
	select {
	case <-time.After(o.Took):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	r := fmt.Sprintf("%s by %s", o.Do, uuid.NewString())
	if o.Big {
		r += padding + strings.Repeat("x", protocol.InlinePayload)
	}
	return r, nil
}

// note appends a line as a whole: others write to the same file.
func (o op) note(ctx context.Context) error {
	if o.Note == "" {
		return nil
	}
	f, err := os.OpenFile(o.Note, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, workflow.Info(ctx).ID, o.Do, os.Getpid())
	return errors.Join(err, f.Close())
}

func (o op) undo(ctx context.Context, _ string, _ error) error {
	if !o.UndoGate {
		return nil
	}
	return passGate(ctx, undoOf(o.Do))
}

// undoOf names the compensation of a step to the test.
func undoOf(step string) string { return "undo-" + step }

// passGate tells the test of a body, and waits until it may go on.
func passGate(ctx context.Context, step string) error {
	a := workflow.Step(ctx)
	p, _ := project.From(ctx)
	body, err := json.Marshal(call{Step: step, PID: os.Getpid(), Attempt: a.Number, Key: a.IdempotencyKey, Fence: a.Fence})
	if err != nil {
		return err
	}
	return ask(ctx, p.NC, gateSubject(p.Config.Name, workflow.Info(ctx).ID, step), body)
}

// padding stands between a result and what only makes it large.
const padding = "|"

// brief is a result without what only makes it large.
func brief(r string) string {
	r, _, _ = strings.Cut(r, padding)
	return r
}

// gateSubject is of core NATS: nothing of it is stored.
func gateSubject(project, id, step string) string { return "gate." + project + "." + id + "." + step }

// ask waits for the test's answer. A cluster takes a moment until all its servers know that somebody listens.
func ask(ctx context.Context, nc *nats.Conn, subject string, body []byte) error {
	for {
		_, err := nc.RequestWithContext(ctx, subject, body)
		if !errors.Is(err, nats.ErrNoResponders) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
