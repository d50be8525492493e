package runner

import (
	"context"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Debt is what was sent to an instance, is not settled, and would change it: whoever has the wake of that is to see to it.
type Debt struct {
	// Tail is the sequence of the newest message of its log that was read.
	Tail uint64
	// Event is set if the instance is parked, and one of its waits would take an event that is there.
	Event bool
	// Control is the sequence of the newest control that would change something; 0 if none would.
	Control uint64
}

// everything is older than this place in a stream.
const everything = 1 << 60

// Debt reads the whole log of an instance and what was sent to it, as the leader has it.
func (r Reader) Debt(ctx context.Context, instance protocol.Instance) (Debt, error) {
	s, err := r.look(ctx, instance)
	if err != nil || s.created == 0 {
		return Debt{}, err
	}
	history, err := r.load(ctx, instance, s)
	if err != nil {
		return Debt{}, err
	}
	d := Debt{Tail: history.Tail}
	_, entries, err := r.pending(ctx, instance, history)
	if err != nil {
		return Debt{}, err
	}
	if len(entries) > 0 {
		d.Control = entries[len(entries)-1].Input
	}
	if history.Phase != engine.Parked || !history.WaitsForEvents() {
		return d, nil
	}
	inputs, err := r.inputs(ctx, addressed(instance, history), 0)
	if err != nil {
		return Debt{}, err
	}
	d.Event = engine.NewMachine(history).WouldTake(everything, history.Waits, inputs)
	return d, nil
}
