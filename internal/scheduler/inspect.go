package scheduler

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
)

// Inspector finds out, for who is no scheduler, whether the clock holds of a schedule what it should.
type Inspector struct{ scheduler *Scheduler }

// NewInspector makes an Inspector.
func NewInspector(store *journal.Store) *Inspector {
	s := New(Options{})
	s.store = store
	return &Inspector{scheduler: s}
}

// Discrepancy is between a row of a schedule and the clock.
type Discrepancy struct {
	// Missing is set if a moment is missing on the clock, or is another; else one stands there that no row asks for.
	Missing bool
	// Revision is that of the row; 0 if there is none.
	Revision uint64
	// Evidence is what it rests on: if that changes, somebody works at it.
	Evidence string
}

// Look compares the row with a key and the clock, as a scheduler does that gets the row; nil if they agree. A row that can
// never fire is that of nobody.
func (i *Inspector) Look(ctx context.Context, project, rowKey string) (*Discrepancy, error) {
	k, err := parseKey(project, rowKey)
	if err != nil {
		return nil, err
	}
	v, tail, err := i.scheduler.look(ctx, k, true)
	if _, bad := errors.AsType[*RowError](err); bad || errors.Is(err, errNewerRow) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	do, _ := decide(v)
	if do == leave || do == await {
		return nil, nil
	}
	d := &Discrepancy{Missing: v.row != nil}
	if v.row != nil {
		d.Revision = v.row.revision
	}
	d.Evidence = fmt.Sprint(do, d.Revision, tail)
	return d, nil
}

// Settle brings the clock in line with the row, by compare-and-append.
func (i *Inspector) Settle(ctx context.Context, project, rowKey string) error {
	k, err := parseKey(project, rowKey)
	if err != nil {
		return err
	}
	err = i.scheduler.settle(ctx, k, firing{})
	if _, bad := errors.AsType[*RowError](err); bad || errors.Is(err, errFires) {
		return nil
	}
	return err
}
