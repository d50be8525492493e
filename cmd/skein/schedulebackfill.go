package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/agent"
)

// orderOf reads the flags of a backfill.
func orderOf(from, until, id string) (order agent.Backfill, err error) {
	if order.From, err = momentFlag("from", from); err != nil {
		return order, err
	}
	if order.Until, err = momentFlag("until", until); err != nil {
		return order, err
	}
	if order.ID = id; id == "" {
		order.ID = uuid.NewString()
	}
	return order, nil
}

func momentFlag(name, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("--%s: %q: wanted is a moment with its zone, as 2026-12-24T18:00:00+01:00 or 2026-12-24T17:00:00Z", name, text)
	}
	return t, nil
}

// listMoments writes what a backfill would fire.
func (s *schedules) listMoments(ctx context.Context, cmd *cobra.Command, all allSchedules, id string, order agent.Backfill) error {
	out, momentsOf := cmd.OutOrStdout(), all.agents.BackfillMoments
	if ofWorkflow(id) {
		momentsOf = all.workflows.BackfillMoments
	}
	planned, err := momentsOf(ctx, id, order)
	if err != nil {
		return err
	}
	if s.output == "json" {
		return json.NewEncoder(out).Encode(map[string]any{"id": id, "moments": append([]time.Time{}, planned...)})
	}
	if len(planned) == 0 {
		return noMoments(cmd, all, id)
	}
	for _, moment := range planned {
		fmt.Fprintln(out, orNever(moment))
	}
	_, err = fmt.Fprintf(out, "%d moments\n", len(planned))
	return err
}

// noMoments says that a range has nothing to fire. That is no error: who fills range after range finds some of them empty.
func noMoments(cmd *cobra.Command, all allSchedules, id string) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: the schedule has no moment in this range\n", id)
	fmt.Fprintf(cmd.ErrOrStderr(), "next: see when it fires with %s\n", all.again("describe", id))
	return err
}

// tellEvery is after how many moments a backfill tells how far it is.
const tellEvery = 500

// fill does a backfill, and tells on stderr how far it is.
func (s *schedules) fill(ctx context.Context, cmd *cobra.Command, all allSchedules, id string, order agent.Backfill) error {
	order.Progress = func(done, of int) {
		if done%tellEvery == 0 && done < of {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d moments\n", done, of)
		}
	}
	done, err := all.of(id).Backfill(ctx, id, order)
	if _, broken := errors.AsType[*agent.BackfillError](err); broken {
		return process.WithHint(err, all.again("backfill", id,
			"--from", order.From.Format(time.RFC3339Nano), "--until", order.Until.Format(time.RFC3339Nano), "--id", order.ID))
	}
	if err != nil {
		return err
	}
	if s.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
			Schedule string `json:"schedule"`
			agent.Backfilled
		}{id, done})
	}
	if done.Moments == 0 {
		return noMoments(cmd, all, id)
	}
	did, there := "sent", ""
	if ofWorkflow(id) {
		did = "started"
	}
	if done.There > 0 {
		there = fmt.Sprintf(", %d had their instance", done.There)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d of %d moments %s%s (order %s)\n", id, done.Sent, done.Moments, did, there, done.ID)
	return err
}
