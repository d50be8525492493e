package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// readyWithin is how long a started process may take to say that it is ready.
const readyWithin = time.Minute

// world is what stands around the measuring process.
type world struct {
	url    string // of a server that is there; empty: one is started
	procs  int    // GOMAXPROCS of each process
	shards int    // those of the project; 0: what it has, 1 if it is new
	// syncAlways lets a server that is started have everything on disk before it acknowledges it.
	syncAlways bool
}

// processes are a server and a runner beside the measuring process.
type processes struct {
	world
	url    string // of the server that is there, or of ours
	cmd    *cobra.Command
	config string
	runner *exec.Cmd
	// server is nil if it is not one of ours.
	server *exec.Cmd
}

// withProcesses runs measure with a server and a runner of their own beside it.
func withProcesses[R any](cmd *cobra.Command, w world, measure func(ctx context.Context, p *processes) (R, error)) (R, error) {
	return withServer(cmd, w, func(ctx context.Context, p *processes) (r R, err error) {
		if err := p.startRunner(ctx); err != nil {
			return r, err
		}
		defer func() { end(p.runner) }()
		return measure(ctx, p)
	})
}

// withServer runs measure with a server of its own beside it.
func withServer[R any](cmd *cobra.Command, w world, measure func(ctx context.Context, p *processes) (R, error)) (r R, err error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "skein-bench-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p := &processes{world: w, url: w.url, cmd: cmd, config: filepath.Join(dir, "skein.jsonc")}
	if w.url == "" {
		server, ready, err := start(ctx, cmd, w.procs, "server", "--data", filepath.Join(dir, "nats"), "--sync-always="+strconv.FormatBool(w.syncAlways))
		if err != nil {
			return r, err
		}
		p.url, p.server = ready, server
		defer func() { end(p.server) }()
	}
	if err := os.WriteFile(p.config, []byte(configFile), 0o600); err != nil {
		return r, err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "measuring ...")
	return measure(ctx, p)
}

func (p *processes) startRunner(ctx context.Context) (err error) {
	p.runner, _, err = start(ctx, p.cmd, p.procs, "runner", "--config", p.config, "--nats-url", p.url, "--log-level", "warn",
		"--shards", strconv.Itoa(p.shards))
	return err
}

// replaceRunner kills the runner and starts another, which knows nothing.
func (p *processes) replaceRunner(ctx context.Context) error {
	_ = p.runner.Process.Kill()
	_ = p.runner.Wait()
	return p.startRunner(ctx)
}

// startHost starts an agent host and returns where it takes requests.
func (p *processes) startHost(ctx context.Context, url string) (*exec.Cmd, string, error) {
	return start(ctx, p.cmd, p.procs, "host", "--config", p.config, "--nats-url", url, "--http-addr", "127.0.0.1:0", "--log-level", "error")
}

// start runs a hidden command of this program as a process and waits for its line "ready <what>".
func start(ctx context.Context, cmd *cobra.Command, procs int, args ...string) (*exec.Cmd, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	child := exec.CommandContext(ctx, self, append([]string{"bench"}, args...)...)
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(procs))
	child.Stderr = cmd.ErrOrStderr()
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := child.Start(); err != nil {
		return nil, "", fmt.Errorf("start the bench %s: %w", args[0], err)
	}
	ready := make(chan string, 1)
	go func() { // ends with the child's output
		defer close(ready)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if what, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
				ready <- what
			}
		}
	}()
	select {
	case what, ok := <-ready:
		if ok {
			return child, what, nil
		}
		err = errors.New("it ended")
	case <-time.After(readyWithin):
		err = fmt.Errorf("not ready after %v", readyWithin)
	}
	end(child)
	return nil, "", fmt.Errorf("start the bench %s: %w", args[0], err)
}

func end(child *exec.Cmd) {
	_ = child.Process.Signal(syscall.SIGTERM)
	_ = child.Wait()
}

func serverCommand() *cobra.Command {
	o := server.Options{Host: "127.0.0.1", JetStream: true, NoSigs: true, NoLog: true}
	var routes string
	cmd := &cobra.Command{Use: "server", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if routes != "" {
			o.Routes = server.RoutesFromStr(routes)
			o.Cluster = server.ClusterOpts{Name: "bench", Host: o.Host, Port: o.Cluster.Port}
		}
		s, err := server.NewServer(&o)
		if err != nil {
			return err
		}
		s.Start()
		if !s.ReadyForConnections(readyWithin) {
			return errors.New("the NATS server does not start")
		}
		fmt.Fprintln(cmd.OutOrStdout(), "ready", s.ClientURL())
		freeOnSignal(cmd.Context())
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
		s.Shutdown()
		s.WaitForShutdown()
		return nil
	}}
	cmd.Flags().StringVar(&o.ServerName, "name", "bench", "name of the server")
	cmd.Flags().StringVar(&o.StoreDir, "data", "", "store directory")
	cmd.Flags().IntVar(&o.Port, "port", server.RANDOM_PORT, "port; -1: any that is free")
	cmd.Flags().BoolVar(&o.SyncAlways, "sync-always", false, "write to disk before acknowledging")
	cmd.Flags().IntVar(&o.Cluster.Port, "cluster-port", 0, "port for the other servers of a cluster")
	cmd.Flags().StringVar(&routes, "routes", "", "where the servers of the cluster listen for each other; empty: there is none")
	return cmd
}

// runnerCommand is a workflow runner like any other; it only says on stdout when it takes work.
func runnerCommand() *cobra.Command {
	cmd := project.Command("runner", announced{workflow.Runner(workflow.Define(className, steps), workflow.Define(longClass, long), workflow.Define(busyClass, busy))})
	cmd.Hidden = true
	return cmd
}

// hostCommand is an agent host like any other; it only says on stdout when and where it takes work.
func hostCommand() *cobra.Command {
	cmd := project.Command("host", announced{agentHost()})
	cmd.Hidden = true
	return cmd
}

// freeOnSignal gives memory back that is not needed, when it is about to be measured.
func freeOnSignal(ctx context.Context) {
	measured := make(chan os.Signal, 1)
	signal.Notify(measured, syscall.SIGUSR1)
	go func() { // ends with the process
		for {
			select {
			case <-measured:
				debug.FreeOSMemory()
			case <-ctx.Done():
				return
			}
		}
	}()
}

// announced prints a line when a service is ready.
type announced struct{ project.Service }

// Settings are those of the service.
func (a announced) Settings() []string {
	if s, ok := a.Service.(interface{ Settings() []string }); ok {
		return s.Settings()
	}
	return nil
}

// Serve runs the service.
func (a announced) Serve(ctx context.Context, p *project.Project) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // ends with the service
		for tick := time.Tick(5 * time.Millisecond); !p.IsReady(); {
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
		freeOnSignal(ctx)
		what := a.Name()
		if s, ok := a.Service.(interface{ Addr() net.Addr }); ok {
			what = s.Addr().String()
		}
		fmt.Println("ready", what)
	}()
	return a.Service.Serve(ctx, p)
}
