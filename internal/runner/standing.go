package runner

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Standing is in which state an instance is, as a list would tell it, and in which it will be when the controls are obeyed
// that are stored, up to the one at Control; 0 if there is none.
type Standing struct {
	Now, Then protocol.State
	Control   uint64
}

// Standing reads from the stream's leader. It returns journal.ErrNotFound if the instance is gone.
func (r Reader) Standing(ctx context.Context, instance protocol.Instance, incarnation uint64) (Standing, error) {
	s, err := r.look(ctx, instance)
	if err != nil {
		return Standing{}, err
	}
	status, err := r.glance(instance, s)
	if err == nil && s.created != incarnation {
		err = journal.ErrNotFound
	}
	if err != nil {
		return Standing{}, err
	}
	newest, err := r.Store.Last(ctx, instance.Stream(), instance.ControlSubject())
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return Standing{Now: status.State, Then: status.State}, nil
	case err != nil:
		return Standing{}, err
	case newest.Sequence <= status.Mark:
		return Standing{Now: status.State, Then: status.State, Control: newest.Sequence}, nil
	}
	then, err := r.afterControls(ctx, instance, s, protocol.Wake{Stream: instance.Stream(), Sequence: newest.Sequence})
	return Standing{Now: status.State, Then: cmp.Or(then, status.State), Control: newest.Sequence}, err
}

// afterControls is the state that the controls up to wake will make; "" if they change nothing, nor anything else did.
func (r Reader) afterControls(ctx context.Context, instance protocol.Instance, s sight, wake protocol.Wake) (protocol.State, error) {
	history, err := r.load(ctx, instance, s)
	if err != nil {
		return "", err
	}
	controls, err := r.controls(ctx, instance, history.Incarnation, wake.Sequence)
	if err != nil {
		return "", err
	}
	entries, epoch, _ := history.Obey(wake, controls, time.Now())
	switch {
	case len(entries) > 0:
		err = history.Apply(history.Tail+1, &protocol.Append{
			V: protocol.Version, Incarnation: history.Incarnation, Holder: wake, Mark: wake.Sequence, Epoch: epoch, Entries: entries,
		})
	case history.Tail == s.tailAt:
		return "", nil
	}
	state := history.State()
	if state == protocol.StateRollingBack {
		state = protocol.StateRunning // as it is listed
	}
	return state, err
}
