// Package demo runs the main job of Skein on real processes and checks that nothing of it is lost: an agent is asked
// over HTTP, its callback starts a workflow of another project, and the runner that executes it is killed.
//
// It must never call anything right that it has not read back from the streams, and it must never leave a process or
// a file behind, unless it is told to keep the files.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/skein-run/skein/examples"
	"github.com/skein-run/skein/internal/dev"
	"github.com/skein-run/skein/pkg/project"
)

// Limit is how long the job may take.
const Limit = 60 * time.Second

const (
	// stopLimit is how long the processes may take to stop.
	stopLimit = 15 * time.Second
	// lookAround is the sleep of the workflow: longer than what runners keep in memory, so that it parks.
	lookAround = 4 * time.Second
	tailLines  = 15
)

// Options are the choices of whoever starts the demo.
type Options struct {
	// Limit bounds the job. 0 is Limit.
	Limit time.Duration
	// Keep leaves the folder with the server's data and the logs.
	Keep bool
	// Progress gets a line whenever something happens.
	Progress io.Writer
	// Shards are those of the workflow's project: 1 to protocol.MaxShards. 0 is 1.
	Shards int
	// Unconfirmed is for tests: nobody confirms, so the job must be found unfinished.
	Unconfirmed bool
}

// demo is one run.
type demo struct {
	Options
	start   time.Time
	dir     string
	nats    *dev.NATS
	mail    *mailServer
	project *project.Project

	scheduler, host *child
	runners         []*child
	seen            sight
	told            map[string]bool // what narrate has said
}

// Run runs the job, checks it and cleans up. The error says why there is no report; that the job went wrong, the report
// says.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	if o.Limit == 0 {
		o.Limit = Limit
	}
	d := &demo{Options: o, start: time.Now(), told: map[string]bool{}}
	if d.dir, err = os.MkdirTemp("", "skein-demo-"); err != nil {
		return nil, fmt.Errorf("start the demo: %w", err)
	}
	if !o.Keep {
		defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	}
	e := d.run(ctx)
	d.say("stopping the processes")
	e.failures = append(e.failures, d.tearDown(context.WithoutCancel(ctx)))
	if ctx.Err() != nil {
		return nil, fmt.Errorf("the demo was stopped: %w", context.Cause(ctx))
	}
	return d.report(e), nil
}

// run starts everything, runs the job and reads what came of it.
func (d *demo) run(parent context.Context) evidence {
	ctx, cancel := context.WithTimeoutCause(parent, d.Limit, fmt.Errorf("not done within %s", d.Limit))
	defer cancel()
	failure := d.setUp(ctx)
	if failure == nil {
		failure = d.job(ctx)
	}
	took := time.Since(d.start)
	e, err := d.gather(parent)
	e.took, e.limit, e.failures = took, d.Limit, []error{failure, err}
	return e
}

// say tells of progress.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.Progress, "[%5.1fs] %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// setUp starts everything, in the order in which each finds what it needs.
func (d *demo) setUp(ctx context.Context) (err error) {
	if d.nats, err = dev.StartNATS(0, filepath.Join(d.dir, "nats"), slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if d.mail, err = startMailServer(); err != nil {
		return err
	}
	d.say("NATS is at %s, a mail server at %s, logs and data are in %s", d.nats.URL(), d.mail.addr, d.dir)
	if err := d.openProject(ctx); err != nil {
		return err
	}
	if d.scheduler, err = d.launch(processScheduler, processScheduler, ""); err != nil {
		return err
	}
	for i := range 2 {
		runner, err := d.launch(fmt.Sprintf("runner-%d", i+1), processRunner, "emailworkflows", "--shards", strconv.Itoa(d.Shards))
		if err != nil {
			return err
		}
		d.runners = append(d.runners, runner)
	}
	if err := d.awaitReady(ctx); err != nil {
		return err
	}
	if d.host, err = d.launch(processHost, processHost, "flightdesk", "--http-addr", "127.0.0.1:0"); err != nil {
		return err
	}
	return d.awaitReady(ctx)
}

// openProject opens the agent's project, as any program of it could: to see what the agent sees.
func (d *demo) openProject(ctx context.Context) error {
	for _, name := range []string{"flightdesk", "emailworkflows"} {
		text, err := examples.Configs.ReadFile(name + "/skein.jsonc")
		if err != nil {
			return fmt.Errorf("config of %s: %w", name, err)
		}
		if err := os.WriteFile(d.config(name), text, 0o600); err != nil {
			return fmt.Errorf("config of %s: %w", name, err)
		}
	}
	config, err := project.Load(d.config("flightdesk"))
	if err != nil {
		return err
	}
	config.Settings.NATSURL = d.nats.URL()
	d.project, err = project.Open(ctx, *config, project.Logger(slog.New(slog.DiscardHandler)))
	return err
}

func (d *demo) config(example string) string { return filepath.Join(d.dir, example+".jsonc") }

// launch starts a process. example names the project that it serves, if any.
func (d *demo) launch(name, process, example string, more ...string) (*child, error) {
	args := []string{process, "--nats-url", d.nats.URL(), "--health-addr", "127.0.0.1:0", "--log-format", "json"}
	if example != "" {
		args = append(args, "--config", d.config(example))
	}
	env := []string{"SMTP_ADDR=" + d.mail.addr, "LOOK_AROUND=" + lookAround.String()}
	return startChild(d.dir, name, append(args, more...), env)
}

// children lists the processes that were started, those that bring work first.
func (d *demo) children() []*child {
	var all []*child
	for _, c := range append([]*child{d.host, d.scheduler}, d.runners...) {
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

// tearDown ends everything and waits for it.
func (d *demo) tearDown(ctx context.Context) error {
	var errs []error
	for _, c := range d.children() {
		c.tell()
	}
	for _, c := range d.children() {
		errs = append(errs, c.end(stopLimit))
	}
	if d.project != nil {
		d.project.Close()
	}
	if d.mail != nil {
		ctx, cancel := context.WithTimeout(ctx, stopLimit)
		defer cancel()
		errs = append(errs, d.mail.stop(ctx))
	}
	if d.nats != nil {
		errs = append(errs, d.nats.Stop())
	}
	return errors.Join(errs...)
}
