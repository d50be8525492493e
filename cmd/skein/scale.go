package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/replicas"
)

type scaleCommand struct {
	clusterCommand
	options replicas.Options
}

func newScale() *cobra.Command {
	s := &scaleCommand{}
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Keep streams on more servers, while everything works, or on fewer",
		Long: "Changes how many servers keep a copy of each stream of all projects, or of some, and of the streams that all projects share,\n" +
			"and waits until the copies are whole. Runners, hosts and schedulers go on working; their --replicas only counts for streams\n" +
			"that they make. If it breaks off, repeat it.\n" +
			"To have fewer copies than now (--fewer), stop all runners, hosts and schedulers first: instances that are under way meanwhile\n" +
			"may stand still for ever. It is refused while processes are seen to wait for work.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkReplicas(s.options.Replicas); err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *cluster) error { return s.scale(ctx, cmd, c) })
		},
	}
	s.define(cmd)
	cmd.Flags().IntVar(&s.options.Replicas, "replicas", 0, "1, 3 or 5")
	cmd.Flags().StringArrayVar(&s.options.Projects, "project", nil, "a project; several times (default: all)")
	cmd.Flags().BoolVar(&s.options.Fewer, "fewer", false, "do it also if streams have more replicas now; all processes of Skein must be stopped")
	return cmd
}

// scaled is what --output json tells.
type scaled struct {
	Streams    []string `json:"streams"`
	Replicas   int      `json:"replicas"`
	Durability string   `json:"durability"`
}

func (s *scaleCommand) scale(ctx context.Context, cmd *cobra.Command, c *cluster) error {
	t := teller{out: cmd.ErrOrStderr(), told: time.Now()}
	var seen durability.Streams
	o := s.options
	o.JS, o.Store, o.Found, o.Progress = c.js, c.store, seen.Add, t.progress
	began := time.Now()
	names, err := replicas.Scale(ctx, o)
	if err != nil {
		return err
	}
	line := durability.Look(ctx, c.ask, &seen).Line()
	if s.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(scaled{Streams: names, Replicas: o.Replicas, Durability: line})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d streams have %d replicas, after %s; what they hold %s\n", len(names), o.Replicas,
		time.Since(began).Round(time.Millisecond), line)
	return err
}
