package crontab

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Changed says what an update has changed, by the fields of skein.jsonc: "jitter 5m0s→9m0s, until added". Of params it does
// not say what they are: they can be long, and secret.
func (c Change) Changed() string {
	if c.Did != Updated {
		return ""
	}
	var all []string
	for _, f := range []struct{ name, was, is string }{
		{"params", params(c.Was), params(c.Row)},
		{"jitter", jitter(c.Was), jitter(c.Row)},
		{"from", moment(c.Was.From), moment(c.Row.From)},
		{"until", moment(c.Was.Until), moment(c.Row.Until)},
		{"times", times(c.Was), times(c.Row)},
		{"catch_up", catchUp(c.Was), catchUp(c.Row)},
		{"overlap", string(c.Was.Overlap), string(c.Row.Overlap)},
	} {
		switch {
		case f.was == f.is:
		case f.was == "":
			all = append(all, f.name+" added")
		case f.is == "":
			all = append(all, f.name+" removed")
		case f.name == "params":
			all = append(all, f.name)
		default:
			all = append(all, f.name+" "+f.was+"→"+f.is)
		}
	}
	return strings.Join(all, ", ")
}

// What a schedule says, as text; empty if it does not say.

func params(s protocol.Schedule) string {
	if len(s.Payload) == 0 {
		return ""
	}
	text, err := json.Marshal(s.Payload) // the form that is stored
	if err != nil {
		return string(s.Payload)
	}
	return string(text)
}

func jitter(s protocol.Schedule) string {
	if s.Jitter == 0 {
		return ""
	}
	return time.Duration(s.Jitter).String()
}

func moment(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func times(s protocol.Schedule) string {
	if s.Times == 0 {
		return ""
	}
	return strconv.Itoa(s.Times)
}

func catchUp(s protocol.Schedule) string {
	if s.CatchUp == nil {
		return ""
	}
	return strconv.Itoa(*s.CatchUp)
}
