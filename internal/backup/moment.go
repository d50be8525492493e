package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/quiesce"
	"github.com/skein-run/skein/pkg/protocol"
)

// The moment (4 in cut.go). Whoever must find one at which nothing is written has to look for a short time and often, so all
// that can be read before is, and what is of several streams is asked for at once: from the reading of the records to the question
// whether they still are the newest there are some five questions and answers, however many streams there are. If none is found in
// a quarter of a second, hosts and runners are asked to hold up what they write, and in between they write on for as long as that took.

const (
	// momentLimit is for how long a moment is looked for.
	momentLimit = 2 * time.Minute
	// firstLook is for how long it is looked for at first. Each time it is twice as long, up to protocol.MaxQuiesce.
	firstLook = 250 * time.Millisecond
	// lookingForMoment is told, with how many were none.
	lookingForMoment = "moments at which agents wrote"
)

// moment is where the streams ended when no record was written.
type moment struct {
	// records, mail, logs and posts are sequences, by stream.
	records, mail, logs, posts map[string]uint64
	// letters are the dead letters that there were, by subject.
	letters map[string]bool
}

// readTogether finds the moment, and reads what is of it.
func (c *copier) readTogether(ctx context.Context) error {
	tries := 0
	for began, look := time.Now(), firstLook; time.Since(began) < momentLimit; look = min(2*look, protocol.MaxQuiesce) {
		if err := c.approach(ctx); err != nil {
			return err
		}
		if tries > 0 { // agents that have little to do are not held up
			if err := quiesce.Ask(ctx, c.Store.Conn(), c.copied, look); err != nil && ctx.Err() != nil {
				return err
			} // who cannot ask, as while it connects again, looks all the same
		}
		whole, err := c.lookFor(ctx, look, &tries)
		if err != nil {
			return err
		}
		if whole {
			return c.reach(ctx, protocol.KindTimers, protocol.KindWorkflows)
		}
		if err := ctxtime.Sleep(ctx, look); err != nil {
			return err
		}
	}
	return fmt.Errorf("agents write more than can be followed: within %s, at none of %d moments their records stayed as they were until mail and logs were read, which takes some five answers of the NATS server, although their hosts were asked to hold up for %s at a time; look whether hosts of an older version run, and try again from a machine that is nearer to the server", momentLimit, tries, protocol.MaxQuiesce)
}

// lookFor looks for the moment for a while.
func (c *copier) lookFor(ctx context.Context, while time.Duration, tries *int) (whole bool, err error) {
	for began := time.Now(); !whole && err == nil && time.Since(began) < while; *tries++ {
		if c.Progress != nil && *tries > 0 {
			c.Progress(lookingForMoment, *tries)
		}
		whole, err = c.tryTogether(ctx)
	}
	return whole, err
}

// approach reads what there is so far, so that little is left to be read at the moment.
func (c *copier) approach(ctx context.Context) (err error) {
	if err = c.reach(ctx, protocol.KindTimers, protocol.KindWorkflows, protocol.KindInbox); err == nil {
		err = c.advance(ctx, protocol.KindDead, protocol.KindConnections)
	}
	if err == nil {
		c.at.records, err = c.ends(ctx, protocol.KindAgents)
	}
	return err
}

// tryTogether reads records, mail and where the logs end, and reports whether they are of one moment: no record, and no post, was
// written from before to after. Mail is read after the logs have ended, so what a step has told before its result was stored is there.
func (c *copier) tryTogether(ctx context.Context) (whole bool, err error) {
	if err := c.readRecords(ctx); err != nil {
		return false, err
	}
	if c.at.posts, err = c.ends(ctx, protocol.KindPost); err != nil {
		return false, err
	}
	if c.at.logs, err = c.ends(ctx, protocol.KindWorkflows); err != nil {
		return false, err
	}
	if err := atOnce(ctx, c.readMail, c.readLetters); err != nil {
		return false, err
	}
	c.tell(protocol.KindInbox, protocol.KindDead)
	before := c.at.posts
	if err := atOnce(ctx,
		func(ctx context.Context) (err error) {
			c.at.records, err = c.ends(ctx, protocol.KindAgents)
			return err
		},
		func(ctx context.Context) (err error) { c.at.posts, err = c.ends(ctx, protocol.KindPost); return err },
	); err != nil {
		return false, err
	}
	whole = maps.Equal(before, c.at.posts)
	for _, t := range c.of(protocol.KindAgents) {
		whole = whole && c.at.records[t.stream] <= t.at
	}
	return whole, nil
}

