package project

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tailscale/hujson"

	"github.com/skein-run/skein/internal/cronline"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// Schedule starts an instance of its workflow at every moment of a cron line. It is known by line and zone.
type Schedule struct {
	// Cron is a line of five fields (minute, hour, day of month, month, day of week), of six with seconds first, or a
	// descriptor as "@hourly".
	Cron string
	// Zone is the time zone of the line, an IANA name; empty is UTC.
	Zone string
	// Params are those of the instances, as JSON of at most protocol.InlinePayload bytes.
	Params json.RawMessage
	// Jitter bounds by how much a start is delayed after its moment: always by the same, and not beyond the next one.
	Jitter protocol.Duration
	// From and Until bound the moments; both may be moments themselves. Nil: no bound.
	From, Until *time.Time
	// Times is how many instances are started at most; 0: no limit.
	Times int
	// CatchUp is how many of the moments that passed while no scheduler could serve them start an instance late, the oldest
	// first: 0 to protocol.MaxCatchUp. Nil: 1. With 0, a moment that is more than a minute late starts none.
	CatchUp *int
	// Overlap says what becomes of a moment that comes while the instance of an earlier one has not ended. Empty:
	// protocol.OverlapAllowAll.
	Overlap protocol.Overlap
}

const fieldSchedules = "schedules"

// Row is the schedule of a workflow as it is stored, made at a moment.
func (s Schedule) Row(workflow string, created time.Time) protocol.Schedule {
	utc := func(t *time.Time) *time.Time {
		if t == nil {
			return nil
		}
		return new(t.UTC())
	}
	row := protocol.Schedule{
		ID: protocol.CronID(s.Cron, s.Zone), Class: protocol.ClassCron, Name: workflow, Workflow: workflow,
		Kind: protocol.ScheduleCron, Cron: s.Cron, Zone: s.Zone, From: utc(s.From), Until: utc(s.Until), Times: s.Times, Jitter: s.Jitter,
		CatchUp: s.CatchUp, Overlap: s.Overlap, Payload: s.Params, Created: created.UTC(),
	}
	row.SetVersion()
	return row
}

// schedules parses a line, or an array of lines and objects.
func (p *parser) schedules(v *hujson.Value, path string, into *[]Schedule) {
	array, ok := v.Value.(*hujson.Array)
	if !ok {
		*into = make([]Schedule, 1)
		p.at[path+"[0]"] = v.StartOffset
		if v.Value.Kind() != '"' {
			p.wrongType(v, path, "a string or an array")
			return
		}
		p.text(v, path, &(*into)[0].Cron)
		return
	}
	if len(array.Elements) == 0 {
		p.fail(v.StartOffset, path, errors.New("is empty; leave the field out or give it a cron line"))
	}
	*into = make([]Schedule, len(array.Elements))
	for i := range array.Elements {
		p.schedule(&array.Elements[i], fmt.Sprintf("%s[%d]", path, i), &(*into)[i])
	}
}

func (p *parser) schedule(v *hujson.Value, path string, s *Schedule) {
	p.at[path] = v.StartOffset
	switch v.Value.Kind() {
	case '"':
		p.text(v, path, &s.Cron)
		return
	case '{':
	default:
		p.wrongType(v, path, "a string or an object")
		return
	}
	allowed := []string{"cron", "zone", "params", "jitter", "from", "until", "times", "catch_up", "overlap"}
	p.object(v, path, allowed, func(name, path string, v *hujson.Value) {
		switch name {
		case "cron":
			p.text(v, path, &s.Cron)
		case "zone":
			p.text(v, path, &s.Zone)
		case "params":
			s.Params = plainJSON(v)
		case "jitter":
			p.duration(v, path, &s.Jitter)
		case "from":
			p.moment(v, path, &s.From)
		case "until":
			p.moment(v, path, &s.Until)
		case "times":
			p.count(v, path, &s.Times)
		case "catch_up":
			p.catchUp(v, path, &s.CatchUp)
		case "overlap":
			p.text(v, path, (*string)(&s.Overlap))
		}
	})
}

