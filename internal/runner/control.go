package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// controls reads the controls sent to an instance from a sequence on: at least up to upTo, or with upTo 0 as many as
// the leader has.
func (r Reader) controls(ctx context.Context, instance protocol.Instance, from, upTo uint64) ([]engine.Control, error) {
	var all []engine.Control
	err := r.read(ctx, instance.Stream(), instance.ControlSubject(), from, upTo, func(m *journal.Message) error {
		c, err := readControl(m.Sequence, m.Time, m.Data)
		switch {
		case err == nil:
			all = append(all, c)
		case errors.Is(err, engine.ErrNewer): // what comes after it must not overtake it
			return fmt.Errorf("control %d of %s: %w", m.Sequence, instance, err)
		}
		return nil
	})
	return all, err
}

// readControl reads what was sent to steer an instance. What gives an error is no control for this runner, and must not
// hold up those that are.
func readControl(sequence uint64, stored time.Time, body []byte) (engine.Control, error) {
	c := engine.Control{Sequence: sequence, Stored: stored}
	err := json.Unmarshal(body, &c.Control)
	switch {
	case c.V > protocol.Version:
		return engine.Control{}, engine.ErrNewer
	case err != nil:
		return engine.Control{}, err
	case len(c.Input) > maxInputID:
		return engine.Control{}, fmt.Errorf("the id has %d bytes, at most %d are allowed", len(c.Input), maxInputID)
	}
	if c.Input == "" { // sent by hand: each is one of its own
		c.Input = "#" + strconv.FormatUint(sequence, 10)
	}
	return c, nil
}

// carried reports whether a create was published again by log cleaning. Most are not, and are not decoded for this.
func carried(body []byte) bool {
	if !bytes.Contains(body, []byte(`"carried"`)) {
		return false
	}
	var c protocol.Create
	return json.Unmarshal(body, &c) == nil && c.Carried != 0
}

// obedience is what controls make of an instance: what to append to its log.
type obedience struct {
	entries []protocol.Entry
	epoch   int
	// compact asks for a snapshot, and for nothing else.
	compact bool
}

// weigh finds out what the controls up to wake change.
func (r *Runner) weigh(ctx context.Context, instance protocol.Instance, history *engine.History, wake protocol.Wake) (obedience, error) {
	controls, err := r.controls(ctx, instance, history.Incarnation, wake.Sequence)
	if err != nil {
		return obedience{}, err
	}
	var o obedience
	o.entries, o.epoch, o.compact = history.Obey(wake, controls, r.Now().UTC())
	return o, nil
}

// vain reports whether the controls change nothing.
func (o obedience) vain() bool { return len(o.entries) == 0 && !o.compact }

// patient reports whether running bodies may finish before the controls are obeyed.
func (o obedience) patient() bool {
	for _, e := range o.entries {
		if e.Kind != protocol.EntryPaused && e.Kind != protocol.EntryResumed {
			return false
		}
	}
	return true
}

// pending weighs the controls that were sent to an instance so far. Newest is the last of them, 0 if there is none; they
// change nothing if there are no entries.
func (r Reader) pending(ctx context.Context, instance protocol.Instance, history *engine.History) (newest uint64, entries []protocol.Entry, err error) {
	controls, err := r.controls(ctx, instance, history.Incarnation, 0)
	if err != nil || len(controls) == 0 {
		return 0, nil, err
	}
	newest = controls[len(controls)-1].Sequence
	entries, _, _ = history.Obey(protocol.Wake{Stream: instance.Stream(), Sequence: newest}, controls, time.Time{})
	return newest, entries, nil
}

// foresee adds to the status of an instance what controls will make of it that nobody has obeyed: one that executes is to
// pause when its bodies have returned. Those that change nothing are settled.
func (r Reader) foresee(ctx context.Context, instance protocol.Instance, history *engine.History, status *protocol.Status) error {
	executes := status.State == protocol.StateRunning || status.State == protocol.StateRollingBack
	if !executes && !status.State.Finished() {
		return nil
	}
	newest, entries, err := r.pending(ctx, instance, history)
	switch {
	case err != nil:
		return err
	case len(entries) == 0:
		status.Mark = max(status.Mark, newest)
	case executes && entries[len(entries)-1].Kind == protocol.EntryPaused:
		status.State = protocol.StateWaitingForPause
	}
	return nil
}
