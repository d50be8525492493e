package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// Options are what a Check works with. NC and Notes are needed.
type Options struct {
	// NC must have been made with nats.ReconnectBufSize(-1).
	NC *nats.Conn
	// Notes is the folder of the notes.
	Notes string
	// Projects that are looked at. Default: those of the lab.
	Projects []string
	// Patience is how long what is runnable may take to finish. Default 5 minutes.
	Patience time.Duration
	// Clocks are the times at which faults put clocks of machines off. Default none.
	Clocks []Clock
	// DoctorPatience is how long what looks wrong to the doctor must stand as it is. Default 20 s.
	DoctorPatience time.Duration
	Log            *slog.Logger
}

// Check waits until everything runnable has finished, reads everything, and judges it.
func Check(ctx context.Context, o Options) (Report, error) {
	_, report, err := check(ctx, o)
	return report, err
}

func check(ctx context.Context, o Options) (_ *Recorded, report Report, err error) {
	if o.Projects == nil {
		o.Projects = work.Projects()
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	js, err := jetstream.New(o.NC)
	if err != nil {
		return nil, report, err
	}
	store, err := journal.Open(o.NC)
	if err != nil {
		return nil, report, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	c := checker{Options: o, js: js, reader: reader{store: store, objects: objects.New(store)}, shards: map[string]int{}}
	for _, p := range o.Projects {
		row, err := streams.LookUp(ctx, js, p)
		if err != nil {
			return nil, report, fmt.Errorf("registry: %w", err)
		}
		c.shards[p] = row.Shards
	}
	rec, report, err := c.settle(ctx)
	if err != nil {
		return nil, report, err
	}
	return rec, report, errors.Join(c.registry(ctx, &report), c.doctor(ctx, &report))
}

type checker struct {
	Options
	reader
	js     jetstream.JetStream
	shards map[string]int
}

// settle waits until no wake is owed to anybody and all that may still come has come, or the patience is over, and returns what
// there is, judged.
func (c checker) settle(ctx context.Context) (*Recorded, Report, error) {
	deadline := time.Now().Add(c.Patience)
	for {
		late := time.Now().After(deadline)
		if c.quiet(ctx) || late {
			began := time.Now()
			rec, err := c.read(ctx)
			if err != nil {
				return nil, Report{}, err
			}
			report := Judge(rec)
			c.Log.InfoContext(ctx, "judged", logkey.Duration, time.Since(began), logkey.Count, len(report.Violations))
			if late || !slices.ContainsFunc(report.Violations, func(v Violation) bool { return mayCome[v.Rule] }) {
				return rec, report, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, Report{}, context.Cause(ctx)
		case <-time.After(2 * time.Second):
		}
	}
}

// mayCome are the rules that may be kept later: something has not happened yet.
var mayCome = map[Rule]bool{Finished: true, Announced: true, Applied: true, Carried: true, Delivered: true, Moments: true, Obeyed: true, Left: true}

// read reads everything.
func (c checker) read(ctx context.Context) (*Recorded, error) {
	rec, err := c.all(ctx, c.Projects, c.shards)
	if err != nil {
		return nil, err
	}
	rec.Clocks = c.Clocks
	if rec.Notes, err = notes.Read(c.Notes); err != nil {
		return nil, err
	}
	return rec, errors.Join(c.texts(ctx, rec), c.states(ctx, rec))
}

// quiet reports whether all wakes, mail and firings are acked that are not still to come.
func (c checker) quiet(ctx context.Context) bool {
	for _, p := range c.Projects {
		all := []consumer{
			{protocol.StreamClock, protocol.ConsumerClock}, {protocol.KVStream(protocol.SchedulesBucket(p)), protocol.ConsumerScheduler},
			{protocol.TimersStream(p), protocol.ConsumerDue}, {protocol.InboxStream(p), protocol.ConsumerDoorbell},
		}
		for shard := range max(1, c.shards[p]) {
			stream := protocol.WorkflowsStream(p, shard)
			all = append(all, consumer{stream, protocol.ConsumerWakes(shard)}, consumer{stream, protocol.ConsumerControls(shard)})
		}
		if !slices.ContainsFunc(all, func(of consumer) bool { return c.busy(ctx, of) }) {
			continue
		}
		return false
	}
	return true
}

type consumer struct{ stream, name string }

// busy reports whether a consumer has something that is not acked, or nobody can tell.
func (c checker) busy(ctx context.Context, of consumer) bool {
	found, err := c.js.Consumer(ctx, of.stream, of.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false
	}
	return err != nil || found.CachedInfo().NumAckPending > 0 || found.CachedInfo().NumPending > 0
}

// registry: both projects are there with what they serve, and as many shards as they have streams.
func (c checker) registry(ctx context.Context, report *Report) error {
	for _, p := range c.Projects {
		row, err := streams.LookUp(ctx, c.js, p)
		if err != nil {
			return fmt.Errorf("registry: %w", err)
		}
		n, err := c.streams(ctx, p)
		if err != nil {
			return fmt.Errorf("streams of %s: %w", p, err)
		}
		if row.Shards != n {
			report.Violations = append(report.Violations, Violation{Rule: Registered, Where: p, What: fmt.Sprintf("%d shards are registered, there are streams of %d", row.Shards, n)})
		}
		for _, name := range []string{work.Any, work.Few, work.Tick} {
			if _, ok := row.Workflows[name]; !ok {
				report.Violations = append(report.Violations, Violation{Rule: Registered, Where: p, What: name + " is not registered"})
			}
		}
		if _, ok := row.Agents[work.ClassLedger]; !ok && report.Counts["agents"] > 0 {
			report.Violations = append(report.Violations, Violation{Rule: Registered, Where: p, What: work.ClassLedger + " is not registered"})
		}
	}
	return nil
}

// streams counts the streams of a project's instances.
func (c checker) streams(ctx context.Context, project string) (n int, err error) {
	for n < protocol.MaxShards && err == nil {
		if _, err = c.js.Stream(ctx, protocol.WorkflowsStream(project, n)); err == nil {
			n++
		}
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = nil
	}
	return n, err
}

// doctor examines all projects.
func (c checker) doctor(ctx context.Context, report *Report) error {
	for _, p := range c.Projects {
		row, err := streams.LookUp(ctx, c.js, p)
		if err != nil {
			return fmt.Errorf("doctor: %w", err)
		}
		found, err := doctor.New(doctor.Options{
			Store: c.store, Project: *row, Patience: c.DoctorPatience,
			Found: func(f doctor.Finding) error {
				if f.Kind == doctor.TimerWithoutWait { // a runner that died did not take it back: it fires in vain, which harms nobody
					report.Counts["doctor: "+string(f.Kind)]++
					return nil
				}
				report.Violations = append(report.Violations, Violation{Rule: Healthy, Where: p + " " + f.Subject, What: fmt.Sprintf("%s: %s", f.Kind, f.Problem)})
				return nil
			},
		}).Examine(ctx)
		if err != nil {
			return fmt.Errorf("doctor: %w", err)
		}
		report.Counts["doctor: instances"] += found.Instances
		report.Counts["doctor: undecided"] += found.Undecided
	}
	return nil
}
