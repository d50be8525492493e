package demo

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/examples/flightdesk"
	"github.com/skein-run/skein/pkg/protocol"
)

// Report is what the demo shows. All moments are seconds since the request to the agent.
type Report struct {
	OK bool `json:"ok"`
	// Problems say what went wrong: on the way, and in the checks.
	Problems []string       `json:"problems,omitempty"`
	Seconds  float64        `json:"seconds"`
	Instance string         `json:"instance,omitempty"`
	State    protocol.State `json:"state,omitempty"`
	Timeline []Row          `json:"timeline,omitempty"`
	Runs     []Activation   `json:"runs,omitempty"`
	Mails    []SentMail     `json:"mails,omitempty"`
	// Agent is the state of the agent as it told it last.
	Agent     flightdesk.Desk `json:"agent"`
	Processes []Process       `json:"processes,omitempty"`
	Checks    []Check         `json:"checks"`
	// Folder has the server's data and the logs, if they are kept.
	Folder string `json:"folder,omitempty"`

	// failures are the problems on the way.
	failures []string
}

// Row is one attempt of a step, or one wait.
type Row struct {
	Begun *float64 `json:"begun,omitempty"`
	Ended *float64 `json:"ended,omitempty"`
	Step  string   `json:"step"`
	// Attempt counts from 1; 0 is a wait.
	Attempt int    `json:"attempt,omitempty"`
	Runner  string `json:"runner"`
	// Outcome is completed, failed, lost (killed with its runner), slept, received, or that the wait goes on.
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
}

// Activation is one time that a runner had the instance.
type Activation struct {
	Begun  float64 `json:"begun"`
	Runner string  `json:"runner"`
	ID     string  `json:"id"`
	// Wake is the message that made the runner take the instance.
	Wake string `json:"wake"`
	Lost bool   `json:"lost"`
}

// SentMail is a mail with its moment.
type SentMail struct {
	At float64 `json:"at"`
	Mail
}

// Process is one of the demo's processes.
type Process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// End is "stopped" or "killed".
	End string `json:"end"`
	// Log is the end of its log, if the demo failed.
	Log []string `json:"log,omitempty"`
}

// report judges the evidence and writes it down.
func (d *demo) report(e evidence) *Report {
	r := &Report{
		Seconds: round(e.took), State: e.status.State, Agent: e.desk, Checks: check(e),
		Timeline: d.timeline(e), Runs: d.runs(e),
	}
	if err := errors.Join(e.failures...); err != nil {
		r.failures = strings.Split(err.Error(), "\n")
	}
	r.Problems = slices.Clone(r.failures)
	for _, c := range r.Checks {
		if !c.OK {
			r.Problems = append(r.Problems, c.Name+": "+c.Detail)
		}
	}
	r.OK = len(r.Problems) == 0
	if e.instance != nil {
		r.Instance = e.instance.ID()
	}
	for _, m := range e.mails {
		r.Mails = append(r.Mails, SentMail{At: e.since(m.At), Mail: m})
	}
	for _, c := range d.children() {
		p := Process{Name: c.name, PID: c.pid(), End: "stopped"}
		if c.killed {
			p.End = "killed"
		}
		if !r.OK {
			p.Log = lastLines(c.tap.file.Name(), tailLines)
		}
		r.Processes = append(r.Processes, p)
	}
	if d.Keep {
		r.Folder = d.dir
	}
	return r
}

// since is a moment of the report.
func (e evidence) since(t time.Time) float64 { return round(t.Sub(e.requested)) }

func round(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

func (e evidence) moment(t *time.Time) *float64 {
	if t == nil {
		return nil
	}
	s := e.since(*t)
	return &s
}

func (d *demo) runs(e evidence) []Activation {
	var runs []Activation
	for _, r := range e.status.Runs {
		runs = append(runs, Activation{Begun: e.since(r.Time), Runner: d.runnerName(r.Runner), ID: r.Runner, Wake: r.Wake, Lost: r.Lost})
	}
	return runs
}

// timeline lists attempts and waits in the order in which they began.
func (d *demo) timeline(e evidence) []Row {
	var rows []Row
	for _, s := range e.status.Steps {
		if s.Op != protocol.OpDo {
			rows = append(rows, d.wait(e, s))
			continue
		}
		for _, a := range s.Attempts {
			row := Row{
				Begun: e.moment(a.Started), Ended: e.moment(a.Finished), Step: s.Name, Attempt: a.Attempt,
				Runner: d.runnerName(a.Runner), Outcome: fate(a),
			}
			if a.Error != nil {
				row.Error = a.Error.Message
			}
			if row.Outcome == "lost" && a.Runner == e.killed {
				row.Ended = e.moment(&e.killedAt)
			}
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b Row) int {
		if a.Begun == nil || b.Begun == nil {
			return 0
		}
		return cmp.Compare(*a.Begun, *b.Begun)
	})
	return rows
}

// wait finds in the log when a wait began and ended, and which runner saw to its end.
func (d *demo) wait(e evidence, s protocol.StepStatus) Row {
	row := Row{Step: s.Name, Outcome: s.State}
	for _, a := range e.log {
		for _, entry := range a.Entries {
			if entry.Step == nil || *entry.Step != s.Key {
				continue
			}
			if entry.Kind == protocol.EntryWaiting {
				row.Begun = e.moment(&a.Time)
			}
			if isOutcome(entry.Kind) {
				row.Ended, row.Outcome = e.moment(&a.Time), string(entry.Kind)
			}
			row.Runner = d.runnerName(a.Runner)
		}
	}
	return row
}
