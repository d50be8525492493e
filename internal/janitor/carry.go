package janitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// HeldUpError says that a stream cannot be cleaned now, because something that is needed would go.
type HeldUpError struct {
	Instance protocol.Instance
	Reason   string
}

func (e *HeldUpError) Error() string {
	return fmt.Sprintf("instance %s holds up the cleaning of the log: %s", e.Instance, e.Reason)
}

// carryTogether is how many instances are carried at a time: as many snapshots are asked for in vain if no runner is
// there to make them.
const carryTogether = 32

// clean brings what is needed of a segment over its end, takes away the values of what is not, and purges.
func (c *Cleaner) clean(ctx context.Context, s segment, h Horizon, r *Report) error {
	h.Sequence = s.to
	chunk, err := c.read(ctx, s.from, s.to, h.Expired.Add(c.Settings.Margin), s.messages)
	if err != nil {
		return err
	}
	work := carrying{Cleaner: c, h: h, touched: map[protocol.Instance]bool{}, asked: map[protocol.Instance]bool{}}
	for instances := chunk.instances(); len(instances) > 0; {
		n := min(carryTogether, len(instances))
		if err := work.carry(ctx, instances[:n]); err != nil {
			return err
		}
		instances = instances[n:]
	}
	testsignal.At(testsignal.JanitorCarried)
	if err := c.collect(ctx, work.over); err != nil {
		return err
	}
	testsignal.At(testsignal.JanitorCollected)
	if err := c.Store.PurgeAll(ctx, c.stream(), s.to+1); err != nil {
		return err
	}
	testsignal.At(testsignal.JanitorPurged)
	c.Log.DebugContext(ctx, "purged a chunk of a log", logkey.Project, c.Project, logkey.Shard, c.Shard, logkey.Sequence, s.to, "purged", len(chunk.messages),
		"carried", work.carried, "dropped", len(work.over))
	r.Purged, r.UpTo = r.Purged+len(chunk.messages), s.to
	r.Carried, r.Dropped = r.Carried+work.carried, r.Dropped+len(work.over)
	return nil
}

// collectTogether is of how many instances the values are taken away at a time: most have none, and that is all to ask.
const collectTogether = 16

// collect takes away what owners own that are gone for good.
func (c *Cleaner) collect(ctx context.Context, owners []protocol.ObjectOwner) error {
	if c.Objects == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(collectTogether)
	for _, owner := range owners {
		group.Go(func() error { return c.Objects.DeleteInstance(ctx, owner) })
	}
	return group.Wait()
}

// carrying is what one purge needs.
type carrying struct {
	*Cleaner
	h       Horizon
	touched map[protocol.Instance]bool
	asked   map[protocol.Instance]bool
	carried int
	over    []protocol.ObjectOwner
}

// Between looks whether what was asked for is there.
const (
	firstLook = 2 * time.Millisecond
	longLook  = 500 * time.Millisecond
)

// carry does with some instances what must become of them, until nothing of them is needed that would go.
func (w *carrying) carry(ctx context.Context, instances []protocol.Instance) error {
	for try, wait := 0, firstLook; ; try, wait = try+1, min(2*wait, longLook) {
		sights, err := w.sights(ctx, instances, w.h)
		if err != nil {
			return err
		}
		instances = nil
		var last *sight
		for _, s := range sights {
			if more, err := w.further(ctx, s); err != nil {
				return err
			} else if more {
				instances, last = append(instances, s.instance), s
			}
		}
		switch {
		case len(instances) == 0:
			return nil
		case try == w.Settings.Tries:
			return &HeldUpError{Instance: last.instance, Reason: last.stuck()}
		}
		if err := w.Store.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// further does the next thing about an instance, and returns whether there is more to do.
func (w *carrying) further(ctx context.Context, s *sight) (more bool, err error) {
	fate := w.decide(s.Facts, w.h)
	if fate == Renew {
		w.touched[s.instance] = true
		if err := w.renew(ctx, s); err != nil {
			return false, err
		}
		fate = w.decide(s.Facts, w.h)
	}
	if fate == Ask || fate == Wait {
		if err := w.search(ctx, s, w.h); err != nil {
			return false, err
		}
		fate = w.decide(s.Facts, w.h)
	}
	switch fate {
	case Leave:
		if w.touched[s.instance] {
			w.carried++
		}
		return false, nil
	case Drop:
		w.over = append(w.over, s.owner())
		return false, nil
	case Remove:
		w.over = append(w.over, s.owner())
		return false, w.Store.DeleteEach(ctx, w.stream(), s.instance.CreateSubject(), s.Create+1)
	case Stuck:
		return false, &HeldUpError{Instance: s.instance, Reason: s.stuck()}
	case Ask:
		w.touched[s.instance] = true
		if w.asked[s.instance] { // a snapshot can be asked for once more the next time
			return true, nil
		}
		w.asked[s.instance] = true
		return true, w.ask(ctx, s)
	}
	return true, nil
}

func (c *Cleaner) decide(f Facts, h Horizon) Fate {
	if c.Decide != nil {
		return c.Decide(f, h)
	}
	return Decide(f, h)
}

// renew publishes a create again. If somebody else has done so, or has deleted the instance, it is looked at once more.
func (w *carrying) renew(ctx context.Context, s *sight) error {
	body, err := carriedCreate(s.create.Data, s.Incarnation)
	if err != nil {
		return fmt.Errorf("create of %s: %w", s.instance, err)
	}
	sequence, err := w.Store.Append(ctx, w.stream(), s.instance.CreateSubject(), s.create.Sequence, body)
	if errors.Is(err, journal.ErrConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Create, s.Carried = sequence, true
	testsignal.At(testsignal.JanitorRenewed)
	return nil
}

// carriedCreate is a create that says under which sequence it was first stored. What this version does not know of it
// stays in it.
func carriedCreate(body []byte, incarnation uint64) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, err
	}
	number, err := json.Marshal(incarnation)
	if err != nil {
		return nil, err
	}
	fields["carried"] = number
	return json.Marshal(fields)
}

// ask asks for a snapshot.
func (w *carrying) ask(ctx context.Context, s *sight) error {
	body, err := json.Marshal(protocol.Control{
		V: protocol.Version, Input: w.newID(), Action: protocol.ActionCompact, Sent: w.h.Expired.Add(w.Settings.Margin).UTC(),
		Incarnation: s.Incarnation, Source: protocol.Source{Kind: "janitor"},
	})
	if err != nil {
		return err
	}
	_, err = w.Store.Publish(ctx, s.instance.ControlSubject(), nil, body)
	testsignal.At(testsignal.JanitorAsked)
	return err
}

// stuck says why nothing can be done about an instance now.
func (s *sight) stuck() string {
	switch {
	case s.Newer:
		return "a newer version wrote it"
	case s.Garbage:
		return "its create cannot be read"
	case s.Deleted:
		return "it is being deleted"
	case s.Misleading:
		return "the end that was announced last is not its newest"
	case !s.Begun:
		return "it was not begun, although its create was acked"
	}
	return "no runner has made a snapshot of it"
}
