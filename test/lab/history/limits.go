package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
)

// place is that of a message: its sequence in a stream, and the moments between which it was stored, as all clocks and the order of the
// stream allow.
type place struct {
	stream           string
	sequence         uint64
	earliest, latest time.Time
}

// before reports whether a message was certainly stored before another one. In one stream the order says so, also where a clock was
// put back. Between streams only time does, and what the clocks of two servers leave open stays open.
func (p place) before(q place) bool {
	if p.stream == q.stream {
		return p.sequence < q.sequence
	}
	return p.latest.Before(q.earliest)
}

// places are those of all messages of a stream, by sequence: each was stored after those before it, whatever clock dated it.
func (r *Recorded) places(stream string) map[uint64]place {
	all := make([]place, len(r.Streams[stream]))
	for i, m := range r.Streams[stream] {
		ahead, behind := r.off(m.Time)
		all[i] = place{stream, m.Sequence, m.Time.Add(-ahead), m.Time.Add(behind)}
		if i > 0 && all[i].earliest.Before(all[i-1].earliest) {
			all[i].earliest = all[i-1].earliest
		}
	}
	of := map[uint64]place{}
	for i := len(all) - 1; i >= 0; i-- {
		if i+1 < len(all) && all[i+1].latest.Before(all[i].latest) {
			all[i].latest = all[i+1].latest
		}
		of[all[i].sequence] = all[i]
	}
	for sequence, p := range of {
		if p.latest.Before(p.earliest) { // a clock was off that nobody told of
			p.earliest, p.latest = p.latest, p.earliest
			of[sequence] = p
		}
	}
	return of
}

// execution is a time in which an instance executes: from a claim, or its first entry, to where it rests. It has its slot for longer than
// that.
type execution struct {
	*story
	from, to place
}

// overlaps reports whether two executions certainly have a moment in common: each begins before the other one ends.
func (e execution) overlaps(other execution) bool {
	return e.from.before(other.to) && other.from.before(e.to)
}

// executions are those of an instance, in their order.
func (s *story) executions(at map[uint64]place) (all []execution) {
	executing := false
	for _, l := range s.log {
		if len(l.Entries) == 0 || l.Entries[0].Kind == protocol.EntrySnapshot {
			continue
		}
		took := l.steers() || l.queues() // whoever gets the wake does that, without a slot
		if !took && !executing {
			if l.Entries[0].Kind == protocol.EntryReleased { // given back before it began: it had no slot
				continue
			}
			executing = true
			never := place{at[l.sequence].stream, math.MaxUint64, time.Unix(1<<40, 0), time.Unix(1<<40, 0)}
			all = append(all, execution{s, at[l.sequence], never})
		}
		k := last(l.Entries).Kind
		if executing && (took || engine.Rests(k) && k != protocol.EntryReleased) {
			all[len(all)-1].to = at[l.sequence]
			executing = false
		}
	}
	return all
}

// together are n of some executions that all overlap, so that there is a moment that all have in common; nil if there are none.
func together(all []execution, n int) []execution {
	if n == 0 {
		return []execution{}
	}
	for i, e := range all {
		if found := together(overlapping(all[:i], e), n-1); found != nil {
			return append(found, e)
		}
	}
	return nil
}

// overlapping are those of some executions that overlap with one.
func overlapping(all []execution, e execution) (found []execution) {
	for _, other := range all {
		if other.overlaps(e) {
			found = append(found, other)
		}
	}
	return found
}

// limits: at no moment do more instances of a workflow execute than its limit, in whichever shards they are.
func (c *court) limits() {
	for _, project := range c.rec.Projects {
		var all []execution
		at := map[string]map[uint64]place{}
		for _, stream := range c.rec.workflows(project) {
			at[stream] = c.rec.places(stream)
		}
		for _, of := range c.order {
			if of.Project == project && of.Workflow == work.Few {
				all = append(all, c.stories[of].executions(at[of.Stream()])...)
			}
		}
		slices.SortStableFunc(all, func(a, b execution) int { return a.from.earliest.Compare(b.from.earliest) })
		for i, e := range all {
			c.limited(overlapping(all[:i], e), e)
		}
	}
}

// limited holds an execution against those that began earlier and overlap with it.
func (c *court) limited(others []execution, e execution) {
	for _, other := range others {
		if other.from.stream != e.from.stream {
			c.count("executing of a few in two shards", 1)
		}
	}
	n := work.FewLimit
	found := together(others, n)
	for ; found == nil; n-- {
		found = together(others, n-1)
	}
	c.Counts["executing of a few at most"] = max(c.Counts["executing of a few at most"], n+1)
	if n < work.FewLimit {
		return
	}
	var with []string
	for _, other := range found {
		with = append(with, fmt.Sprintf("%s from %s %d", other.at.ID, other.from.stream, other.from.sequence))
	}
	c.accuse(Limited, e.story, e.from.sequence, "from %d on it executes together with %s; at most %d may", e.from.sequence, strings.Join(with, ", "), work.FewLimit)
}
