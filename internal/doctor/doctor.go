package doctor

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/protocol"
)

// Options are what a Doctor works with. Store, Project and Found are needed.
type Options struct {
	Store *journal.Store
	// Project is the row of the project in the registry.
	Project protocol.Project
	// Repair mends what it finds.
	Repair bool
	// Patience is how long what looks wrong must stand as it is. Default 20 s: a wake whose runner died comes again after
	// 5 s, and what could not be done is tried again after at most 5 s more.
	Patience time.Duration
	// Rate is how many messages a second it reads, at most. Default 5,000. It also rests after each read for as long as
	// that took: reads of a stream hold up who writes to it.
	Rate int
	// ObjectAge is how old large values are at least that nobody needs. Default 50 h: janitors look for them once a day, and
	// leave those that are younger than a day.
	ObjectAge time.Duration
	// Found is called with each finding, after it was repaired.
	Found func(Finding) error
	// Progress is called now and then with what it is at, and how much of that is done. Nil: nobody is told.
	Progress func(what string, done int)
}

// Report says what an examination came to.
type Report struct {
	// Instances is how many were looked at.
	Instances int `json:"instances"`
	// Findings is how many there were, Repaired how many of them were mended.
	Findings int `json:"findings"`
	Repaired int `json:"repaired"`
	// Undecided are instances of which nobody can tell from outside whether they have a wake: as long as an older one is
	// held, as by a step that takes long. Unreadable is how much could not be looked
	// at, as a newer version wrote it, or it makes no sense.
	Undecided  int `json:"undecided"`
	Unreadable int `json:"unreadable"`
}

// Left is how many findings are not mended.
func (r Report) Left() int { return r.Findings - r.Repaired }

// Doctor examines a project. Examine runs it once.
type Doctor struct {
	Options
	reader    runner.Reader
	objects   *objects.Store
	inspector *scheduler.Inspector
	pace      pace
	report    Report
	doubts    []doubt
	suspects  []examination
	marked    marks
}

// New makes a Doctor.
func New(o Options) *Doctor {
	o.Patience, o.Rate = cmp.Or(o.Patience, 20*time.Second), cmp.Or(o.Rate, 5000)
	o.ObjectAge = cmp.Or(o.ObjectAge, 50*time.Hour)
	values := objects.New(o.Store)
	return &Doctor{
		Options: o, objects: values, pace: pace{store: o.Store, rate: o.Rate}, inspector: scheduler.NewInspector(o.Store), marked: marks{},
		reader: runner.Reader{Store: o.Store, Project: o.Project.Name, Shards: o.Project.Shards, Objects: values},
	}
}

// part is one of the things that are examined.
type part struct {
	name string
	// scan goes through all of them, and suspects what looks wrong.
	scan func(context.Context) error
}

// Examine looks at everything once. A stream that the project does not have holds nothing.
func (d *Doctor) Examine(ctx context.Context) (Report, error) {
	return d.examineParts(ctx, []part{
		{"instances", d.scanInstances},
		{"timers", d.scanTimers},
		{"slots", d.scanSlots},
		{"objects", d.scanObjects},
		{"agents", d.scanAgents},
		{"connections", d.scanConnections},
		{"mail", d.scanInbox},
		{"schedules", d.scanSchedules},
	})
}

// ExamineInstances looks at the instances of the project once, and at what they need to go on.
func (d *Doctor) ExamineInstances(ctx context.Context) (Report, error) {
	return d.examineParts(ctx, []part{{"instances", d.scanInstances}})
}

func (d *Doctor) examineParts(ctx context.Context, parts []part) (Report, error) {
	for _, p := range parts {
		d.pace.begin(p.name, d.Progress)
		err := p.scan(ctx)
		if err == nil {
			err = d.confirm(ctx)
		}
		if err != nil && !errors.Is(err, journal.ErrNoStream) {
			return d.report, err
		}
	}
	return d.report, d.settleDoubts(ctx)
}

// mendWithin bounds one repair: who may not write what mends something gets no answer.
const mendWithin = time.Minute

// tell counts a finding, repairs it if that is wanted, and passes it on.
func (d *Doctor) tell(ctx context.Context, c complaint) error {
	d.report.Findings++
	if d.Repair && c.mend != nil {
		mending, cancel := context.WithTimeout(ctx, mendWithin)
		done, err := c.mend(mending)
		cancel()
		switch {
		case err == nil:
			c.Repaired = done
			d.report.Repaired++
		case ctx.Err() != nil:
			return err
		default:
			c.Failed = err.Error()
		}
	}
	return d.Found(c.Finding)
}
