package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/backup"
	"github.com/skein-run/skein/internal/process"
)

type restoreCommand struct {
	clusterCommand
	replicas int
	skip     uint64
}

func newRestore() *cobra.Command {
	r := &restoreCommand{}
	cmd := &cobra.Command{
		Use:   "restore FOLDER",
		Short: "Put a backup into a cluster that has nothing of it",
		Long: "Restores all streams of a backup into a cluster, or an account, that has none of them, looks at them as skein doctor does,\n" +
			"and puts right what is wrong. Nothing is stored before all files were found to be whole. Start runners, hosts and schedulers\n" +
			"afterwards: those that are started before wait. A restore that broke off is repeated with the same command.\n\n" +
			"What was acknowledged after the backup began may be gone: steps that ran since run again, with the same idempotency keys.\n" +
			"If the original still runs, stop it first: else both act, each on its own.\n\n" +
			"The exit code is 0 if all is restored, 3 if the backup is damaged or something could not be put right, and 1 for all else.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.replicas != 0 {
				if err := checkReplicas(r.replicas); err != nil {
					return err
				}
			}
			return r.run(cmd, func(ctx context.Context, c *cluster) error { return r.restore(ctx, cmd, c, args[0]) })
		},
	}
	r.define(cmd)
	cmd.Flags().IntVar(&r.replicas, "replicas", 0, "of the streams: 1, 3 or 5 (default: as many as they had)")
	cmd.Flags().Uint64Var(&r.skip, "skip", backup.DefaultSkip,
		"sequences of each stream to leave out after the last of the backup: more than the original has used since")
	return cmd
}

func checkReplicas(n int) error {
	if n != 1 && n != 3 && n != 5 {
		return fmt.Errorf("--replicas: %d: allowed are 1, 3 and 5", n)
	}
	return nil
}

func (r *restoreCommand) restore(ctx context.Context, cmd *cobra.Command, c *cluster, dir string) error {
	t := teller{out: cmd.ErrOrStderr(), told: time.Now()}
	began := time.Now()
	done, err := backup.Restore(ctx, backup.RestoreOptions{
		JS: c.js, Store: c.store, Dir: dir, Replicas: r.replicas, Skip: r.skip, Progress: t.progress,
	})
	if _, ok := errors.AsType[*backup.DamagedError](err); ok {
		return &wrongError{process.WithHint(err, "nothing was restored; take another backup")}
	}
	_, exists := errors.AsType[*backup.ExistsError](err)
	_, unreleased := errors.AsType[*backup.ReleaseError](err)
	if err != nil && !exists && !unreleased {
		return process.WithHint(err, "mend that, and repeat the command: what it has restored so far it takes away again; until then no process works with it")
	}
	if exists {
		return err
	}
	out := cmd.OutOrStdout()
	if r.output == "json" {
		err = errors.Join(err, json.NewEncoder(out).Encode(done))
	} else {
		tellRepaired(out, done)
	}
	if err != nil {
		return err // what was found is told all the same: it is not looked for again
	}
	if r.output != "json" {
		tellRestored(out, done, time.Since(began))
	}
	if done.Left > 0 {
		return &wrongError{process.WithHint(fmt.Errorf("%d findings could not be put right", done.Left), "all is restored; docs/operations.md says what each kind of finding means")}
	}
	return nil
}

func tellRestored(out io.Writer, done *backup.Restored, took time.Duration) {
	of := fmt.Sprintf("%s as of %s", strings.Join(done.Manifest.Projects, ", "), done.Manifest.Began.Format(time.RFC3339))
	if done.Released > 0 {
		fmt.Fprintf(out, "released %s: %d streams that a restore before had left; what it found it has told\n", of, done.Released)
	} else {
		fmt.Fprintf(out, "restored %s: %d messages of %d streams, %d instances, in %s\n", of, done.Messages, done.Streams, done.Instances, took.Round(time.Millisecond))
	}
	fmt.Fprintln(out, "start its schedulers, runners and hosts now; if the original still runs anywhere, stop it first: both would act")
}
