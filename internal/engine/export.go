package engine

import (
	"encoding/json"
	"fmt"

	"github.com/skein-run/skein/pkg/protocol"
)

// Exported folds an exported history. Fetch is for the newest snapshot if its history is in an object: it is put in place in
// e, too.
func Exported(e protocol.History, fetch func(*protocol.Snapshot) error) (*History, error) {
	if e.V > protocol.Version {
		return nil, fmt.Errorf("history: version %d: %w", e.V, ErrNewer)
	}
	f := Fold{History: NewHistory(protocol.WorkflowsStream(e.Project, e.Shard), e.Sequence, e.Create)}
	for i := range e.Log {
		if err := f.Add(e.Log[i].Sequence, &e.Log[i].Append); err != nil {
			return nil, err
		}
	}
	return f.History, f.End(fetch)
}

// Inline puts the values in place that the history only refers to. What get returns is not changed.
func (h *History) Inline(get func(protocol.Object) (json.RawMessage, error)) error {
	in := func(raw *json.RawMessage, object **protocol.Object) (err error) {
		if *object != nil {
			*raw, err = get(**object)
			*object = nil
		}
		return err
	}
	if err := in(&h.Create.Params, &h.Create.ParamsObject); err != nil {
		return fmt.Errorf("params: %w", err)
	}
	if err := in(&h.Output, &h.OutputObject); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	for _, k := range h.Order {
		s := h.Steps[k]
		if err := in(&s.Result, &s.Object); err != nil {
			return fmt.Errorf("%v: %w", k, err)
		}
		if s.Received != nil {
			s.Received.Payload = s.Result
		}
		done := s.Answer()
		if done == nil || done.OutputObject == nil {
			continue
		}
		err := in(&done.Output, &done.OutputObject)
		if err == nil {
			s.Result, err = json.Marshal(done)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", k, err)
		}
	}
	return nil
}
