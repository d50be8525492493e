// Package cronline reads the cron lines of schedules and finds their moments, for those who store schedules and those
// who fire them: both must accept the same lines and mean the same moments.
//
// robfig/cron reads the fields. The moments are found here, because its own are wrong where clocks change: a line at an
// hour that the clock skips has no moment on that day, one at an hour that the clock shows twice has two, and in zones
// that skip midnight it can miss days.
//
// It must never look at the clock or at the machine's own time zone.
package cronline

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	// MaxLine is the most bytes that a line may have, MaxLines the most lines of one plan.
	MaxLine  = 256
	MaxLines = 32
	// MinEvery and MaxEvery bound the interval of "@every".
	MinEvery = time.Second
	MaxEvery = 365 * 24 * time.Hour
)

// Plan is what one or more lines in a time zone plan from a moment on.
type Plan struct {
	lines []line
	from  time.Time
}

// line is one line of a plan: an interval, or fields of a clock in a zone.
type line struct {
	every time.Duration
	dial  dial
}

// LineError says why a line or its time zone cannot be used.
type LineError struct {
	Line string
	Zone string
	// Field is the name of the field at fault, and Column where in the line the fault begins, counted in bytes from 1. Both
	// are zero if it is not one place of the line.
	Field  string
	Column int
	Reason string
	// Example is a line, field or zone that is correct.
	Example string
}

func (e *LineError) Error() string {
	if e.Zone != "" {
		return fmt.Sprintf("cron line %q in time zone %q: %s", e.Line, e.Zone, e.Explain())
	}
	return fmt.Sprintf("cron line %q: %s", e.Line, e.Explain())
}

// Explain is the error without the line: where the fault is, what it is, and what is right.
func (e *LineError) Explain() string {
	text := e.Reason
	if e.Column > 0 {
		text = fmt.Sprintf("column %d: %s", e.Column, text)
	}
	if e.Field != "" {
		text = fmt.Sprintf("%s, %s", e.Field, text)
	}
	if e.Example != "" {
		text += fmt.Sprintf("; correct is for example %q", e.Example)
	}
	return text
}

// FailureName is how the error is called where it is stored or answered.
func (e *LineError) FailureName() string { return "CronLineError" }

// Terminal is true: the same line does not get better.
func (e *LineError) Terminal() bool { return true }

// Parse reads lines of five fields (minute, hour, day of month, month, day of week), of six with seconds first, or
// descriptors ("@hourly", "@every 90s"). The zone is an IANA name; empty is UTC. Errors are *LineError.
func Parse(zone string, lines ...string) (Plan, error) {
	for _, text := range lines {
		if err := check(text); err != nil {
			err.Zone = zone
			return Plan{}, err
		}
	}
	return Stored(zone, lines...)
}

// Stored reads lines that were accepted when they were stored, also by a program that accepted more than Parse does.
func Stored(zone string, lines ...string) (Plan, error) {
	location, err := locate(zone)
	if err != nil {
		err.Line = strings.Join(lines, "\n")
		return Plan{}, err
	}
	if len(lines) == 0 || len(lines) > MaxLines {
		return Plan{}, &LineError{Line: strings.Join(lines, "\n"), Zone: zone,
			Reason: fmt.Sprintf("there are %d lines; allowed are 1 to %d", len(lines), MaxLines)}
	}
	plan := Plan{from: time.Unix(0, 0).UTC()}
	for _, text := range lines {
		l, err := read(text, location)
		if err != nil {
			err.Zone = zone
			return Plan{}, err
		}
		plan.lines = append(plan.lines, l)
	}
	return plan, nil
}

const zoneExample = "Europe/Oslo"

func locate(zone string) (*time.Location, *LineError) {
	if zone == "Local" {
		return nil, &LineError{Zone: zone, Reason: "the time zone must not depend on the machine; allowed are IANA names", Example: zoneExample}
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, &LineError{Zone: zone, Reason: "unknown time zone; allowed are IANA names", Example: zoneExample}
	}
	return location, nil
}

const fieldOptions = cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow

func read(text string, location *time.Location) (line, *LineError) {
	if err := checkShape(text); err != nil {
		return line{}, err
	}
	fields := strings.Fields(text)
	options, day := fieldOptions|cron.Descriptor, len(fields)-3
	plain, last := text, false
	if !strings.HasPrefix(text, "@") {
		if len(fields) == 6 {
			options |= cron.Second
		}
		fields[day], last = withoutLast(fields[day])
		plain = strings.Join(fields, " ")
	}
	schedule, err := cron.NewParser(options).Parse(plain)
	if err != nil {
		return line{}, &LineError{Line: text, Reason: err.Error(), Example: lineExample}
	}
	switch s := schedule.(type) {
	case *cron.SpecSchedule:
		l := line{dial: dialOf(s, last, location)}
		if _, ok := l.dial.wall(someMoment); !ok {
			return line{}, neverComes(text, day)
		}
		return l, nil
	case cron.ConstantDelaySchedule:
		return line{every: s.Delay}, nil
	}
	return line{}, &LineError{Line: text, Reason: fmt.Sprintf("cannot be planned: it is read as a %T", schedule)}
}

// someMoment stands for any: a line that has no moment in the years after it never has one.
var someMoment = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// lastDay, among the days of a month, is its last one.
const lastDay = "L"

// withoutLast takes the last day of the month out of a field of days, which robfig/cron does not know. What stays has
// to be a field: a day that no month has.
func withoutLast(field string) (rest string, last bool) {
	items := strings.Split(field, ",")
	others := slices.DeleteFunc(slices.Clone(items), isLast)
	switch {
	case len(others) == len(items):
		return field, false
	case len(others) == 0:
		return noDay, true
	}
	return strings.Join(others, ","), true
}

// noDay is a list of no days, for robfig/cron.
const noDay = ","

func isLast(item string) bool { return strings.EqualFold(item, lastDay) }

// From returns the plan with the moment that intervals count from, which is the beginning of 1970 else. It is cut to the
// second.
func (p Plan) From(t time.Time) Plan {
	p.from = t.UTC().Truncate(time.Second)
	return p
}

// Next is the first moment of the plan after t, in UTC; zero if there is none. Moments of several lines that are one are
// one.
func (p Plan) Next(t time.Time) time.Time {
	var first time.Time
	for _, l := range p.lines {
		if next := l.next(t, p.from); !next.IsZero() && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	return first
}

func (l line) next(t, from time.Time) time.Time {
	if l.every == 0 {
		return l.dial.next(t)
	}
	passed := t.Sub(from)
	if passed < 0 {
		return from.Add(l.every)
	}
	return from.Add((passed/l.every + 1) * l.every)
}
