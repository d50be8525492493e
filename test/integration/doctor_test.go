package integration

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/streams"
)

// examine has a doctor look at the project, and holds what it finds against it: nothing is to be found where all that works
// is only interrupted, but timers. Those are taken back without waiting for it, so a runner that is killed leaves some.
func (w *world) examine(ctx context.Context, patience time.Duration, repair bool) (doctor.Report, error) {
	row, err := streams.LookUp(ctx, w.js, w.name)
	if err != nil {
		return doctor.Report{}, err
	}
	return doctor.New(doctor.Options{
		Store: w.store, Project: *row, Patience: patience, Repair: repair,
		Found: func(f doctor.Finding) error {
			if f.Kind != doctor.TimerWithoutWait {
				w.t.Errorf("the doctor finds %v", f)
			}
			return nil
		},
	}).Examine(ctx)
}

// underDoctors has doctors look at the project, one after the other, until the returned function is called. Then all has
// ended, and nothing may be undecided, or left when it is repaired.
func (w *world) underDoctors() (last func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	examined, undecided := 0, 0
	all.Go(func() {
		for ctx.Err() == nil {
			r, err := w.examine(ctx, 2*ackWait, false)
			if err != nil && ctx.Err() == nil {
				w.t.Errorf("examine: %v", err)
				return
			}
			if !errors.Is(err, context.Canceled) {
				examined, undecided = examined+1, undecided+r.Undecided
			}
		}
	})
	return func() {
		w.t.Helper()
		cancel()
		all.Wait()
		r, err := w.examine(w.t.Context(), 2*ackWait, true)
		if err != nil || r.Left() > 0 || r.Undecided > 0 || r.Unreadable > 0 {
			w.t.Errorf("examine what has ended: %+v, %v", r, err)
		}
		w.t.Logf("%d doctors, %d times it was not to be told whether there is a wake, %d timers were left", examined, undecided, r.Findings)
	}
}
