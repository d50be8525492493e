package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// floors tell a janitor what is settled.
type floors struct{ store *journal.Store }

// AckFloor asks the consumer's leader.
func (f floors) AckFloor(ctx context.Context, stream, consumer string) (uint64, error) {
	p, err := f.store.Progress(ctx, stream, consumer)
	return p.Floor, err
}

// scanObjects looks for large values that nobody needs: of instances, those that janitors had more than two occasions to
// take away, by their rules; of agents, states that later owners should have taken away.
func (d *Doctor) scanObjects(ctx context.Context) error {
	var shards []*janitor.Cleaner
	for shard := range d.Project.Shards {
		shards = append(shards, &janitor.Cleaner{
			Store: d.Store, Floors: floors{d.Store}, Project: d.Project.Name, Shard: shard, Objects: d.objects,
			Log: slog.New(slog.DiscardHandler), Settings: janitor.Settings{Age: d.ObjectAge},
		})
	}
	var sweeper *janitor.Sweeper
	var err error
	if len(shards) > 0 {
		if sweeper, err = janitor.NewSweeper(ctx, shards); err != nil || sweeper == nil {
			return err
		}
	}
	for offset, total := 0, 1; offset < total; {
		l, err := d.Store.Subjects(ctx, protocol.ObjectsStream(d.Project.Name), protocol.ObjectMetaSubjects(d.Project.Name), offset)
		if err != nil || len(l.Subjects) == 0 {
			return err
		}
		for _, subject := range l.Subjects {
			if err := d.glanceAtObject(ctx, sweeper, protocol.ObjectNameOf(d.Project.Name, subject)); err != nil {
				return err
			}
		}
		offset, total = offset+len(l.Subjects), l.Total
	}
	return nil
}

func (d *Doctor) glanceAtObject(ctx context.Context, sweeper *janitor.Sweeper, name string) error {
	d.pace.advance(1)
	look := func(ctx context.Context) ([]complaint, error) { return d.examineState(ctx, name) }
	if _, _, err := protocol.ParseStateName(d.Project.Name, name); err != nil {
		if sweeper == nil {
			return nil
		}
		look = func(ctx context.Context) ([]complaint, error) { return d.examineObject(ctx, sweeper, name) }
	}
	found, err := paced(ctx, d, look)
	if err != nil || len(found) == 0 {
		return err
	}
	return d.suspect(ctx, look)
}

func (d *Doctor) examineObject(ctx context.Context, sweeper *janitor.Sweeper, name string) ([]complaint, error) {
	known, err := sweeper.Unneeded(ctx, name)
	if err != nil || known == nil {
		return nil, err
	}
	return d.unneeded(known, "nothing refers to the object, and no janitor has taken it away: is a scheduler running?"), nil
}

func (d *Doctor) unneeded(known *objects.Known, problem string) []complaint {
	return []complaint{{
		Finding:  Finding{Kind: ObjectWithoutOwner, Subject: known.Name, Problem: problem, Remedy: "take the object away"},
		evidence: fmt.Sprint(known.Put),
		mend: func(ctx context.Context) (string, error) {
			return "took the object away", d.objects.Forget(ctx, d.Project.Name, known)
		},
	}}
}

// examineState looks at a state of an agent. One that was put under an epoch that is over, and that the record does not refer
// to, never will be: no two puts share an object.
func (d *Doctor) examineState(ctx context.Context, name string) ([]complaint, error) {
	known, err := d.objects.Known(ctx, d.Project.Name, name)
	if err != nil || known == nil || time.Since(known.Put) < d.ObjectAge {
		return nil, err
	}
	a, epoch, err := protocol.ParseStateName(d.Project.Name, name)
	if err != nil {
		return nil, nil
	}
	r, _, err := d.record(ctx, a.Class, a.Name)
	if err != nil || r != nil && (r.Epoch <= epoch || r.StateObject != nil && r.StateObject.Name == name) {
		return nil, err
	}
	return d.unneeded(known, fmt.Sprintf("it is a state of agent %s that its record does not refer to, and no owner has taken it away", a)), nil
}
