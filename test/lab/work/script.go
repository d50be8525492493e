package work

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Script is what an instance of the lab does: its params.
type Script struct {
	// By is the request that created the instance.
	By string `json:"by"`
	// Kind is what people call such scripts.
	Kind string `json:"kind"`
	Ops  []Op   `json:"ops"`
}

// Op is one call of workflow code: exactly one of Do, Sleep, Wait, Call, Branches, Report, Tell, Ask and Fail is set.
type Op struct {
	// Do is a step. Its body takes Took, fails in its first Fails attempts, returns something large if Big is set, and is undone
	// if the instance fails and Undo is set.
	Do    string        `json:"do,omitempty"`
	Took  time.Duration `json:"took,omitempty"`
	Fails int           `json:"fails,omitempty"`
	Big   bool          `json:"big,omitempty"`
	Undo  bool          `json:"undo,omitempty"`

	Sleep string        `json:"sleep,omitempty"`
	For   time.Duration `json:"for,omitempty"`

	// Wait is for an event of Type, for at most For; 0: for ever.
	Wait string `json:"wait,omitempty"`
	Type string `json:"type,omitempty"`

	// Call has the other project do Script, and waits for its end, for at most For; 0: for ever.
	Call   string  `json:"call,omitempty"`
	Script *Script `json:"script,omitempty"`

	// Branches are done side by side; with a name as Race, only the first one that comes to its end counts.
	Race     string `json:"race,omitempty"`
	Branches [][]Op `json:"branches,omitempty"`

	// Report reports a number as progress. It has no result.
	Report int `json:"report,omitempty"`

	// Tell tells a ledger of the own project the line Number of the instance's lane, Ask calls it for that.
	Tell   string `json:"tell,omitempty"`
	Ask    string `json:"ask,omitempty"`
	Number int    `json:"number,omitempty"`

	// Fail ends the instance with an error.
	Fail string `json:"fail,omitempty"`
}

// Key is how the log names the count-th call of an op.
func (o Op) Key(count int) protocol.Key {
	k := protocol.Key{Count: count}
	switch {
	case o.Do != "":
		k.Op, k.Name = protocol.OpDo, o.Do
	case o.Sleep != "":
		k.Op, k.Name = protocol.OpSleep, o.Sleep
	case o.Wait != "":
		k.Op, k.Name = protocol.OpEvent, o.Wait
	case o.Call != "":
		k.Op, k.Name = protocol.OpCall, o.Call
	case o.Race != "":
		k.Op, k.Name = protocol.OpRace, o.Race
	case o.Ask != "":
		k.Op, k.Name = protocol.OpDo, StepAsk
	}
	return k
}

// What calls return that have no result of their own.
const (
	Slept    = "slept"
	TimedOut = "timed out"
)

// run is the workflow. It returns what each of its calls returned, branches of a group one after the other.
func run(ctx context.Context, e workflow.Event[Script]) ([]string, error) {
	return runAll(ctx, e.Payload.Ops)
}

func runAll(ctx context.Context, ops []Op) ([]string, error) {
	results := []string{}
	for _, o := range ops {
		r, err := o.run(ctx)
		if err != nil {
			return nil, err
		}
		results = append(results, r...)
	}
	return results, nil
}

func (o Op) run(ctx context.Context) ([]string, error) {
	switch {
	case o.Do != "":
		r, err := workflow.Do(ctx, o.Do, o.body, o.options()...)
		return []string{Brief(r)}, err
	case o.Sleep != "":
		return []string{Slept}, workflow.Sleep(ctx, o.Sleep, o.For)
	case o.Wait != "":
		got, err := workflow.WaitForEvent[string](ctx, o.Wait, o.Type, workflow.Timeout(o.patience()))
		if errors.Is(err, context.DeadlineExceeded) {
			return []string{TimedOut}, nil
		}
		return []string{Brief(got.Payload)}, err
	case o.Call != "":
		return o.call(ctx)
	case o.Race != "":
		return o.race(ctx)
	case o.Branches != nil:
		return o.group(ctx)
	case o.Report != 0:
		return nil, workflow.ReportProgress(ctx, o.Report)
	case o.Tell != "":
		return nil, agent.Tell(ctx, Ledgers.Agent(o.Tell), (*Ledger).Note, o.order(ctx))
	case o.Ask != "":
		n, err := agent.Call(ctx, Ledgers.Agent(o.Ask), (*Ledger).Carry, o.order(ctx))
		return []string{strconv.Itoa(n)}, err
	}
	return nil, errors.New(o.Fail)
}

