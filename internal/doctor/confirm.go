package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/objects"
)

// complaint is what one look at something came to.
type complaint struct {
	Finding
	// evidence is what it rests on: if that changes, something moves.
	evidence string
	// mend repairs it, and says what it did. Nil: nothing can.
	mend func(context.Context) (string, error)
}

// examination looks at something, as the leaders have it now. It returns what is wrong with it.
type examination func(context.Context) ([]complaint, error)

// mostSuspects is how many are looked at together: if very much is wrong, all of that need not wait for each of them.
const mostSuspects = 4096

// suspect has something looked at again, until it moves or is a finding.
func (d *Doctor) suspect(ctx context.Context, look examination) error {
	d.suspects = append(d.suspects, look)
	if len(d.suspects) < mostSuspects {
		return nil
	}
	return d.confirm(ctx)
}

// paced looks once, and rests after that.
func paced(ctx context.Context, d *Doctor, look examination) ([]complaint, error) {
	began := time.Now()
	found, err := look(ctx)
	if isUnreadable(err) {
		d.report.Unreadable++
		found, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	return found, d.pace.rest(ctx, began, looksCost)
}

// errUnreadable is of what makes no sense to this version.
var errUnreadable = errors.New("cannot be read")

// isUnreadable reports whether something could not be looked at for what it is, and not because the servers do not answer.
func isUnreadable(err error) bool {
	_, missing := errors.AsType[*objects.MissingError](err)
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, other := errors.AsType[*json.UnmarshalTypeError](err)
	return missing || syntax || other || errors.Is(err, errUnreadable) || errors.Is(err, engine.ErrNewer)
}

// standing is a complaint that stands, since when, and how often it was seen.
type standing struct {
	complaint
	since time.Time
	seen  int
}

// looksCost is about how many messages are read for one look.
const looksCost = 8

// looks is how often, at least, something is seen as it is before the look that makes it a finding.
const looks = 4

// confirm looks at all suspects until each has moved, or stood for long enough. What moves all the time is not stuck.
func (d *Doctor) confirm(ctx context.Context) error {
	left := make(map[int]map[string]standing, len(d.suspects))
	suspects := d.suspects
	d.suspects = nil
	for n := range suspects {
		left[n] = nil
	}
	for round := 0; len(left) > 0; round++ {
		if round > 0 {
			if err := d.Store.Sleep(ctx, d.Patience/looks); err != nil {
				return err
			}
			d.pace.again(len(left))
		}
		for n, look := range suspects {
			before, ok := left[n]
			if !ok {
				continue
			}
			found, err := paced(ctx, d, look)
			if err != nil {
				return err
			}
			if left[n], err = d.compare(ctx, before, found, round == 0); err != nil {
				return err
			}
			if len(left[n]) == 0 {
				delete(left, n)
			}
		}
	}
	return nil
}

// compare keeps those complaints that are as they were, and tells those that have been so for long enough.
func (d *Doctor) compare(ctx context.Context, before map[string]standing, found []complaint, first bool) (map[string]standing, error) {
	after := map[string]standing{}
	for _, c := range found {
		id := string(c.Kind) + " " + c.Subject + " " + c.evidence
		s, known := before[id]
		switch {
		case first:
			after[id] = standing{c, time.Now(), 1}
		case !known: // it has moved
		case time.Since(s.since) >= d.Patience && s.seen >= looks:
			if err := d.tell(ctx, c); err != nil {
				return nil, err
			}
		default:
			after[id] = standing{c, s.since, s.seen + 1}
		}
	}
	return after, nil
}
