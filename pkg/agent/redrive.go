package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// A dead letter that is to be applied after all stays where it is until a turn has applied it: the commit of that turn
// asks for its removal. So a letter that is redriven twice is applied once, and no marks are needed: the mail that asks
// for it names the letter, and whoever finds no letter has nothing to do.

// redriven is the id of the dead letter that a letter is the second chance of, if it is one.
func redriven(project, from string, mail protocol.Mail) string {
	id, ok := strings.CutPrefix(mail.Source, protocol.RedriveSource(""))
	if !ok || from != project {
		return ""
	}
	return id
}

// isRedriven reports whether a turn has applied a dead letter that is not removed yet.
func (a *actor) isRedriven(id string) bool {
	return slices.ContainsFunc(a.pending, func(o protocol.Outgoing) bool {
		return o.Kind == protocol.OutgoingDropDead && o.DropDead == id
	})
}

// open makes a letter whole that is about to be applied. gone says why there is nothing to apply any more.
func (a *actor) open(ctx context.Context, l *letter) (gone string, err error) {
	switch {
	case l.redrive != "":
		return a.openRedriven(ctx, l)
	case !l.shed:
		return "", nil
	}
	mail, err := a.mail.fetch(ctx, a.host.inbox, a.id, l)
	if err != nil {
		return "", err
	}
	if mail == nil {
		return "removed from the inbox", nil
	}
	a.mail.fill(l, *mail)
	return "", nil
}

// openRedriven puts what the dead letter says in the place of the mail that names it.
func (a *actor) openRedriven(ctx context.Context, l *letter) (gone string, err error) {
	m, err := a.host.store.Last(ctx, protocol.KVStream(protocol.DeadBucket(a.id.Project)), a.deadRow(l.redrive))
	if errors.Is(err, journal.ErrNotFound) {
		return "of a dead letter that is no more", nil
	}
	if err != nil {
		return "", &endError{fmt.Errorf("read dead letter %q: %w", l.redrive, err)}
	}
	var dead protocol.DeadLetter
	if err := json.Unmarshal(m.Data, &dead); err != nil {
		return "of a dead letter that cannot be read: " + err.Error(), nil
	}
	if dead.Mail.Life != 0 && dead.Mail.Life != a.at.record.Life {
		return "of another life", nil
	}
	l.from = dead.From
	a.mail.fill(l, dead.Mail)
	return "", nil
}

func (a *actor) deadRow(id string) string {
	return bucketOf(protocol.DeadBucket(a.id.Project)).subject(protocol.DeadKey(a.id.Class, a.id.Name, id))
}

// storeDeadRow projects a dead letter. One that is there is left alone: it never changes.
func (a *actor) storeDeadRow(ctx context.Context, o protocol.Outgoing) error {
	body, err := json.Marshal(o.Dead)
	if err != nil {
		return err
	}
	bucket := bucketOf(protocol.DeadBucket(a.id.Project))
	_, err = a.host.store.Append(ctx, bucket.stream, a.deadRow(o.ID), 0, body)
	if isConflict(err) {
		return nil
	}
	return err
}

// dropDeadRow removes a dead letter, which leaves nothing behind.
func (h *host) dropDeadRow(ctx context.Context, subject string) error {
	return removeRow(ctx, h.store, protocol.KVStream(protocol.DeadBucket(h.name)), subject)
}

// removeRow removes what a subject holds at this moment.
func removeRow(ctx context.Context, store *journal.Store, stream, subject string) error {
	m, err := store.Last(ctx, stream, subject)
	if errors.Is(err, journal.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return store.Purge(ctx, stream, subject, m.Sequence+1)
}
