// Package cronline reads the cron lines of schedules, for those who store them and those who fire them: both must
// accept the same lines and mean the same moments.
//
// It must never look at the clock or at the machine's own time zone.
package cronline

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// MaxLine is the most bytes that a line may have.
const MaxLine = 256

// Line is a cron line in its time zone.
type Line struct{ schedule cron.Schedule }

// LineError says why a line or its time zone cannot be used.
type LineError struct {
	Line   string
	Zone   string
	Reason string
}

func (e *LineError) Error() string {
	if e.Zone != "" {
		return fmt.Sprintf("cron line %q in time zone %q: %s", e.Line, e.Zone, e.Reason)
	}
	return fmt.Sprintf("cron line %q: %s", e.Line, e.Reason)
}

// FailureName is how the error is called where it is stored or answered.
func (e *LineError) FailureName() string { return "CronLineError" }

// Terminal is true: the same line does not get better.
func (e *LineError) Terminal() bool { return true }

const fieldOptions = cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow

// Parse reads a line of five fields (minute, hour, day of month, month, day of week), of six with seconds first, or a
// descriptor ("@hourly", "@every 90s"). The zone is an IANA name; empty is UTC. Errors are *LineError.
func Parse(line, zone string) (Line, error) {
	refuse := func(format string, args ...any) (Line, error) {
		return Line{}, &LineError{Line: line, Zone: zone, Reason: fmt.Sprintf(format, args...)}
	}
	if len(line) > MaxLine {
		return refuse("is %d bytes long, at most %d are allowed", len(line), MaxLine)
	}
	if strings.HasPrefix(line, "TZ=") || strings.HasPrefix(line, "CRON_TZ=") {
		return refuse("names its time zone; give the zone beside the line")
	}
	if zone == "Local" {
		return refuse("the time zone must not depend on the machine; allowed are IANA names such as %q", "Europe/Oslo")
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return refuse("unknown time zone; allowed are IANA names such as %q", "Europe/Oslo")
	}
	options, ok := fieldOptions|cron.Descriptor, true
	if !strings.HasPrefix(line, "@") {
		if options, ok = optionsFor(len(strings.Fields(line))); !ok {
			return refuse("has %d fields; allowed are 5, 6 with seconds first, or a descriptor such as %q",
				len(strings.Fields(line)), "@hourly")
		}
	}
	schedule, err := cron.NewParser(options).Parse(line)
	if err != nil {
		return refuse("%v", err)
	}
	if spec, ok := schedule.(*cron.SpecSchedule); ok {
		spec.Location = location
	}
	parsed := Line{schedule: schedule}
	if parsed.Next(someMoment).IsZero() {
		return refuse("never comes")
	}
	return parsed, nil
}

// someMoment stands for any: a line that has no moment in the five years after it never has one.
var someMoment = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func optionsFor(fields int) (cron.ParseOption, bool) {
	switch fields {
	case 5:
		return fieldOptions, true
	case 6:
		return fieldOptions | cron.Second, true
	}
	return 0, false
}

// Next is the first moment of the line after t, in UTC.
func (l Line) Next(t time.Time) time.Time {
	next := l.schedule.Next(t)
	if next.IsZero() {
		return next
	}
	return next.UTC()
}
