package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Export reads all that the stream's leader holds of an instance, with the values in the object store that a replay needs. It
// returns journal.ErrNotFound if there is none.
func (r Reader) Export(ctx context.Context, workflow, id string) (protocol.History, error) {
	instance := protocol.Instance{Project: r.Project, Shard: protocol.Shard(id, r.Shards), Workflow: workflow, ID: id}
	s, err := r.look(ctx, instance)
	if err != nil {
		return protocol.History{}, err
	}
	if s.created == 0 {
		return protocol.History{}, journal.ErrNotFound
	}
	s.create.Workflow, s.create.ID = workflow, id // whatever the body says
	h := protocol.History{V: protocol.Version, Project: r.Project, Shard: instance.Shard, Create: s.create, Sequence: s.created, Log: []protocol.LoggedAppend{}}
	if s.tailAt > 0 {
		err = r.read(ctx, instance.Stream(), instance.LogSubject(), s.created, s.tailAt, func(m *journal.Message) error {
			l := protocol.LoggedAppend{Sequence: m.Sequence}
			if err := json.Unmarshal(m.Data, &l.Append); err != nil {
				return fmt.Errorf("log of %s: entry %d: %w", instance, m.Sequence, err)
			}
			if l.Append.Incarnation == s.created {
				h.Log = append(h.Log, l)
			}
			return nil
		})
	}
	if err == nil {
		err = r.collect(ctx, &h)
	}
	return h, err
}

// collect adds the values to a history that a replay of it needs.
func (r Reader) collect(ctx context.Context, h *protocol.History) error {
	folded, err := engine.Exported(*h, func(s *protocol.Snapshot) error { return r.fetchSnapshot(ctx, s) })
	if err != nil {
		return err
	}
	if gone(folded.Status(), time.Now()) {
		return journal.ErrNotFound
	}
	return folded.Inline(func(o protocol.Object) (json.RawMessage, error) {
		value, err := r.objects().Get(ctx, r.Project, o)
		if err != nil {
			return nil, err
		}
		if h.Objects == nil {
			h.Objects = map[string]json.RawMessage{}
		}
		h.Objects[o.Name] = value
		return value, nil
	})
}
