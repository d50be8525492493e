package cronline

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// field is what a place of a line may hold.
type field struct {
	name    string
	option  cron.ParseOption
	allowed string
	example string
}

var fields = []field{
	{"second", cron.Second, "0-59", "*/10"},
	{"minute", cron.Minute, "0-59", "*/15"},
	{"hour", cron.Hour, "0-23", "9-17"},
	{"day of month", cron.Dom, "1-31 and L, the last one", "1,15"},
	{"month", cron.Month, "1-12 and JAN-DEC", "1-6"},
	{"day of week", cron.Dow, "0-6 (0 is Sunday) and SUN-SAT", "MON-FRI"},
}

const (
	lineExample  = "30 9 * * MON-FRI"
	descriptors  = "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every with an interval"
	every        = "@every"
	everyExample = "@every 90s"
)

// checkShape refuses what is no line at all.
func checkShape(text string) *LineError {
	if len(text) > MaxLine {
		return &LineError{Line: text, Reason: fmt.Sprintf("is %d bytes long, at most %d are allowed", len(text), MaxLine)}
	}
	if start := strings.TrimSpace(text); strings.HasPrefix(start, "TZ=") || strings.HasPrefix(start, "CRON_TZ=") {
		return &LineError{Line: text, Column: 1, Reason: "names its time zone; give the zone beside the line", Example: lineExample}
	}
	if n := len(strings.Fields(text)); n != 5 && n != 6 && !strings.HasPrefix(text, "@") {
		return &LineError{Line: text, Example: lineExample,
			Reason: fmt.Sprintf("has %d fields; allowed are 5, 6 with seconds first, or a descriptor such as %q", n, "@hourly")}
	}
	return nil
}

// check finds what is wrong with a line, and where.
func check(text string) *LineError {
	if err := checkShape(text); err != nil {
		return err
	}
	if strings.HasPrefix(text, "@") {
		return checkDescriptor(text)
	}
	places := fields
	texts := strings.Fields(text)
	if len(texts) == 5 {
		places = fields[1:]
	}
	at := 0
	for i, f := range places {
		at += strings.Index(text[at:], texts[i])
		column := at
		for item := range strings.SplitSeq(texts[i], ",") {
			if reason := f.refuses(item); reason != "" {
				return &LineError{Line: text, Field: f.name, Column: column + 1, Example: f.example,
					Reason: fmt.Sprintf("%q %s; allowed are %s, *, lists, ranges and steps", item, reason, f.allowed)}
			}
			column += len(item) + 1
		}
		at += len(texts[i])
	}
	return nil
}

// refuses says what is wrong with one item of a list; nothing if it is right.
func (f field) refuses(item string) string {
	if item == "" {
		return "is empty"
	}
	if f.option == cron.Dom && isLast(item) {
		return ""
	}
	strange := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("*?-/", r)
	}
	if strings.ContainsFunc(item, strange) {
		return "is neither a number nor a name"
	}
	if item[0] == '*' || item[0] == '?' { // robfig/cron takes "*-5" and "*/1" for the same
		if rest := item[1:]; rest != "" && rest[0] != '/' {
			return "goes on after the " + item[:1]
		}
	}
	if _, err := cron.NewParser(f.option).Parse(item); err != nil {
		return "is refused: " + strings.TrimSuffix(err.Error(), ": "+item)
	}
	return ""
}

func checkDescriptor(text string) *LineError {
	interval, isEvery := strings.CutPrefix(text, every+" ")
	if !isEvery {
		if _, err := cron.NewParser(cron.Descriptor).Parse(text); err != nil {
			return &LineError{Line: text, Column: 1, Reason: "unknown descriptor; allowed are " + descriptors, Example: everyExample}
		}
		return nil
	}
	interval = strings.TrimLeft(interval, " \t")
	refuse := func(reason string) *LineError {
		return &LineError{Line: text, Field: "interval", Column: len(text) - len(interval) + 1, Reason: reason, Example: everyExample}
	}
	d, err := time.ParseDuration(interval)
	switch {
	case err != nil:
		return refuse(fmt.Sprintf("%q is no interval", interval))
	case d < MinEvery || d > MaxEvery:
		return refuse(fmt.Sprintf("%q must be 1s to 365 days (8760h) long", interval))
	case d%time.Second != 0:
		return refuse(fmt.Sprintf("%q must be whole seconds", interval))
	}
	return nil
}

// neverComes is about a line whose days are in none of its months. day is the place of the field of days.
func neverComes(text string, day int) *LineError {
	column := 0
	for _, f := range strings.Fields(text)[:day] {
		column += strings.Index(text[column:], f) + len(f)
	}
	column += strings.Index(text[column:], strings.Fields(text)[day])
	return &LineError{Line: text, Field: "day of month", Column: column + 1, Reason: "never comes: no month of the line has such a day",
		Example: "0 0 28 2 *"}
}
