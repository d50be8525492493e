//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/skein-run/skein/test/lab/faults"
	"github.com/skein-run/skein/test/lab/history"
	"github.com/skein-run/skein/test/lab/load"
)

// report is what a run tells.
type report struct {
	Seed       uint64         `json:"seed"`
	Instances  int            `json:"instances"`
	Seconds    float64        `json:"seconds"`
	Load       load.Report    `json:"load"`
	LongestGap time.Duration  `json:"longest_gap_ns"`
	Faults     []faults.Event `json:"faults"`
	// Without are the kinds that were left out.
	Without []string `json:"without,omitempty"`
	// Happened counts the faults of each kind that happened.
	Happened map[string]int `json:"happened"`
	// Lost is what losses of power took back.
	Lost string `json:"lost_by_power_off"`
	// Violations are what contradicts a promise. There must be none.
	Violations []history.Violation `json:"violations"`
	// NotJudged says why the history was not judged; empty if it was.
	NotJudged string `json:"not_judged,omitempty"`
	// Findings are servers that NATS did not mend by itself.
	Findings []finding `json:"findings,omitempty"`
	// Counts is how much of what was checked.
	Counts map[string]int `json:"counts"`
	// Ends are ends of processes that nobody had asked for, by process.
	Ends map[string][]string `json:"unasked_ends"`
}

// tell writes the report, and returns an error if anything is wrong.
func (l *laboratory) tell() error {
	r := &l.report
	r.Without = l.without
	r.Seed, r.Instances, r.Seconds, r.Lost = l.seed, l.instances, time.Since(l.began).Seconds(), l.inject.Lost().String()
	r.Happened, r.Ends = map[string]int{}, map[string][]string{}
	var wrong []error
	for _, e := range r.Faults {
		if e.Failed != "" {
			wrong = append(wrong, fmt.Errorf("fault %d (%v): %s", e.Number, e.Fault, e.Failed))
			continue
		}
		r.Happened[e.Kind]++
	}
	if n := len(r.Violations); n > 0 {
		wrong = append(wrong, fmt.Errorf("%d violations", n))
	}
	for _, p := range l.world.Processes() {
		line, err := crash(p.Log())
		if err == nil && line != "" {
			err = fmt.Errorf("%s has crashed: %s; see %s", p.Name, line, p.Log())
		}
		wrong = append(wrong, err)
		if ends := p.Unexpected(); len(ends) > 0 {
			r.Ends[p.Name] = ends
		}
	}
	if l.json {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return errors.Join(append(wrong, encoder.Encode(r))...)
	}
	l.table()
	return errors.Join(wrong...)
}

func (l *laboratory) table() {
	r := &l.report
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "FAULT\tHAPPENED\n")
	for _, kind := range faults.Kinds() {
		if slices.Contains(r.Without, kind) {
			fmt.Fprintf(w, "%s\tleft out\n", kind)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\n", kind, r.Happened[kind])
	}
	fmt.Fprintf(w, "\nlongest gap\t%v\n", r.LongestGap.Round(time.Millisecond))
	fmt.Fprintf(w, "by loss of power\t%s\n", r.Lost)
	for _, counts := range []map[string]int{r.Load, r.Counts} {
		for _, what := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(w, "%s\t%d\n", what, counts[what])
		}
	}
	for _, v := range r.Violations {
		fmt.Fprintf(w, "VIOLATION\t%v\n", v)
		for _, line := range v.Around {
			fmt.Fprintf(w, "\t  %s\n", line)
		}
	}
	if r.NotJudged != "" {
		fmt.Fprintf(w, "NOT JUDGED\t%s\n", r.NotJudged)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "FINDING\t%v\n", f)
	}
	for name, ends := range r.Ends {
		fmt.Fprintf(w, "ended by itself\t%s, %d times, last: %s\n", name, len(ends), ends[len(ends)-1])
	}
}

// crash finds the line of a log in which a program says that it is broken.
func crash(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		for _, word := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
			if strings.HasPrefix(lines.Text(), word) {
				return lines.Text(), nil
			}
		}
	}
	return "", lines.Err()
}
