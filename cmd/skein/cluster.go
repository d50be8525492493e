package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/protocol"
)

// clusterCommand is a command about all that Skein has on a cluster, and not about one project.
type clusterCommand struct {
	nats   map[string]*string
	output string
}

func (c *clusterCommand) define(cmd *cobra.Command) {
	c.nats = map[string]*string{}
	for _, n := range natsSettings {
		c.nats[n.setting] = cmd.Flags().String(strings.ReplaceAll(n.setting, "_", "-"), "", n.usage+" (env "+process.EnvName(n.setting)+")")
	}
	c.defineOutput(cmd)
}

func (c *clusterCommand) defineOutput(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.output, "output", "text", "text or json")
}

// cluster is what such a command works with.
type cluster struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	store *journal.Store
	ask   durability.Options
}

// run connects, and does something until that is done or a signal comes.
func (c *clusterCommand) run(cmd *cobra.Command, do func(context.Context, *cluster) error) (err error) {
	if err := checkOutput(c.output); err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	settings, err := c.settings()
	if err != nil {
		return err
	}
	log, err := process.NewLogger(cmd.ErrOrStderr(), settings)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	nc, err := process.Connect(wait, "skein", settings, log)
	if errors.Is(err, context.DeadlineExceeded) {
		err = process.WithHint(err, "start the NATS server, or name another one with --nats-url")
	}
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := checkPermitted(nc); err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	store, err := journal.Open(nc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	ask := durability.Options{NC: nc, Log: log, Monitor: settings.NATSMonitor, Patience: connectLimit}
	return do(ctx, &cluster{nc: nc, js: js, store: store, ask: ask})
}

// checkPermitted refuses a user who may not even list streams. The server says so before it answers a ping.
func checkPermitted(nc *nats.Conn) error {
	err := errors.Join(nc.PublishRequest(protocol.SubjectStreams, nc.NewInbox(), nil), nc.FlushTimeout(connectLimit))
	if errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
		err = process.WithHint(nc.LastError(), "where users have roles, this needs the admin: --nats-nkey users/admin.nk")
	}
	return err
}

func (c *clusterCommand) settings() (process.Settings, error) {
	var s process.Settings
	s.LogLevel = "warn"
	for setting, flag := range c.nats {
		value, source := *flag, "--"+strings.ReplaceAll(setting, "_", "-")
		if value == "" {
			value, source = os.Getenv(process.EnvName(setting)), process.EnvName(setting)
		}
		if value == "" {
			continue
		}
		if err := s.Set(setting, value); err != nil {
			if wrong, ok := errors.AsType[*process.SettingError](err); ok {
				wrong.Source = source
			}
			return s, err
		}
	}
	s = s.WithDefaults()
	return s, s.Validate()
}

// readable writes a number of bytes.
func readable(bytes int64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	case bytes >= 10<<10:
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d B", bytes)
}
