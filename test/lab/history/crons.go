package history

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// crons holds the schedules of workflows against the instances that they started: each moment up to the one that is armed next has
// one, or counts as missed.
func (c *court) crons() {
	fired := map[string]map[int64]int{} // project and schedule → moment → instances
	for _, at := range c.order {
		s := c.stories[at]
		if s.created == 0 || s.create.Schedule == nil {
			continue
		}
		key := s.at.Project + " " + s.create.Source.Name
		if fired[key] == nil {
			fired[key] = map[int64]int{}
		}
		planned := s.create.Schedule.Planned
		fired[key][planned.UnixMilli()]++
		if s.at.ID != protocol.CronInstance(s.create.Source.Name, planned) {
			c.accuse(Moments, s, 0, "it is of %s", planned)
		}
		if by := planned.Sub(s.createdAt); by > c.rec.skew(s.createdAt.Add(-time.Minute), s.createdAt) {
			c.accuse(NotEarly, s, 0, "it was started %v before its moment", by)
		}
	}
	for _, project := range c.rec.Projects {
		bucket := protocol.SchedulesBucket(project)
		ticks := c.ticks(project)
		for _, m := range c.rec.Streams[protocol.KVStream(bucket)] {
			var row protocol.Schedule
			if len(m.Data) == 0 || json.Unmarshal(m.Data, &row) != nil || row.Class != protocol.ClassCron {
				continue
			}
			key := strings.TrimPrefix(m.Subject, protocol.KVSubject(bucket, ""))
			c.cron(project, row, ticks[key], fired[project+" "+row.ID])
			delete(fired, project+" "+row.ID)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(fired)) {
		c.find(Moments, key, "has started instances, and is no schedule")
	}
}

// ticks are what stands on the clock, by the keys of the rows.
func (c *court) ticks(project string) map[string]*protocol.Tick {
	ticks := map[string]*protocol.Tick{}
	for _, m := range c.rec.Streams[protocol.StreamClock] {
		prefix := strings.TrimSuffix(protocol.ClockSubjectsOf(project), ">")
		key, ours := strings.CutPrefix(m.Subject, prefix)
		var tick protocol.Tick
		if ours && len(m.Data) > 0 && json.Unmarshal(m.Data, &tick) == nil {
			ticks[key] = &tick
		}
	}
	return ticks
}

func (c *court) cron(project string, row protocol.Schedule, tick *protocol.Tick, fired map[int64]int) {
	where := fmt.Sprintf("%s schedule %s of %s", project, row.ID, row.Name)
	plan, err := moments.Of(&row)
	if err != nil || tick == nil {
		c.find(Moments, where, fmt.Sprintf("is not armed: %v", err))
		return
	}
	missed := 0
	if tick.Progress != nil {
		missed = tick.Progress.Missed
	}
	var lacking []string
	for next := plan.First(); !next.IsZero() && next.Before(tick.Planned); next = plan.After(next) {
		c.count("moments planned", 1)
		switch n := fired[next.UnixMilli()]; n {
		case 0:
			lacking = append(lacking, next.Format(time.TimeOnly))
		case 1:
			c.count("moments fired", 1)
			delete(fired, next.UnixMilli())
		default:
			c.find(Moments, where, fmt.Sprintf("%s has fired %d times", next, n))
		}
	}
	c.count("moments missed", missed)
	if len(lacking) != missed {
		c.find(Moments, where, fmt.Sprintf("%d moments have not fired, counted as missed are %d: %q", len(lacking), missed, lacking))
	}
	for milli := range fired {
		if moment := time.UnixMilli(milli); moment.Before(tick.Planned) {
			c.find(Moments, where, fmt.Sprintf("%s has fired, and is not planned", moment))
		}
	}
}
