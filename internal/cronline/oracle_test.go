package cronline_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cronline"
)

// clockLine is a random line with what it means, known from how it was made.
type clockLine struct {
	text    string
	members [6]map[int]bool // second, minute, hour, day, month, weekday; nil: any
	last    bool
}

var bounds = [6][2]int{{0, 59}, {0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}}

func randomLine(r *rand.Rand, seconds bool) clockLine {
	var l clockLine
	var texts []string
	for i := range l.members {
		if i == 0 && !seconds {
			l.members[0] = map[int]bool{0: true}
			continue
		}
		text, members := randomField(r, bounds[i][0], bounds[i][1])
		if i == 3 && members != nil && r.IntN(3) == 0 {
			text, l.last = text+",L", true
		}
		l.members[i] = members
		texts = append(texts, text)
	}
	l.text = strings.Join(texts, " ")
	return l
}

// randomField is a star, a list, a range or a range with steps.
func randomField(r *rand.Rand, least, most int) (string, map[int]bool) {
	members := map[int]bool{}
	from := least + r.IntN(most-least+1)
	to := from + r.IntN(most-from+1)
	switch r.IntN(4) {
	case 0:
		return "*", nil
	case 1:
		var items []string
		for range 1 + r.IntN(3) {
			n := least + r.IntN(most-least+1)
			members[n] = true
			items = append(items, fmt.Sprint(n))
		}
		return strings.Join(items, ","), members
	case 2:
		for n := from; n <= to; n++ {
			members[n] = true
		}
		return fmt.Sprintf("%d-%d", from, to), members
	}
	step := 2 + r.IntN(10)
	for n := from; n <= to; n += step {
		members[n] = true
	}
	return fmt.Sprintf("%d-%d/%d", from, to, step), members
}

func (l clockLine) has(i, n int) bool { return l.members[i] == nil || l.members[i][n] }

// shows reports whether a clock that shows wall, written in UTC, is at one of the line's times.
func (l clockLine) shows(wall time.Time) bool {
	onDay := l.has(3, wall.Day()) || l.last && wall.Month() != wall.AddDate(0, 0, 1).Month()
	inWeek := l.has(5, int(wall.Weekday()))
	if l.members[3] != nil && l.members[5] != nil {
		onDay = onDay || inWeek
	} else {
		onDay = onDay && inWeek
	}
	return onDay && l.has(0, wall.Second()) && l.has(1, wall.Minute()) && l.has(2, wall.Hour()) && l.has(4, int(wall.Month()))
}

// moments looks at a clock at every tick from start until end, and writes down when the line fires.
func (l clockLine) moments(zone *time.Location, start, end time.Time, tick time.Duration) (fires []time.Time) {
	everyHour := l.members[2] == nil || len(l.members[2]) == 24
	show := func(t time.Time) time.Time {
		_, offset := t.In(zone).Zone()
		return t.Add(time.Duration(offset) * time.Second)
	}
	high := show(start.Add(-24 * time.Hour)) // the latest that the clock has shown
	for t := start.Add(-24*time.Hour + tick); t.Before(end); t = t.Add(tick) {
		wall := show(t)
		fire := l.shows(wall)
		if !everyHour {
			fire = fire && wall.After(high)
			for skipped := high.Add(tick); skipped.Before(wall); skipped = skipped.Add(tick) {
				fire = fire || l.shows(skipped)
			}
		}
		if wall.After(high) {
			high = wall
		}
		if fire && !t.Before(start) {
			fires = append(fires, t)
		}
	}
	return fires
}

// TestAgainstAClock compares the moments of random lines with what somebody sees who looks at a clock all the time, by
// the minute for days and by the second for hours, most of them around a change of the clock.
func TestAgainstAClock(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	zones := []string{"UTC", "Europe/Oslo", "America/New_York", "America/St_Johns", "Australia/Sydney", "Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Kathmandu"}
	for i := range 60 {
		name := zones[i%len(zones)]
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2012+r.IntN(30), 1, 1+r.IntN(365), r.IntN(24), 0, 0, 0, time.UTC)
		if _, change := start.In(zone).ZoneBounds(); !change.IsZero() && r.IntN(5) > 0 {
			start = change.UTC().Truncate(time.Minute).Add(-time.Duration(r.IntN(180)) * time.Minute)
		}
		seconds, tick, end := i%3 == 0, time.Minute, start.Add(4*24*time.Hour)
		if seconds {
			tick, end = time.Second, start.Add(5*time.Hour)
		}
		line := randomLine(r, seconds)
		p, err := cronline.Parse(name, line.text)
		if err != nil { // a date that never comes
			continue
		}
		want := line.moments(zone, start, end, tick)
		var got []time.Time
		for next := p.Next(start.Add(-1)); !next.IsZero() && next.Before(end); next = p.Next(next) {
			got = append(got, next)
		}
		if !slices.EqualFunc(got, want, time.Time.Equal) {
			t.Errorf("line %q in %s from %s until %s:\ngot  %v\nwant %v", line.text, name, start, end, short(got, want), short(want, got))
		}
	}
}

// short is what is in one list and not in the other.
func short(of, without []time.Time) (left []time.Time) {
	for _, m := range of {
		if !slices.ContainsFunc(without, m.Equal) {
			left = append(left, m)
		}
	}
	return left[:min(len(left), 5)]
}
