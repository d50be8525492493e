// Package process is what all servers of Skein share: settings, log, connection to NATS, health, metrics, signals and an
// ordered end. It exists so that each of them is a few lines and all of them are operated alike.
//
// It must never know what a server does, and it must never end the process while work may still be handed back, unless
// a second signal or the end of the grace period demands it.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/logkey"
)

// Spec describes a server.
type Spec struct {
	// Use is the name of the command, and of its connections.
	Use   string
	Short string
	Long  string
	// Settings names those beyond the common ones that the server listens to: SettingSlots, SettingHTTPAddr.
	Settings []string
	// Parts are what Run says to be ready when it is. Until then the server is not: it may be asked before Run begins. If it serves
	// several accounts of NATS, Run names the parts.
	Parts []string
	// File returns the settings of the config file; those not in it are zero. Nil: there is no config file.
	File func() (Settings, error)
	// Run does the work until ctx is done, hands back what it holds and returns.
	Run func(ctx context.Context, env *Env) error
}

// Env is what a server gets.
type Env struct {
	// Name is the Use of the Spec.
	Name     string
	Settings Settings
	Log      *slog.Logger
	// NC and JS are nil if the server serves several accounts of NATS: it connects to each.
	NC     *nats.Conn
	JS     jetstream.JetStream
	Health *Health
	// Metrics takes what the server counts; it is served with what every process counts.
	Metrics prometheus.Registerer
}

// Command makes the command of a server. It can stand alone (see Main) or below another command. It logs to the
// command's error stream.
func Command(spec Spec) *cobra.Command {
	cmd := &cobra.Command{
		Use:           spec.Use,
		Short:         spec.Short,
		Long:          spec.Long,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := defineFlags(cmd.Flags(), spec.Settings)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return WithHint(err, "see "+cmd.CommandPath()+" --help")
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := resolve(spec.File, flags)
		if err != nil {
			return err
		}
		log, err := NewLogger(cmd.ErrOrStderr(), settings)
		if err != nil {
			return err
		}
		return run(cmd.Context(), spec, settings, log)
	}
	return cmd
}

// Main runs a command as the whole program.
func Main(cmd *cobra.Command) {
	os.Exit(Execute(context.Background(), cmd))
}

// Execute runs a command and reports its error to the command's error stream. It returns the exit code: 1 for an error
// that has none of its own.
func Execute(ctx context.Context, cmd *cobra.Command) int {
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	Report(cmd.ErrOrStderr(), err)
	if own, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		return own.ExitCode()
	}
	return 1
}

// Report writes err for people, with what to do next if the error knows.
func Report(w io.Writer, err error) {
	fmt.Fprintf(w, "error: %v\n", err)
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		fmt.Fprintf(w, "next: %s\n", h.Hint())
	}
}

// WithHint adds to err what a person can do about it.
func WithHint(err error, hint string) error { return &hinted{err: err, hint: hint} }

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }
func (h *hinted) Hint() string  { return h.hint }

// run is the life of a server. What is deferred here ends in this order: connection, health, signals. So until the
// last moment the health is told and a second signal is heard.
func run(parent context.Context, spec Spec, settings Settings, log *slog.Logger) (err error) {
	ctx, stopSignals := withSignals(parent, log)
	defer stopSignals()
	collectLessOften()
	health := NewHealth()
	if settings.NATSUsers == "" {
		health.Expect(partNATS)
		health.Expect(spec.Parts...)
	}
	metrics := newMetrics()
	stopHealth, err := serveHealth(ctx, settings.HealthAddr, pages(health, metrics), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopHealth()) }()
	env := &Env{Name: spec.Use, Settings: settings, Log: log, Health: health, Metrics: metrics}
	if settings.NATSUsers == "" {
		if err := env.connect(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // told to stop while it waited for the server
			}
			return err
		}
		defer CloseConn(ctx, env.NC, log)
	}
	return runGracefully(ctx, spec.Run, env)
}

// connect is for a server of one account.
func (e *Env) connect(ctx context.Context) (err error) {
	if e.NC, err = Connect(ctx, e.Name, e.Settings, e.Log); err != nil {
		return err
	}
	if e.JS, err = jetstream.New(e.NC); err != nil {
		return err
	}
	e.Health.Check(partNATS, func() error {
		if !e.NC.IsConnected() {
			return errors.New("not connected")
		}
		return nil
	})
	return nil
}

// ErrGrace is wrapped if a server was told to stop and did not within its grace period.
var ErrGrace = errors.New("shutdown_grace is over and not everything was handed back")

// runGracefully gives work that was told to stop the grace period and no more.
func runGracefully(ctx context.Context, work func(context.Context, *Env) error, env *Env) error {
	done := make(chan error, 1)
	go func() { done <- work(ctx, env) }() // waited for below, unless the grace period ends: then the process does
	select {
	case err := <-done:
		return ended(ctx, err)
	case <-ctx.Done():
	}
	env.Health.Stop()
	env.Log.InfoContext(ctx, "stopping", slog.Any(logkey.Cause, context.Cause(ctx)))
	grace := time.NewTimer(time.Duration(env.Settings.ShutdownGrace))
	defer grace.Stop()
	select {
	case err := <-done:
		env.Log.InfoContext(ctx, "stopped")
		return ended(ctx, err)
	case <-grace.C:
		return fmt.Errorf("%w after %s", ErrGrace, env.Settings.ShutdownGrace)
	}
}

// ended drops the error that only says that the server did as it was told.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}
