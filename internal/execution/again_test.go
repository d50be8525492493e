package execution

import (
	"context"
	"encoding/json"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// history is the log of the instance, folded.
func (r *rig) history() *engine.History {
	r.t.Helper()
	h := engine.NewHistory(r.stream, r.created, protocol.Create{})
	for from, more := uint64(1), true; more; {
		page, again, err := r.store.Page(r.t.Context(), r.stream, r.instance.LogSubject(), from, 100)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, m := range page {
			var a protocol.Append
			if err := json.Unmarshal(m.Data, &a); err != nil {
				r.t.Fatal(err)
			}
			if err := h.Apply(m.Sequence, &a); err != nil {
				r.t.Fatal(err)
			}
			from = m.Sequence + 1
		}
		more = again
	}
	return h
}

// append stores entries after the tail of h, as the holder of the instance, and folds them.
func (r *rig) append(h *engine.History, epoch int, entries ...protocol.Entry) {
	r.t.Helper()
	a := protocol.Append{
		V: protocol.Version, ID: r.nextID(), Incarnation: r.created, Holder: h.Holder, Runner: "r", Time: time.Now().UTC(),
		Entries: entries, Epoch: epoch,
	}
	body, err := json.Marshal(a)
	if err != nil {
		r.t.Fatal(err)
	}
	sequence, err := r.store.Append(r.t.Context(), r.stream, r.instance.LogSubject(), h.Tail, body)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := h.Apply(sequence, &a); err != nil {
		r.t.Fatal(err)
	}
}

// again runs code over what the log holds, as another runner does after the death of the first.
func (r *rig) again(settings Settings, code func(ctx context.Context) (json.RawMessage, error)) *Execution {
	r.t.Helper()
	h := r.history()
	if len(h.Runs) > 0 || h.Begun {
		r.append(h, h.Epoch, h.ClaimEntry(h.Holder))
	}
	return r.over(settings, h, code)
}
