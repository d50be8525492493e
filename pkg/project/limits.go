package project

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tailscale/hujson"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/protocol"
)

// Fields of a workflow, as they stand in skein.jsonc. Their names are those of Cloudflare's wrangler.jsonc.
const (
	fieldStepLimit        = "limits.steps"
	fieldStateLimit       = "limits.state"
	fieldConcurrency      = "concurrency.limit"
	fieldSuccessRetention = "default_retention.success_retention"
	fieldErrorRetention   = "default_retention.error_retention"
)

// workflow parses one entry of the array workflows.
func (p *parser) workflow(v *hujson.Value, path string, w *Workflow) {
	texts := []string{"name", "binding", "class_name", "script_name"}
	into := []*string{&w.Name, &w.Binding, &w.ClassName, &w.ScriptName}
	allowed := append(slices.Clone(texts), "limits", "concurrency", "default_retention", fieldSchedules)
	p.object(v, path, allowed, func(name, path string, v *hujson.Value) {
		switch name {
		case "limits":
			p.object(v, path, []string{"steps", "state"}, func(name, path string, v *hujson.Value) {
				if name == "steps" {
					p.count(v, path, &w.StepLimit)
				} else {
					p.size(v, path, &w.StateLimit)
				}
			})
		case "concurrency":
			p.object(v, path, []string{"limit"}, func(_, path string, v *hujson.Value) { p.count(v, path, &w.Concurrency) })
		case "default_retention":
			p.object(v, path, []string{"success_retention", "error_retention"}, func(name, path string, v *hujson.Value) {
				if name == "success_retention" {
					p.duration(v, path, &w.Retention.Success)
				} else {
					p.duration(v, path, &w.Retention.Error)
				}
			})
		case fieldSchedules:
			p.schedules(v, path, &w.Schedules)
		default:
			p.text(v, path, into[slices.Index(texts, name)])
		}
	})
}

// count parses a number that must be set if it is there: 0 would mean that it is not.
func (p *parser) count(v *hujson.Value, path string, into *int) {
	literal, ok := v.Value.(hujson.Literal)
	if !ok || literal.Kind() != '0' {
		p.wrongType(v, path, "a number")
		return
	}
	n, err := strconv.Atoi(string(literal))
	if err != nil || n < 1 {
		p.fail(v.StartOffset, path, fmt.Errorf("%s: allowed are whole numbers of at least 1", literal))
		return
	}
	*into = n
}

// size parses a number of bytes that must be set if it is there.
func (p *parser) size(v *hujson.Value, path string, into *int64) {
	var text string
	before := len(p.errs)
	if p.text(v, path, &text); len(p.errs) > before {
		return
	}
	size, ok := process.ParseSize(text)
	if !ok || size == 0 {
		p.fail(v.StartOffset, path, fmt.Errorf(`%q: allowed are sizes as in "512MiB" and "2GiB"`, text))
		return
	}
	*into = int64(size)
}

func (p *parser) duration(v *hujson.Value, path string, into *protocol.Duration) {
	var text string
	before := len(p.errs)
	if p.text(v, path, &text); len(p.errs) > before {
		return
	}
	d, err := parseDuration(text)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%q: must be more than 0; leave the field out for the default", text)
	}
	if err != nil {
		p.fail(v.StartOffset, path, err)
		return
	}
	*into = protocol.Duration(d)
}

// parseDuration reads "36h", "1h30m" and "30 days".
func parseDuration(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	units := map[string]time.Duration{
		"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour,
	}
	number, unit, _ := strings.Cut(text, " ")
	n, err := strconv.ParseUint(number, 10, 31)
	base, ok := units[strings.TrimSuffix(unit, "s")]
	if err != nil || !ok || n > uint64(math.MaxInt64/base) {
		return 0, fmt.Errorf(`%q: allowed are durations as in "36h" and "30 days"`, text)
	}
	return time.Duration(n) * base, nil
}

// checkLimits checks what the owner of a workflow may set.
func (c *Config) checkLimits(i int, fail func(field string, err error)) {
	w := c.Workflows[i]
	at := func(field string) string { return fmt.Sprintf("workflows[%d].%s", i, field) }
	if w.StepLimit < 0 || w.StepLimit > protocol.MaxStepLimit {
		fail(at(fieldStepLimit), fmt.Errorf("%d: allowed is 1 to %d", w.StepLimit, protocol.MaxStepLimit))
	}
	if w.StateLimit != 0 && (w.StateLimit < protocol.MinStateLimit || w.StateLimit > protocol.MaxStateLimit) {
		fail(at(fieldStateLimit), fmt.Errorf("%s: allowed is %s to %s",
			process.Size(w.StateLimit), process.Size(protocol.MinStateLimit), process.Size(protocol.MaxStateLimit)))
	}
	if w.Concurrency < 0 || w.Concurrency > protocol.MaxConcurrency {
		fail(at(fieldConcurrency), fmt.Errorf("%d: allowed is 1 to %d", w.Concurrency, protocol.MaxConcurrency))
	}
	for _, kept := range []struct {
		field string
		d     protocol.Duration
	}{{fieldSuccessRetention, w.Retention.Success}, {fieldErrorRetention, w.Retention.Error}} {
		if d := time.Duration(kept.d); d < 0 || d > protocol.MaxRetention {
			fail(at(kept.field), fmt.Errorf("%s: allowed is at most %s", d, protocol.MaxRetention))
		}
	}
}

// checkForeign refuses what only the owner of a workflow may set: here it would do nothing.
func (c *Config) checkForeign(i int, fail func(field string, err error)) {
	w := c.Workflows[i]
	for _, set := range []struct {
		field string
		is    bool
	}{
		{fieldStepLimit, w.StepLimit != 0}, {fieldStateLimit, w.StateLimit != 0}, {fieldConcurrency, w.Concurrency != 0},
		{fieldSuccessRetention, w.Retention.Success != 0}, {fieldErrorRetention, w.Retention.Error != 0},
		{fieldSchedules, len(w.Schedules) > 0},
	} {
		if set.is {
			fail(fmt.Sprintf("workflows[%d].%s", i, set.field), fmt.Errorf("%w %q", errForeign, w.ScriptName))
		}
	}
}

var errForeign = errors.New("can be set only by the project that owns the workflow,")
