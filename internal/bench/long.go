package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// LongParams start an instance that lives long.
type LongParams struct {
	// Steps is how many steps it has, one after the other. Parks is how often it waits for an event, and has a step then.
	Steps int `json:"steps,omitempty"`
	Parks int `json:"parks,omitempty"`
}

const (
	longBinding = "LONG"
	longClass   = "Long"
	longLimit   = 2 * maxLong
	// maxLong is how many steps or parks can be measured.
	maxLong = 50_000
	// window is how many steps or parks stand for one.
	window = 50
	// goEvent lets an instance go on.
	goEvent = "go"
)

// told is the subject on which an instance tells that the body of a step runs that follows a wait.
func told(id string) string { return "bench." + id }

// long is the measured workflow. It returns the moments at which the bodies of its steps began, in nanoseconds after the
// first. Before the last step, it waits for an event.
func long(ctx context.Context, event workflow.Event[LongParams]) ([]int64, error) {
	began, at := time.Now(), []int64{}
	for i := range event.Payload.Steps {
		_, err := workflow.Do(ctx, "step", func(context.Context) (int, error) {
			at = append(at, time.Since(began).Nanoseconds())
			return i, nil
		})
		if err != nil {
			return nil, err
		}
	}
	p, _ := project.From(ctx)
	for i := range event.Payload.Parks {
		if _, err := workflow.WaitForEvent[int](ctx, "wait", goEvent, workflow.Timeout(time.Hour)); err != nil {
			return nil, err
		}
		_, err := workflow.Do(ctx, "step", func(context.Context) (int, error) { return i, p.NC.Publish(told(event.InstanceID), nil) })
		if err != nil {
			return nil, err
		}
	}
	at, err := workflow.Do(ctx, "times", func(context.Context) ([]int64, error) { return at, nil })
	if err != nil {
		return nil, err
	}
	if _, err := workflow.WaitForEvent[int](ctx, "last wait", goEvent, workflow.Timeout(time.Hour)); err != nil {
		return nil, err
	}
	return at, ended(workflow.Do(ctx, "last", func(context.Context) (int, error) { return 0, nil }))
}

func ended(_ int, err error) error { return err }

// LongReport is what instances cost that live long.
type LongReport struct {
	Setting
	// Steps are steps one after the other: from one to the next. Parks are waits for an event: from the event to the body of
	// the step after it, by the runner that has executed the instance before.
	Steps []Cost `json:"steps"`
	Parks []Cost `json:"parks"`
	// ResumedSteps and ResumedParks are from an event to the end of an instance that has one more step, by a runner that
	// has never seen it.
	ResumedSteps []Cost `json:"resumed_after_steps"`
	ResumedParks []Cost `json:"resumed_after_parks"`
}

// Cost is what one more costs after a number of them.
type Cost struct {
	At     int     `json:"at"`
	Millis float64 `json:"ms"`
	// Ratio is to the first of its list; of a wait, to one of an instance that has waited ten times, at the same time.
	Ratio float64 `json:"ratio"`
}

func costs(list []Cost, at int, took time.Duration) []Cost {
	if len(list) == 0 {
		return []Cost{costOf(at, took, took)}
	}
	return append(list, costOf(at, took, time.Duration(list[0].Millis*float64(time.Millisecond))))
}

func costOf(at int, took, to time.Duration) Cost {
	c := Cost{At: at, Millis: math.Round(float64(took)/float64(time.Microsecond)) / 1000, Ratio: 1}
	if to > 0 {
		c.Ratio = math.Round(100*float64(took)/float64(to)) / 100
	}
	return c
}

// longLoad is a measurement of instances that live long.
type longLoad struct {
	steps, parks, procs int
}

// points are 10, 100, ... up to a number.
func points(to int) (all []int) {
	for at := 10; at < to; at *= 10 {
		all = append(all, at)
	}
	return append(all, to)
}

// lives is a measurement under way.
type lives struct {
	*processes
	project *project.Project
	binding workflow.Bound[LongParams, []int64]
}

