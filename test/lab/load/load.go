// Package load drives Skein in the fault lab: clients of two projects that start workflows of every kind, steer them and send them
// events, by a seed and at a bounded rate, and note durably what they asked for and what they were told.
//
// It must never take an error for a refusal that may hide an effect, and never judge: that is for package history.
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// Options are what a Load works with. URL, Notes, Instances and Over are needed.
type Options struct {
	// URL lists the NATS servers.
	URL string
	// Notes is the folder of the notes.
	Notes string
	// Seed decides what is done, and when.
	Seed uint64
	// Instances is how many are started, over so long.
	Instances int
	Over      time.Duration
	// Hosts are the addresses of the agent hosts of a project, as http://10.0.0.1:8700. Without it no agents are asked.
	Hosts func(project string) []string
	// Requests is how many requests are made to agents, over the same time. Default: as many as instances.
	Requests int
	// Patience bounds each request. Default 60 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Report counts what was asked for, by action and outcome: "create ok".
type Report map[string]int

// Load is the clients. Run and Finish are called once each.
type Load struct {
	Options
	notes    *notes.Writer
	projects map[string]*project.Project
	client   *http.Client
	requests atomic.Int64

	mu      sync.Mutex // guards what follows
	report  Report
	started []*instance
}

// New opens both projects, once a NATS server is there.
func New(ctx context.Context, o Options) (*Load, error) {
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	if o.Requests == 0 {
		o.Requests = o.Instances
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	writer, err := notes.Open(o.Notes, "load")
	if err != nil {
		return nil, err
	}
	l := &Load{Options: o, notes: writer, projects: map[string]*project.Project{}, client: &http.Client{}, report: Report{}}
	for _, name := range work.Projects() {
		config, err := work.Config(name)
		if err != nil {
			return nil, err
		}
		config.Settings.NATSURL = o.URL
		if l.projects[name], err = project.Open(ctx, config, project.Logger(o.Log)); err != nil {
			return nil, fmt.Errorf("open project %s: %w", name, err)
		}
	}
	return l, nil
}

// Close ends the connections.
func (l *Load) Close() error {
	for _, p := range l.projects {
		p.Close()
	}
	return l.notes.Close()
}

// Run starts everything, evenly over time, and returns when every client has its answers or has given up.
func (l *Load) Run(ctx context.Context) (_ Report, err error) {
	var group errgroup.Group
	if l.Hosts != nil {
		if err := l.hang(ctx); err != nil {
			return l.counts(), err
		}
		l.clerks(ctx, &group)
		open, leave := context.WithCancel(ctx)
		var halls errgroup.Group
		l.crowds(open, &halls)
		defer func() { leave(); err = errors.Join(err, halls.Wait()) }()
	}
	began := time.Now()
	for n := range l.Instances {
		at := began.Add(l.Over * time.Duration(n) / time.Duration(max(1, l.Instances)))
		if err := pause(ctx, time.Until(at)); err != nil {
			break
		}
		i := l.draw(n)
		l.mu.Lock()
		l.started = append(l.started, i)
		l.mu.Unlock()
		group.Go(func() error { return i.live(ctx) })
	}
	err = group.Wait()
	return l.counts(), err
}

func (l *Load) counts() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := Report{}
	maps.Copy(counts, l.report)
	return counts
}

// draw decides about the n-th instance, by the seed alone.
func (l *Load) draw(n int) *instance {
	rng := rand.New(rand.NewPCG(l.Seed, uint64(n)))
	k := kinds[pick(rng)]
	if k.name == kindAsks && l.Hosts == nil { // nobody would answer
		k = kinds[0]
	}
	i := &instance{
		Load: l, kind: k, rng: rng, project: work.Projects()[rng.IntN(2)], workflow: work.Any,
		id: fmt.Sprintf("%s-%d", k.name, n),
	}
	if k.few {
		i.workflow = work.Few
	}
	return i
}

// pick takes a kind by its share.
func pick(rng *rand.Rand) int {
	total := 0
	for _, k := range kinds {
		total += k.share
	}
	n := rng.IntN(total)
	for i, k := range kinds {
		if n -= k.share; n < 0 {
			return i
		}
	}
	return 0
}

// request is something that a client asks for.
type request struct {
	notes.Note
	// refusals are the errors that say that nothing was stored.
	refusals []error
}

// ask does what a request asks for, and notes both ends. It returns what the client was told.
func (l *Load) ask(ctx context.Context, r request, do func(ctx context.Context) (any, error)) (notes.Outcome, error) {
	r.Request = fmt.Sprintf("r%d", l.requests.Add(1))
	begun := r.Note
	begun.Kind = notes.Begun
	if err := l.notes.Add(begun); err != nil {
		return notes.Unknown, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.Patience)
	defer cancel()
	value, failed := do(withRequest(ctx, r.Request))
	r.Kind, r.Outcome = notes.Answered, outcome(failed, r.refusals)
	if failed != nil {
		r.Detail = failed.Error()
	}
	var err error
	if value != nil {
		r.Value, err = json.Marshal(value)
	}
	l.mu.Lock()
	l.report[r.Action+" "+string(r.Outcome)]++
	l.mu.Unlock()
	if r.Outcome == notes.Unknown {
		l.Log.DebugContext(ctx, "not known", logkey.Instance, r.ID, "request", r.Request, "action", r.Action, logkey.Error, failed)
	}
	return r.Outcome, errors.Join(err, l.notes.Add(r.Note))
}

func outcome(err error, refusals []error) notes.Outcome {
	if err == nil {
		return notes.OK
	}
	for _, refusal := range refusals {
		if errors.Is(err, refusal) {
			return notes.Refused
		}
	}
	return notes.Unknown
}

type requestKey struct{}

func withRequest(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// requestOf is the name of the request that is under way.
func requestOf(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// pause waits for d, or until ctx ends: in the lab time itself is part of the load.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (l *Load) bound(project, name string) workflow.Bound[work.Script, []string] {
	return workflow.Bind[work.Script, []string](name).In(l.projects[project])
}

// Finish, once everything is healed, pauses all schedules and ends what waits for a client: what is paused goes on, what waits for its
// last event gets it.
func (l *Load) Finish(ctx context.Context) error {
	for _, name := range work.Projects() {
		err := calm(ctx, l.projects[name])
		if err == nil && l.Hosts != nil {
			err = l.calmAgents(ctx, name)
		}
		if err != nil {
			return fmt.Errorf("pause schedules of %s: %w", name, err)
		}
	}
	var group errgroup.Group
	group.SetLimit(16)
	for _, i := range l.started {
		if !i.over {
			group.Go(func() error { return i.finish(ctx) })
		}
	}
	return group.Wait()
}

// calm pauses the schedules of a project.
func calm(ctx context.Context, p *project.Project) error {
	schedules := workflow.SchedulesOf(p)
	all, err := schedules.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := schedules.Pause(ctx, s.Workflow+"/"+s.ID, "the lab is over"); err != nil {
			return err
		}
	}
	return nil
}

// finish ends an instance of which nobody was told that it has ended.
func (i *instance) finish(ctx context.Context) error {
	handle, err := i.bound(i.project, i.workflow).Get(ctx, i.id)
	if errors.Is(err, workflow.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	status, err := handle.Status(ctx)
	if errors.Is(err, workflow.ErrNotFound) || err == nil && status.State.Finished() {
		return nil
	}
	if err != nil {
		return err
	}
	if status.State == protocol.StatePaused || status.State == protocol.StateWaitingForPause {
		if err := i.steer(ctx, "resume", func(ctx context.Context) error { return handle.Resume(ctx) }); err != nil {
			return err
		}
	}
	return i.send(ctx, handle, end, "finish", "finish")
}
