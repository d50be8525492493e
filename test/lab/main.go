//go:build linux

// Command lab is the fault lab: it runs Skein as real processes on several machines, each with a network, a clock and a disk of its
// own, has clients drive workflows, agents, sockets and schedules, breaks what a seed says, mends it, and then checks from the streams and
// from what clients were told that nothing was lost and nothing was done twice.
//
//	go run ./test/lab -instances 1000 -faults 60 -seed 7
//	go run ./test/lab check -nats URL -notes DIR
//
// It needs Linux, root, /dev/net/tun and /dev/fuse. It must never touch the network, the mounts or the clock of the machine that it runs on.
// docs/reliability.md says more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skein-run/skein/test/lab/faults"
	"github.com/skein-run/skein/test/lab/history"
	"github.com/skein-run/skein/test/lab/world"
)

// settings of a run.
type settings struct {
	instances, faults int
	seed              uint64
	over              time.Duration
	patience          time.Duration
	dir               string
	without           []string
	json              bool
	level             string
}

// spacing is the time that a fault adds to a run, unless -over says otherwise.
const spacing = 2500 * time.Millisecond

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&s.instances, "instances", 500, "how many instances of workflows clients start")
	flags.IntVar(&s.faults, "faults", 40, "how many faults there are")
	flags.Uint64Var(&s.seed, "seed", 0, "what decides about load and faults; 0: another one each time")
	flags.DurationVar(&s.over, "over", 0, "how long to break things; 0: 2.5 s for each fault")
	flags.DurationVar(&s.patience, "patience", 5*time.Minute, "how long it may take until everything has ended, once all is mended")
	flags.StringVar(&s.dir, "dir", "", "folder for programs, logs, notes and disks, which is kept; empty: one that is kept if something is wrong")
	without := flags.String("without", "", "kinds of faults that are left out, separated by commas; empty: none")
	flags.BoolVar(&s.json, "json", false, "report as JSON")
	flags.StringVar(&s.level, "log-level", "info", "least level that the processes log (debug, info, warn or error)")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if *without != "" {
		s.without = strings.Split(*without, ",")
	}
	for _, kind := range s.without {
		if !slices.Contains(faults.Kinds(), kind) {
			return s, fmt.Errorf("-without %q: kinds of faults are %q", kind, faults.Kinds())
		}
	}
	switch {
	case len(s.without) == len(faults.Kinds()):
		return s, errors.New("-without leaves no kind of faults; -faults 0 means none")
	case flags.NArg() > 0:
		return s, fmt.Errorf("argument %q: there are none", flags.Arg(0))
	case s.instances < 1 || s.instances > 1_000_000:
		return s, fmt.Errorf("-instances %d: from 1 to 1000000 are allowed", s.instances)
	case s.faults < 0 || s.faults > 100_000:
		return s, fmt.Errorf("-faults %d: from 0 to 100000 are allowed", s.faults)
	case s.over < 0 || s.patience <= 0:
		return s, fmt.Errorf("-over %v, -patience %v: neither may be negative, nor the second 0", s.over, s.patience)
	}
	if s.seed == 0 {
		s.seed = rand.Uint64N(1_000_000) + 1
	}
	if s.over == 0 {
		s.over = max(10*time.Second, time.Duration(s.faults)*spacing)
	}
	return s, nil
}

// inside is set in the environment of the process that has a network and mounts of its own.
const inside = "SKEIN_LAB_INSIDE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "check" {
		err = history.Main(ctx, os.Args[2:], os.Stdout, os.Stderr)
	} else {
		err = lab(ctx, os.Args[1:])
	}
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && os.Getenv(inside) == "" {
		os.Exit(exit.ExitCode()) // the other process has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func lab(ctx context.Context, args []string) error {
	s, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	if os.Getenv(inside) != "" {
		return run(ctx, s)
	}
	if err := world.Possible(); err != nil {
		return err
	}
	keep := s.dir != ""
	if !keep {
		if s.dir, err = os.MkdirTemp("", "skein-lab-"); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "seed %d: %d instances and %d faults over %v; compiling into %s\n", s.seed, s.instances, s.faults, s.over, s.dir)
	if err := world.Compile(ctx, s.dir); err != nil {
		return err
	}
	err = enter(ctx, s)
	if err == nil && !keep {
		return os.RemoveAll(s.dir)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "logs, notes and disks of this run: %s\n", s.dir)
	}
	return err
}

// enter runs this program once more, in a network and with mounts of its own, which end with it.
func enter(ctx context.Context, s settings) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "-instances", fmt.Sprint(s.instances), "-faults", fmt.Sprint(s.faults), "-seed", fmt.Sprint(s.seed),
		"-over", s.over.String(), "-patience", s.patience.String(), "-dir", s.dir, "-json="+fmt.Sprint(s.json), "-log-level", s.level,
		"-without", strings.Join(s.without, ","))
	cmd.Env = append(os.Environ(), inside+"=true")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd.Run()
}
