package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	r.writeTimeline(&b)
	r.writeMails(&b)
	fmt.Fprintf(&b, "\nChecks\n")
	for _, f := range r.failures {
		fmt.Fprintf(&b, "  WRONG  %s\n", f)
	}
	table(&b, func(t io.Writer) {
		for _, c := range r.Checks {
			mark := "ok"
			if !c.OK {
				mark = "WRONG"
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\n", mark, c.Name, c.Detail)
		}
	})
	r.writeEnd(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) writeTimeline(b *strings.Builder) {
	if len(r.Timeline) == 0 {
		return
	}
	fmt.Fprintf(b, "\nInstance %s is %s. Its steps, in seconds since the request:\n", r.Instance, r.State)
	table(b, func(t io.Writer) {
		fmt.Fprintf(t, "  begun\tended\tstep\tattempt\trunner\toutcome\n")
		for _, row := range r.Timeline {
			attempt, outcome := "-", row.Outcome
			if row.Attempt > 0 {
				attempt = fmt.Sprint(row.Attempt)
			}
			if row.Error != "" {
				outcome += ": " + row.Error
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", seconds(row.Begun), seconds(row.Ended), row.Step, attempt, row.Runner, outcome)
		}
	})
	fmt.Fprintf(b, "\nRuns\n")
	table(b, func(t io.Writer) {
		for _, run := range r.Runs {
			mark := ""
			if run.Lost {
				mark = "LOST: killed"
			}
			fmt.Fprintf(t, "  %s\t%s (%s)\tby %s\t%s\n", seconds(&run.Begun), run.Runner, run.ID, run.Wake, mark)
		}
	})
}

func (r *Report) writeMails(b *strings.Builder) {
	if len(r.Mails) == 0 {
		return
	}
	fmt.Fprintf(b, "\nMail\n")
	table(b, func(t io.Writer) {
		for _, m := range r.Mails {
			mark := ""
			if m.Repeats {
				mark = "again: its sender was killed before it heard the answer"
			}
			fmt.Fprintf(t, "  %s\t%s\tto %s\t%s\t%s\t%s\n", seconds(&m.At), m.From, m.To, m.Subject, m.MessageID, mark)
		}
	})
}

func (r *Report) writeEnd(b *strings.Builder) {
	fmt.Fprintln(b)
	for _, p := range r.Processes {
		if len(p.Log) > 0 {
			fmt.Fprintf(b, "\nLast lines of %s (process %d, %s):\n  %s\n", p.Name, p.PID, p.End, strings.Join(p.Log, "\n  "))
		}
	}
	if r.Folder != "" {
		fmt.Fprintf(b, "Data and logs are in %s.\n", r.Folder)
	}
	if r.OK {
		fmt.Fprintf(b, "All is well, after %.1fs.\n", r.Seconds)
	}
}

// table aligns cells that end in tabs.
func table(b *strings.Builder, rows func(io.Writer)) {
	var aligned strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	rows(t)
	_ = t.Flush() // a strings.Builder takes everything
	for line := range strings.Lines(aligned.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

func seconds(s *float64) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", *s)
}
