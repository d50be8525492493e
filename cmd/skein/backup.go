package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/backup"
	"github.com/skein-run/skein/internal/process"
)

// progressEvery is how often a long command says how far it is.
const progressEvery = 2 * time.Second

// teller says on stderr how far something is, now and then.
type teller struct {
	out  io.Writer
	told time.Time
}

func (t *teller) tell(text string) {
	if time.Since(t.told) >= progressEvery {
		t.told = time.Now()
		fmt.Fprintln(t.out, text)
	}
}

func (t *teller) progress(what string, done, of int) {
	if of == 0 {
		t.tell(fmt.Sprintf("%s: %d", what, done))
		return
	}
	t.tell(fmt.Sprintf("%s: %d of %d", what, done, of))
}

type backupCommand struct {
	clusterCommand
	projects []string
}

func newBackup() *cobra.Command {
	b := &backupCommand{}
	cmd := &cobra.Command{
		Use:   "backup FOLDER",
		Short: "Copy projects into a folder, while everything works",
		Long: "Copies all streams and buckets of all projects, or of some, into a folder that is made, or empty. Whatever was acknowledged\n" +
			"before the command began is in it; runners, hosts and schedulers go on working. `skein backup verify` says whether such a\n" +
			"folder is whole, `skein restore` puts it into an empty cluster.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return b.run(cmd, func(ctx context.Context, c *cluster) error { return b.create(ctx, cmd, c, args[0]) })
		},
	}
	b.define(cmd)
	cmd.Flags().StringArrayVar(&b.projects, "project", nil, "a project to copy; several times (default: all)")
	cmd.AddCommand(newBackupVerify())
	return cmd
}

func (b *backupCommand) create(ctx context.Context, cmd *cobra.Command, c *cluster, dir string) error {
	t := teller{out: cmd.ErrOrStderr(), told: time.Now()}
	m, err := backup.Create(ctx, backup.Options{
		JS: c.js, Store: c.store, Dir: dir, Projects: b.projects,
		Progress: func(stream string, messages int) { t.tell(fmt.Sprintf("%s: %d messages", stream, messages)) },
	})
	if _, ok := errors.AsType[*backup.UnknownProjectError](err); ok {
		err = process.WithHint(err, "check the name and the server; a project has streams when one of its programs first runs")
	}
	if err != nil {
		return err
	}
	if b.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(m)
	}
	messages, size := uint64(0), int64(0)
	for _, s := range m.Streams {
		messages, size = messages+s.Messages, size+s.Size
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d messages of %d streams, %s, in %s; what was acknowledged before %s is in it\n",
		dir, strings.Join(m.Projects, ", "), messages, len(m.Streams), readable(size), m.Ended.Sub(m.Began).Round(time.Millisecond),
		m.Began.Format(time.RFC3339))
	return err
}

// wrongError says that a backup is not whole, or that not all of it could be put right.
type wrongError struct{ error }

func (e *wrongError) Unwrap() error { return e.error }

// ExitCode tells it from what could not be found out.
func (e *wrongError) ExitCode() int { return exitLeft }

func newBackupVerify() *cobra.Command {
	v := &clusterCommand{}
	scratch := ""
	cmd := &cobra.Command{
		Use:   "verify FOLDER",
		Short: "Say whether a backup is whole, and what it holds",
		Long: "Reads all files of a backup, then restores it into a NATS server of its own, within this command, and reads all instances\n" +
			"and agents there. No other server is asked. The exit code is 0 if the backup is whole, 3 if it is damaged or something in it\n" +
			"cannot be read, and 1 if that could not be found out.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(v.output); err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return verify(ctx, cmd, v.output, args[0], scratch)
		},
	}
	v.defineOutput(cmd)
	cmd.Flags().StringVar(&scratch, "scratch", "", "folder for what is restored meanwhile (default: that of the system for temporary files)")
	return cmd
}

func verify(ctx context.Context, cmd *cobra.Command, output, dir, scratch string) error {
	t := teller{out: cmd.ErrOrStderr(), told: time.Now()}
	v, err := backup.Verify(ctx, backup.VerifyOptions{Dir: dir, Scratch: scratch, Progress: t.progress})
	if _, ok := errors.AsType[*backup.DamagedError](err); ok {
		return &wrongError{process.WithHint(err, "take another backup; what is damaged is not restored")}
	}
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if output == "json" {
		err = json.NewEncoder(out).Encode(v)
	} else {
		err = tellVerified(out, dir, v)
	}
	if err == nil && !v.Whole() {
		err = &wrongError{fmt.Errorf("backup %s: %d things in it cannot be read or put right", dir, len(v.Problems)+v.Left)}
	}
	return err
}

func tellVerified(out io.Writer, dir string, v *backup.Verified) error {
	total := 0
	var states []string
	for _, state := range slices.Sorted(maps.Keys(v.States)) {
		total += v.States[state]
		states = append(states, fmt.Sprintf("%d %s", v.States[state], state))
	}
	for _, p := range v.Problems {
		fmt.Fprintln(out, p)
	}
	tellRepaired(out, v.Restored)
	_, err := fmt.Fprintf(out, "%s: of %s, %s; %d messages of %d streams, %d instances (%s), %d agents\n", dir,
		v.Manifest.Began.Format(time.RFC3339), strings.Join(v.Manifest.Projects, ", "), v.Messages, v.Streams, total,
		orNone(strings.Join(states, ", ")), v.Agents)
	return err
}

// tellRepaired says what a restore has put right, and what not.
func tellRepaired(out io.Writer, r *backup.Restored) {
	for _, f := range r.Findings {
		done := "put right: " + f.Repaired
		if f.Repaired == "" {
			done = "left: " + f.Remedy + f.Failed
		}
		fmt.Fprintf(out, "%s  %s\n    %s\n    %s\n", f.Kind, f.Subject, f.Problem, done)
	}
}
