package runner

import (
	"context"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Standing tells from the stream's leader in which state an instance is, as a list would, and in which it will be when the
// controls are obeyed that are stored. It returns journal.ErrNotFound if the instance is gone.
func (r Reader) Standing(ctx context.Context, instance protocol.Instance, incarnation uint64) (now, then protocol.State, err error) {
	s, err := r.look(ctx, instance)
	if err != nil {
		return "", "", err
	}
	status, err := r.glance(instance, s)
	if err == nil && s.created != incarnation {
		err = journal.ErrNotFound
	}
	if err != nil {
		return "", "", err
	}
	newest, err := r.Store.Last(ctx, r.stream(), instance.ControlSubject())
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return status.State, status.State, nil
	case err != nil:
		return "", "", err
	case newest.Sequence <= status.Mark:
		return status.State, status.State, nil
	}
	then, err = r.afterControls(ctx, instance, s, protocol.Wake{Stream: r.stream(), Sequence: newest.Sequence})
	if then == "" {
		then = status.State
	}
	return status.State, then, err
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