// StepAsk is what the step of an Ask is called.
const StepAsk = "call " + ClassLedger + ".Carry"

// LaneOf is the lane of what an instance tells.
func LaneOf(instance string) string { return "instance/" + instance }

func (o Op) order(ctx context.Context) Order {
	return Order{Lane: LaneOf(workflow.Info(ctx).ID), Number: o.Number}
}

// patience of a wait without an end is as long as the longest run of the lab.
func (o Op) patience() time.Duration {
	if o.For == 0 {
		return 24 * time.Hour
	}
	return o.For
}

func (o Op) options() []workflow.StepOption {
	options := []workflow.StepOption{workflow.Retries(100, 300*time.Millisecond, workflow.Constant), workflow.LostRuns(1000), workflow.Timeout(5 * time.Minute)}
	if o.Undo {
		options = append(options, workflow.Compensate(o.undo))
	}
	return options
}

// padding stands between a result and what only makes it large.
const padding = "|"

// Brief is a result without what only makes it large.
func Brief(r string) string {
	r, _, _ = strings.Cut(r, padding)
	return r
}

// Large makes a result too large for a message.
func Large(r string) string { return r + padding + strings.Repeat("x", protocol.InlinePayload) }

// body returns what no other body returns: so results tell which one counted.
func (o Op) body(ctx context.Context) (string, error) {
	if err := noteBody(ctx, o.Do, ""); err != nil {
		return "", err
	}
	select {
	case <-time.After(o.Took):
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if workflow.Step(ctx).Number <= o.Fails {
		return "", fmt.Errorf("attempt %d of %s fails", workflow.Step(ctx).Number, o.Do)
	}
	r := o.Do + " by " + uuid.NewString()
	if err := noteBody(ctx, o.Do, r); err != nil {
		return "", err
	}
	if o.Big {
		r = Large(r)
	}
	return r, nil
}

func (o Op) undo(ctx context.Context, _ string, _ error) error {
	return noteBody(ctx, "undo "+o.Do, "undone")
}

func (o Op) call(ctx context.Context) ([]string, error) {
	var options []workflow.CallOption
	if o.For > 0 {
		options = append(options, workflow.Timeout(o.For))
	}
	results, err := workflow.Call(ctx, o.Call, workflow.Bind[Script, []string](Other), *o.Script, options...)
	if errors.Is(err, context.DeadlineExceeded) {
		return []string{TimedOut}, nil
	}
	return []string{Joined(results)}, err
}

// Joined is what a call returns of the results of its child.
func Joined(results []string) string { return strings.Join(results, ", ") }

func (o Op) group(ctx context.Context) ([]string, error) {
	results := make([][]string, len(o.Branches))
	g := workflow.NewGroup(ctx)
	for i, branch := range o.Branches {
		g.Go(func(ctx context.Context) (err error) {
			results[i], err = runAll(ctx, branch)
			return err
		})
	}
	err := g.Wait()
	return slices.Concat(results...), err
}

func (o Op) race(ctx context.Context) ([]string, error) {
	var branches []func(context.Context) ([]string, error)
	for _, branch := range o.Branches {
		branches = append(branches, func(ctx context.Context) ([]string, error) { return runAll(ctx, branch) })
	}
	winner, results, err := workflow.Race(ctx, o.Race, branches...)
	return []string{Won(winner, results)}, err
}

// Won is what a race returns.
func Won(winner int, results []string) string { return fmt.Sprint(winner, " with ", Joined(results)) }

// Expected is what a script returns whose calls have these results. Used is how often each name was called so far.
func Expected(ops []Op, used map[protocol.Key]int, results map[protocol.Key]string) []string {
	want := []string{}
	for _, o := range ops {
		if o.Report != 0 || o.Tell != "" {
			continue
		}
		if o.Branches != nil && o.Race == "" {
			for _, branch := range o.Branches {
				want = append(want, Expected(branch, used, results)...)
			}
			continue
		}
		used[o.Key(0)]++
		want = append(want, results[o.Key(used[o.Key(0)])])
	}
	return want
}

// End is how an instance has ended, as a client was told.
type End struct {
	Output []string `json:"output,omitempty"`
	// Failure is the name of the error, and Message its text, of one that did not complete.
	Failure string `json:"failure,omitempty"`
	Message string `json:"message,omitempty"`
}
