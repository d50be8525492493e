package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/dev"
	"github.com/skein-run/skein/internal/process"
)

func newDev() *cobra.Command {
	o := dev.Options{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a NATS server and a scheduler to try projects out",
		Long: "Run a NATS server with JetStream, its data in a folder, and a scheduler, both in this process.\n" +
			"The server listens on 127.0.0.1 only. It is for development: it has no users, no passwords and no replicas.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Port == 0 {
				return fmt.Errorf("--port: 0: allowed is 1 to 65535")
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			settings := process.Defaults()
			settings.LogLevel = "warn"
			log, err := process.NewLogger(cmd.ErrOrStderr(), settings)
			if err != nil {
				return err
			}
			o.Out, o.Log = cmd.OutOrStdout(), log
			return dev.Run(ctx, o)
		},
	}
	cmd.Flags().IntVar(&o.Port, "port", dev.DefaultPort, "port of the NATS server")
	cmd.Flags().StringVar(&o.Dir, "data", dev.DefaultDir, "folder with the data of the NATS server")
	return cmd
}