func (l longLoad) run(ctx context.Context, p *processes) (LongReport, error) {
	r := LongReport{Setting: setting("long", p.world)}
	opened, err := project.Open(ctx, config(p.url))
	if err != nil {
		return r, err
	}
	defer opened.Close()
	m := lives{processes: p, project: opened, binding: workflow.Bind[LongParams, []int64](longBinding).In(opened)}
	if _, _, err := m.steps(ctx, min(l.steps, 1000)); err != nil { // to warm up
		return r, err
	}
	for _, n := range points(l.steps) {
		took, at, err := m.steps(ctx, n+window)
		if err != nil {
			return r, err
		}
		r.ResumedSteps = costs(r.ResumedSteps, n, took)
		if n != l.steps {
			continue
		}
		for _, n := range points(n) {
			r.Steps = costs(r.Steps, n, typical(at[n:n+window]))
		}
	}
	for _, n := range points(l.parks) {
		took, waits, err := m.parks(ctx, n)
		if err != nil {
			return r, err
		}
		r.ResumedParks, r.Parks = costs(r.ResumedParks, n, took), waits
	}
	return r, nil
}

// typical is the median time from one moment to the next.
func typical(at []int64) time.Duration {
	var each []time.Duration
	for i := range at[1:] {
		each = append(each, time.Duration(at[i+1]-at[i]))
	}
	return median(each)
}

func median(each []time.Duration) time.Duration {
	each = slices.Sorted(slices.Values(each))
	return each[len(each)/2]
}

// steps lets an instance have a number of steps and measures how long another runner takes to resume it. It returns when
// each step began, too.
func (m lives) steps(ctx context.Context, n int) (resumed time.Duration, at []int64, err error) {
	instance, err := m.binding.Create(ctx, LongParams{Steps: n})
	if err != nil {
		return 0, nil, err
	}
	return m.resume(ctx, instance)
}

// resume measures how long a new runner takes from the event that an instance waits for to its end.
func (m lives) resume(ctx context.Context, instance *workflow.Instance[[]int64]) (took time.Duration, at []int64, err error) {
	if _, err := m.parked(ctx, instance.ID(), 0, "last wait"); err != nil {
		return 0, nil, err
	}
	if err := m.replaceRunner(ctx); err != nil {
		return 0, nil, err
	}
	start := time.Now()
	if err := instance.SendEvent(ctx, goEvent, 0); err != nil {
		return 0, nil, err
	}
	at, err = instance.Result(ctx)
	return time.Since(start), at, err
}

// parks lets an instance wait for events, one after the other, and measures how long each takes to have its effect after 10,
// 100, … up to a number, and how long another runner takes to resume it.
func (m lives) parks(ctx context.Context, n int) (resumed time.Duration, waits []Cost, err error) {
	old, err := m.waits(ctx, n+window*len(points(n)))
	if err != nil {
		return 0, nil, err
	}
	defer old.effects.Unsubscribe()
	for _, at := range points(n) {
		for old.had < at {
			if _, err := old.wait(ctx); err != nil {
				return 0, nil, err
			}
		}
		long, short, err := m.beside(ctx, old)
		if err != nil {
			return 0, nil, err
		}
		waits = append(waits, costOf(at, long, short))
	}
	for old.had < old.all {
		if _, err := old.wait(ctx); err != nil {
			return 0, nil, err
		}
	}
	resumed, _, err = m.resume(ctx, old.instance)
	return resumed, waits, err
}

// beside measures waits of an instance and, in turn with them, those of one that has waited ten times: what else the machine has to do
// holds up both.
func (m lives) beside(ctx context.Context, old *waiter) (long, short time.Duration, err error) {
	young, err := m.waits(ctx, 10+window)
	if err != nil {
		return 0, 0, err
	}
	defer young.effects.Unsubscribe()
	var longs, shorts []time.Duration
	for young.had < young.all {
		took, err := young.wait(ctx)
		if err != nil {
			return 0, 0, err
		}
		if young.had <= 10 {
			continue
		}
		shorts = append(shorts, took)
		if took, err = old.wait(ctx); err != nil {
			return 0, 0, err
		}
		longs = append(longs, took)
	}
	return median(longs), median(shorts), nil
}

// waiter is an instance that waits again and again: as often as all, of which it had some.
type waiter struct {
	lives
	instance *workflow.Instance[[]int64]
	effects  *nats.Subscription
	all, had int
	park     uint64
}

