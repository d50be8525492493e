package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// A condemned agent takes no turns. Whoever owns it takes away what is left of it, in any order, and its record last: so
// whatever is interrupted is done again from the start by the next owner. Each piece is told by the life or epoch that it
// belongs to, and not by whose turn it is: a host that was frozen in between cannot harm the next life.

// finish takes away all that is left of the agent. It returns nil if the host drains before that is done.
func (a *actor) finish(ctx context.Context) error {
	a.log.InfoContext(ctx, "taking away a destroyed agent")
	for {
		err := a.takeAway(ctx)
		if err == nil {
			a.finished = true
			return nil
		}
		if isEnd(err) {
			return err
		}
		if ctx.Err() != nil {
			return &endError{context.Cause(ctx)}
		}
		a.retry.again(a.host.times.retryFirst, a.host.times.retryMost)
		a.log.WarnContext(ctx, "cannot take away all of a destroyed agent, trying on",
			slog.Duration(logkey.Delay, a.retry.wait), slog.Any(logkey.Error, err))
		select {
		case <-time.After(a.retry.wait):
		case <-a.host.draining:
			return nil
		case <-ctx.Done():
		}
	}
}

// takeAway tries everything once.
func (a *actor) takeAway(ctx context.Context) error {
	for _, step := range []struct {
		signal string
		do     func(context.Context) error
	}{
		{testsignal.AgentOutboxEmpty, a.emptyOutbox},
		{testsignal.AgentSocketsClosed, a.closeSockets},
		{testsignal.AgentRowsGone, a.dropRows},
		{testsignal.AgentDeadGone, a.dropDead},
		{testsignal.AgentStatesGone, a.dropStates},
		{testsignal.AgentMailGone, a.dropMail},
		{testsignal.AgentRecordGone, a.dropRecord},
	} {
		if err := a.fit(ctx); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return err
		}
		testsignal.At(step.signal)
	}
	return nil
}

// emptyOutbox carries out what turns have asked of others. Nobody is left to be told what was refused.
func (a *actor) emptyOutbox(ctx context.Context) error {
	if err := a.carryOut(ctx); err != nil {
		return err
	}
	for _, err := range a.refused {
		a.log.WarnContext(ctx, "a destroyed agent had asked for what is refused", slog.Any(logkey.Error, err))
	}
	a.refused = nil
	if n := len(a.pending); n > 0 {
		return fmt.Errorf("%d things that its turns asked for cannot be carried out yet", n)
	}
	return nil
}

// subjects lists the subjects of a stream under a filter.
func (h *host) subjects(ctx context.Context, stream, filter string) (found []string, err error) {
	for total := 1; len(found) < total; {
		l, err := h.store.Subjects(ctx, stream, filter, len(found))
		if err != nil {
			return nil, err
		}
		if len(l.Subjects) == 0 {
			break
		}
		found, total = append(found, l.Subjects...), l.Total
	}
	return found, nil
}

// dropRows deletes the rows of its schedules: a scheduler sees that and takes back what is armed.
func (a *actor) dropRows(ctx context.Context) error {
	rows := bucketOf(protocol.SchedulesBucket(a.id.Project))
	subjects, err := a.host.subjects(ctx, rows.stream, rows.subject(protocol.ScheduleKeys(a.id.Class, a.id.Name)))
	if err != nil {
		return err
	}
	for _, subject := range subjects {
		if err := dropRow(ctx, a.host.store, a.host.name, subject, a.at.record.Life); err != nil {
			return err
		}
	}
	return nil
}

// anyLife is after every life of an agent.
const anyLife = math.MaxUint64

// dropRow deletes a row of a schedule if it belongs to a life, or an earlier one: who follows the rows must see that it went. What
// deletes it names the row, so that it cannot come late and delete one that was made anew.
func dropRow(ctx context.Context, store *journal.Store, project, subject string, life uint64) error {
	bucket := protocol.KVStream(protocol.SchedulesBucket(project))
	for {
		m, err := store.Last(ctx, bucket, subject)
		if errors.Is(err, journal.ErrNotFound) || err == nil && m.Header.Get(protocol.HeaderKVOperation) != "" {
			return nil
		}
		if err != nil {
			return err
		}
		if of, err := lifeOfRow(m.Data); err == nil && of > life {
			return nil
		}
		header := nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}
		if _, err := store.AppendWith(ctx, bucket, subject, m.Sequence, header, nil); !isConflict(err) {
			return err // otherwise the scheduler was faster, or a later life
		}
	}
}

func (a *actor) dropDead(ctx context.Context) error {
	dead := bucketOf(protocol.DeadBucket(a.id.Project))
	subjects, err := a.host.subjects(ctx, dead.stream, dead.subject(protocol.DeadKeys(a.id.Class, a.id.Name)))
	if err != nil {
		return err
	}
	for _, subject := range subjects {
		_, _, id, err := protocol.ParseDeadKey(subject[len(dead.subject("")):])
		if err != nil || protocol.OutgoingLife(id) > a.at.record.Life {
			continue
		}
		if err := removeRow(ctx, a.host.store, dead.stream, subject); err != nil {
			return err
		}
	}
	return nil
}

func (a *actor) dropStates(ctx context.Context) error {
	subjects, err := a.host.subjects(ctx, protocol.ObjectsStream(a.id.Project), a.id.StateSubjects())
	if err != nil {
		return err
	}
	for _, subject := range subjects {
		owner, epoch, err := a.id.ParseStateSubject(subject)
		if err != nil {
			return err
		}
		if epoch > a.at.record.Epoch {
			continue
		}
		if err := a.states.objects.DeleteInstance(ctx, owner); err != nil {
			return err
		}
	}
	return nil
}

// dropMail removes the mail of this life.
func (a *actor) dropMail(ctx context.Context) error {
	in := a.host.inbox
	for m, err := range in.all(ctx, a.id.MailSubject()) {
		if err != nil {
			return fmt.Errorf("read mail of agent %q: %w", a.id, err)
		}
		if !a.isOver(parseLetter(in.project, m)) {
			continue
		}
		if err := in.store.Delete(ctx, in.stream, m.Sequence); err != nil {
			return err
		}
	}
	return nil
}

// dropRecord is the last step. If another host has taken the agent meanwhile, its record stays.
func (a *actor) dropRecord(ctx context.Context) error {
	return a.host.records.remove(ctx, a.id, a.at.sequence)
}

const allPage = 64

// all reads the mail under a subject: from a replica, and what that does not have yet from the leader.
func (in inbox) all(ctx context.Context, subject string) iter.Seq2[journal.Message, error] {
	return func(yield func(journal.Message, error) bool) {
		next := uint64(1)
		for more := true; more; {
			messages, rest, err := in.store.Page(ctx, in.stream, subject, next, allPage)
			if err != nil {
				yield(journal.Message{}, err)
				return
			}
			for _, m := range messages {
				if next = m.Sequence + 1; !yield(m, nil) {
					return
				}
			}
			more = rest
		}
		for {
			m, err := in.store.NextFromLeader(ctx, in.stream, subject, next)
			if isNotFound(err) {
				return
			}
			if err != nil {
				yield(journal.Message{}, err)
				return
			}
			if next = m.Sequence + 1; !yield(*m, nil) {
				return
			}
		}
	}
}
