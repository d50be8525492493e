// Package dev runs in one process what projects need to be tried out: a NATS server with its data in a folder, and a
// scheduler.
//
// It must never listen on anything but loopback, and it must never let two servers use the same data.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/protocol"
)

// Defaults of Options.
const (
	DefaultPort = 4222
	DefaultDir  = ".skein"
)

// Options are the choices of whoever starts it.
type Options struct {
	// Port of the NATS server; 0 is any that is free.
	Port int
	// Dir is the data folder.
	Dir string
	// Out gets what people should know, Log what befalls server and scheduler.
	Out io.Writer
	Log *slog.Logger
	// Started is called with the server's URL when everything runs. Nil: nobody is told.
	Started func(url string)
}

// Run serves until ctx ends, then stops scheduler and server, in this order.
func Run(ctx context.Context, o Options) (err error) {
	n, err := StartNATS(o.Port, o.Dir, o.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Stop()) }()
	nc, err := process.Connect(ctx, "scheduler", process.Settings{NATSURL: n.URL()}, o.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return schedule(ctx, nc, o.Log) })
	fmt.Fprint(o.Out, welcome(n.URL(), n.Dir, o.Port != DefaultPort))
	if o.Started != nil {
		o.Started(n.URL())
	}
	err = group.Wait()
	fmt.Fprintf(o.Out, "\nStopped. The data is in %s.\n", n.Dir)
	return err
}

func schedule(ctx context.Context, nc *nats.Conn, log *slog.Logger) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return scheduler.New(scheduler.Options{NC: nc, JS: js, Log: log, Rounds: doctor.Rounds}).Run(ctx)
}

// welcome says where everything is and what to type next.
func welcome(url, dir string, otherURL bool) string {
	flag := ""
	if otherURL {
		flag = " --nats-url " + url
	}
	settings := process.Defaults()
	return fmt.Sprintf(`Skein runs: a NATS server with JetStream, and a scheduler.

  NATS  %[1]s
  data  %[2]s  (stays when this stops; delete the folder to start afresh)

Type next, each line in a terminal of its own:

  nats --server %[1]s sub '%[4]s'
  LOOK_AROUND=10s go run ./cmd/workflow-runner --config examples/emailworkflows/skein.jsonc%[3]s
  go run ./cmd/agent-host --config examples/flightdesk/skein.jsonc%[3]s
  curl -X POST -H 'user-id: ada' http://%[5]s/agents/flight-desk/ada
  curl -X POST http://%[5]s/agents/flight-desk/ada/confirm

Ctrl-C stops it.
`, url, dir, flag, protocol.WorkflowSubjects("*"), settings.HTTPAddr)
}
