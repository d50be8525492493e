package runner

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// erase removes what is left of an instance that was deleted: everything before the entry that says so. That entry
// stays, until the log is cleaned, so that nobody who missed it can append to the log of an instance that gets the
// same id. The inputs go first, the log after them: whatever part of it is done, the log ends with that entry.
func (r *Runner) erase(ctx context.Context, instance protocol.Instance, incarnation, before uint64) error {
	if err := r.Store.DeleteEach(ctx, instance.Stream(), instance.InputsSubject(), before); err != nil {
		return err
	}
	if err := r.eraseCarried(ctx, instance, incarnation); err != nil {
		return err
	}
	if err := r.Store.DeleteEach(ctx, instance.Stream(), instance.DoneSubject(), before); err != nil {
		return err
	}
	if err := r.Store.Purge(ctx, instance.Stream(), instance.LogSubject(), before); err != nil { // nothing waits for what is in logs
		return err
	}
	return r.Store.DeleteEach(ctx, instance.Stream(), instance.ControlSubject(), before)
}

// eraseCarried removes the create of the instance if log cleaning has published it again after the delete.
func (r *Runner) eraseCarried(ctx context.Context, instance protocol.Instance, incarnation uint64) error {
	m, err := r.Store.Last(ctx, instance.Stream(), instance.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return nil
	}
	var c protocol.Create
	if err != nil || json.Unmarshal(m.Data, &c) != nil || c.Carried == 0 || c.Carried != incarnation {
		return err // else another instance has the id by now
	}
	return r.Store.DeleteEach(ctx, instance.Stream(), instance.CreateSubject(), m.Sequence+1)
}

// remains is what must still be erased of an instance, if h is the control that deleted it and whoever began that did
// not come to its end: everything before a sequence, 0 if there is nothing. The incarnation is 0 if another has its id.
func (s sight) remains(h *held) (incarnation, before uint64) {
	switch {
	case h.action != protocol.ActionDelete || s.tail == nil || len(s.tail.Entries) == 0:
		return 0, 0
	case s.created > h.Sequence: // the tail may be the entry that says so, still
		return 0, min(s.created, s.tailAt)
	case s.created == 0 && s.tail.Entries[len(s.tail.Entries)-1].Kind == protocol.EntryDeleted:
		return s.tail.Incarnation, s.tailAt
	}
	return 0, 0
}

func (r *Runner) eraseAgain(ctx context.Context, h *held, incarnation, before uint64) {
	if err := r.erase(ctx, h.instance, incarnation, before); err != nil {
		r.failed(ctx, h, err)
		return
	}
	r.ack(h)
}
