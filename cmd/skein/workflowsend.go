package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/workflow"
)

func (w *workflows) create() *cobra.Command {
	var id, params string
	cmd := &cobra.Command{
		Use:   "create WORKFLOW",
		Short: "Start an instance",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := jsonFlag(cmd, "params", params)
			if err != nil {
				return err
			}
			return w.of(cmd, args[0], func(ctx context.Context, b bound) error {
				var options []workflow.CreateOption
				if cmd.Flags().Changed("id") {
					options = append(options, workflow.ID(id))
				}
				i, err := b.Create(ctx, value, options...)
				if err != nil {
					return err
				}
				return w.done(cmd.OutOrStdout(), i.ID(), "created")
			})
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "id of the instance; without it, a random UUID")
	cmd.Flags().StringVar(&params, "params", "null", "params as JSON, or - to read them from the input")
	return cmd
}

func (w *workflows) sendEvent() *cobra.Command {
	var payload, eventID string
	cmd := &cobra.Command{
		Use:   "send-event WORKFLOW ID TYPE",
		Short: "Send an event to an instance: its oldest wait for the type takes it, now or later",
		Args:  cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := jsonFlag(cmd, "payload", payload)
			if err != nil {
				return err
			}
			return w.one(cmd, args, func(ctx context.Context, i *instance) error {
				var options []workflow.SendOption
				if cmd.Flags().Changed("event-id") {
					options = append(options, workflow.EventID(eventID))
				}
				if err := i.SendEvent(ctx, args[2], value, options...); err != nil {
					return err
				}
				return w.done(cmd.OutOrStdout(), i.ID(), "sent")
			})
		},
	}
	cmd.Flags().StringVar(&payload, "payload", "null", "payload as JSON, or - to read it from the input")
	cmd.Flags().StringVar(&eventID, "event-id", "", "id of the event: sent again under the same, it is taken once")
	return cmd
}

// done tells what was done.
func (w *workflows) done(out io.Writer, id, what string) error {
	if w.output == "json" {
		return json.NewEncoder(out).Encode(map[string]string{"id": id, "state": what})
	}
	_, err := fmt.Fprintf(out, "%s: %s\n", id, what)
	return err
}

// jsonFlag is the value of a flag that takes JSON.
func jsonFlag(cmd *cobra.Command, name, text string) (json.RawMessage, error) {
	value := []byte(text)
	if text == "-" {
		var err error
		if value, err = io.ReadAll(cmd.InOrStdin()); err != nil {
			return nil, fmt.Errorf("--%s: %w", name, err)
		}
	}
	var checked any
	if err := json.Unmarshal(value, &checked); err != nil {
		return nil, fmt.Errorf("--%s: %s: allowed is JSON, a text in quotes included: %w", name, oneLine(string(value)), err)
	}
	return value, nil
}