// waits begins an instance that waits a number of times.
func (m lives) waits(ctx context.Context, n int) (*waiter, error) {
	instance, err := m.binding.Create(ctx, LongParams{Parks: n})
	if err != nil {
		return nil, err
	}
	effects, err := m.project.NC.SubscribeSync(told(instance.ID()))
	return &waiter{lives: m, instance: instance, effects: effects, all: n}, err
}

// wait lets one wait end, and measures how long that takes to have its effect.
func (w *waiter) wait(ctx context.Context) (took time.Duration, err error) {
	if w.park, err = w.parked(ctx, w.instance.ID(), w.park, "wait"); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := w.instance.SendEvent(ctx, goEvent, 0); err != nil {
		return 0, err
	}
	_, err = w.effects.NextMsgWithContext(ctx)
	w.had++
	return time.Since(start), err
}

// parked waits until the instance is parked at a wait of this name, later than at a sequence, and returns its sequence.
func (m lives) parked(ctx context.Context, id string, after uint64, wait string) (uint64, error) {
	target, err := m.project.Config.Binding(longBinding)
	if err != nil {
		return 0, err
	}
	shards, _ := m.project.Known(target) // since the instance was created
	instance := protocol.Instance{Project: projectName, Shard: protocol.Shard(id, shards), Workflow: longBinding, ID: id}
	for tick := time.Tick(200 * time.Microsecond); ; {
		m, err := m.project.Journal().Last(ctx, instance.Stream(), instance.LogSubject())
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			return 0, err
		}
		var a protocol.Append
		if err == nil && m.Sequence > after && json.Unmarshal(m.Data, &a) == nil {
			last := a.Entries[len(a.Entries)-1]
			if last.Kind == protocol.EntryParked && last.Waits[0].Name == wait {
				return m.Sequence, nil
			}
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (r LongReport) print(w io.Writer, output string) error {
	if output == "json" {
		return writeJSON(w, r)
	}
	t := r.table(w)
	for _, list := range []struct {
		what  string
		costs []Cost
	}{{"a step after", r.Steps}, {"a wait after", r.Parks}, {"resumed after", r.ResumedSteps}, {"resumed after, waits", r.ResumedParks}} {
		for _, c := range list.costs {
			fmt.Fprintf(t, "%s %d\t%.2f ms\t× %.2f\n", list.what, c.At, c.Millis, c.Ratio)
		}
	}
	return t.Flush()
}

func longCommand() *cobra.Command {
	l := longLoad{steps: 10_000, parks: 1000, procs: max(1, runtime.NumCPU()/3)}
	var output, url string
	cmd := &cobra.Command{
		Use: "long", Short: "What a step, a wait and a resume cost in an instance that has lived long", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.validate(output); err != nil {
				return err
			}
			runtime.GOMAXPROCS(l.procs)
			report, err := withProcesses(cmd, world{url: url, procs: l.procs}, l.run)
			if err != nil {
				return err
			}
			return report.print(cmd.OutOrStdout(), output)
		},
	}
	cmd.Flags().IntVar(&l.steps, "steps", l.steps, "steps of the longest instance without waits")
	cmd.Flags().IntVar(&l.parks, "waits", l.parks, "waits, with a step after each, of the longest instance that waits")
	cmd.Flags().IntVar(&l.procs, "procs", l.procs, "GOMAXPROCS of server, runner and client each")
	cmd.Flags().StringVar(&url, "nats-url", "", "measure on this NATS server instead of one that is started for it")
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func (l longLoad) validate(output string) error {
	switch {
	case l.steps < 20 || l.steps > maxLong:
		return fmt.Errorf("--steps: %d: allowed is 20 to %d", l.steps, maxLong)
	case l.parks < 20 || l.parks > maxLong:
		return fmt.Errorf("--waits: %d: allowed is 20 to %d", l.parks, maxLong)
	case l.procs < 1 || l.procs > 1024:
		return fmt.Errorf("--procs: %d: allowed is 1 to 1024", l.procs)
	case output != "text" && output != "json":
		return fmt.Errorf("--output: %q: allowed is text or json", output)
	}
	return nil
}