// readRecords reads the records of agents as far as they are known to go, and the large states that they refer to.
func (c *copier) readRecords(ctx context.Context) error {
	if err := c.together(ctx, protocol.KindAgents, func(ctx context.Context, t *tape) error {
		return t.upTo(ctx, c.at.records[t.stream])
	}); err != nil {
		return err
	}
	c.tell(protocol.KindAgents)
	return c.readStates(ctx)
}

func (c *copier) readMail(ctx context.Context) (err error) {
	if c.at.mail, err = c.ends(ctx, protocol.KindInbox); err != nil {
		return err
	}
	return c.together(ctx, protocol.KindInbox, func(ctx context.Context, t *tape) error {
		return t.upTo(ctx, c.at.mail[t.stream])
	})
}

// readLetters reads the dead letters.
func (c *copier) readLetters(ctx context.Context) error {
	if err := c.listLetters(ctx); err != nil {
		return err
	}
	return c.together(ctx, protocol.KindDead, func(ctx context.Context, t *tape) error { return t.advance(ctx) })
}

// ends are where the streams of a kind end, at this moment as far as one can ask.
func (c *copier) ends(ctx context.Context, kind protocol.StreamKind) (map[string]uint64, error) {
	tapes := c.of(kind)
	last := make([]uint64, len(tapes))
	group, ctx := errgroup.WithContext(ctx)
	for n, t := range tapes {
		group.Go(func() error {
			s, err := c.Store.State(ctx, t.stream)
			last[n] = s.Last
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	at := map[string]uint64{}
	for n, t := range tapes {
		at[t.stream] = last[n]
	}
	return at, nil
}

// together reads all tapes of a kind at once.
func (c *copier) together(ctx context.Context, kind protocol.StreamKind, read func(context.Context, *tape) error) error {
	group, inner := errgroup.WithContext(ctx)
	for _, t := range c.of(kind) {
		group.Go(func() error {
			if err := read(inner, t); err != nil {
				return fmt.Errorf("read stream %s: %w", t.stream, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func atOnce(ctx context.Context, all ...func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, do := range all {
		group.Go(func() error { return do(ctx) })
	}
	return group.Wait()
}

// listLetters notes which dead letters there are: one leaves nothing behind when it goes.
func (c *copier) listLetters(ctx context.Context) error {
	c.at.letters = map[string]bool{}
	for _, t := range c.of(protocol.KindDead) {
		for offset := 0; ; {
			l, err := c.Store.Subjects(ctx, t.stream, ">", offset)
			if err != nil {
				return err
			}
			for _, subject := range l.Subjects {
				c.at.letters[subject] = true
			}
			if offset += len(l.Subjects); len(l.Subjects) == 0 || offset >= l.Total {
				break
			}
		}
	}
	return nil
}

// readStates reads the large states that records refer to. A state goes when another takes its place: then its record is read
// again.
func (c *copier) readStates(ctx context.Context) error {
	for _, t := range c.of(protocol.KindAgents) {
		for began := time.Now(); ; {
			if len(c.lacking(t.project)) == 0 {
				break
			}
			if err := c.reach(ctx, protocol.KindObjects); err != nil {
				return err
			}
			lacking := c.lacking(t.project)
			if len(lacking) == 0 {
				break
			}
			if time.Since(began) > chaseLimit {
				return fmt.Errorf("the large states of %d agents of project %q are replaced faster than they can be read, as at %s", len(lacking), t.project, lacking[0])
			}
			for _, subject := range lacking {
				m, err := c.Store.Last(ctx, t.stream, subject)
				switch {
				case errors.Is(err, journal.ErrNotFound):
					delete(c.states[t.project], subject)
				case err != nil:
					return err
				default:
					t.addLate(*m)
				}
			}
		}
	}
	return nil
}

// lacking are the subjects of those records whose large state was not read.
func (c *copier) lacking(project string) (subjects []string) {
	for subject, name := range c.states[project] {
		if v := c.values[project]; v == nil || !v.whole(name) {
			subjects = append(subjects, subject)
		}
	}
	return subjects
}
