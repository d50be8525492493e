package history

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrViolated says that something was found.
var ErrViolated = errors.New("promises are broken")

// Main checks what a run has left behind, on servers that still have it: `check -nats URL -notes DIR`. It writes what it finds to
// out; the error is ErrViolated if that is anything.
func Main(ctx context.Context, args []string, out, logs io.Writer) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	url := flags.String("nats", nats.DefaultURL, "the NATS servers, separated by commas")
	folder := flags.String("notes", "", "the folder of the notes")
	patience := flags.Duration("patience", 5*time.Minute, "for how long what is runnable may take to finish")
	skew := flags.Duration("skew", 0, "the most by which the clock of a machine was off at any time")
	asJSON := flags.Bool("json", false, "write the report as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *folder == "" {
		return errors.New("-notes: the folder of the notes is missing")
	}
	nc, err := nats.Connect(*url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", *url, err)
	}
	defer nc.Close()
	report, err := Check(ctx, Options{NC: nc, Notes: *folder, Patience: *patience, Clocks: clocks(*skew), Log: slog.New(slog.NewTextHandler(logs, nil))})
	if err != nil {
		return err
	}
	if *asJSON {
		err = json.NewEncoder(out).Encode(report)
	} else {
		err = report.Write(out)
	}
	if err == nil && len(report.Violations) > 0 {
		err = ErrViolated
	}
	return err
}

// clocks are two that were off all the time, one ahead and one behind.
func clocks(most time.Duration) []Clock {
	to := time.Now().Add(time.Hour)
	return []Clock{{To: to, Off: most}, {To: to, Off: -most}}
}

// Write writes the report for people.
func (r Report) Write(out io.Writer) error {
	for _, what := range slices.Sorted(maps.Keys(r.Counts)) {
		if _, err := fmt.Fprintf(out, "%8d  %s\n", r.Counts[what], what); err != nil {
			return err
		}
	}
	for _, v := range r.Violations {
		if _, err := fmt.Fprintln(out, v); err != nil {
			return err
		}
		for _, line := range v.Around {
			if _, err := fmt.Fprintln(out, "    "+line); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(out, "violations: %d\n", len(r.Violations))
	return err
}