// plainJSON is a value without comments and trailing commas.
func plainJSON(v *hujson.Value) json.RawMessage {
	plain := v.Clone()
	plain.Minimize()
	return plain.Pack()
}

func (p *parser) moment(v *hujson.Value, path string, into **time.Time) {
	var text string
	before := len(p.errs)
	if p.text(v, path, &text); len(p.errs) > before {
		return
	}
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		p.fail(v.StartOffset, path, fmt.Errorf(`%q: allowed are moments as in "2026-12-24T18:00:00Z" and "2026-12-24T18:00:00+01:00"`, text))
		return
	}
	*into = new(moment.UTC())
}

func (p *parser) catchUp(v *hujson.Value, path string, into **int) {
	literal, ok := v.Value.(hujson.Literal)
	if !ok || literal.Kind() != '0' {
		p.wrongType(v, path, "a number")
		return
	}
	n, err := strconv.Atoi(string(literal))
	if err != nil {
		p.fail(v.StartOffset, path, fmt.Errorf("%s: allowed are 0 to %d", literal, protocol.MaxCatchUp))
		return
	}
	*into = &n
}

// column is where in the file the fault of a cron line is, counted from where its value begins; 0 if that is not known.
func (p *parser) column(offset int, err error) int {
	refused, ok := errors.AsType[*cronline.LineError](err)
	if !ok || refused.Column == 0 || !bytes.HasPrefix(p.data[offset:], []byte(`"`+refused.Line+`"`)) {
		return 0 // or it is written with escapes
	}
	return refused.Column
}

// checkSchedules checks the schedules of a workflow of this project.
func (c *Config) checkSchedules(i int, fail func(field string, err error)) {
	w := c.Workflows[i]
	at := func(j int, field string) string {
		return fmt.Sprintf("workflows[%d].%s[%d].%s", i, fieldSchedules, j, field)
	}
	if len(w.Schedules) > protocol.MaxSchedules {
		fail(fmt.Sprintf("workflows[%d].%s", i, fieldSchedules), fmt.Errorf("%d: allowed are %d", len(w.Schedules), protocol.MaxSchedules))
		return
	}
	first := map[string]int{}
	for j, s := range w.Schedules {
		if field, err := s.check(w.Name); err != nil {
			fail(at(j, field), err)
			continue
		}
		zone := s.Zone
		if zone == "UTC" { // what no zone means: the ids differ, the moments do not
			zone = ""
		}
		id := protocol.CronID(strings.Join(strings.Fields(s.Cron), " "), zone)
		if same, ok := first[id]; ok {
			fail(at(j, "cron"), fmt.Errorf("line %q in this zone is that of %s[%d] already", s.Cron, fieldSchedules, same))
			continue
		}
		first[id] = j
	}
}

// check returns the field that cannot be, and why.
func (s Schedule) check(workflow string) (string, error) {
	if s.Cron == "" {
		return "cron", errors.New("is missing")
	}
	if _, err := cronline.Parse(s.Zone, s.Cron); err != nil {
		refused, ok := errors.AsType[*cronline.LineError](err)
		if ok && refused.Field == "" && refused.Line == s.Cron && isUnknown(s.Zone) {
			return "zone", err
		}
		return "cron", err
	}
	if len(s.Params) > protocol.InlinePayload {
		return "params", fmt.Errorf("%d bytes of JSON; allowed are %d", len(s.Params), protocol.InlinePayload)
	}
	if len(s.Params) > 0 && !json.Valid(s.Params) {
		return "params", errors.New("is no JSON")
	}
	row := s.Row(workflow, time.Unix(0, 0)) // whether it is over is not the question
	plan, err := moments.Of(&row)
	if err == nil {
		err = plan.CheckMoments()
	}
	if refused, ok := errors.AsType[*moments.FieldError](err); ok {
		return refused.Field, fmt.Errorf("%s: %s", refused.Value, refused.Reason)
	}
	return "cron", err
}

// isUnknown reports whether no line is right in the zone.
func isUnknown(zone string) bool {
	_, err := cronline.Parse(zone, "@hourly")
	return err != nil
}
