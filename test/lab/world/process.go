//go:build linux

package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/skein-run/skein/test/lab/clock"
)

// Kind is what a process is.
type Kind string

// All kinds of processes.
const (
	Server    Kind = "nats-server"
	Runner    Kind = "runner"
	Host      Kind = "agent-host"
	Scheduler Kind = "scheduler"
)

// readyWithin is how long a process may take until it is ready, once nothing is broken.
const readyWithin = 4 * time.Minute

// hopeless is how often a process may end by itself, while somebody waits for it, before nobody waits any more.
const hopeless = 50

// Process is a program on a machine. If it ends by itself it is started again, as any supervisor does, and that is kept.
type Process struct {
	// Name of the process, as runner-1.north.
	Name    string
	Kind    Kind
	Machine *Machine
	// Clock is what the process takes for the time.
	Clock *clock.Clock
	args  []string
	env   []string
	ready string
	log   string

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd
	ended  chan struct{}
	wanted bool
	starts int
	// unexpected has the ends that nobody has asked for.
	unexpected []string
}

// Start starts the process, unless it runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
	return p.start()
}

func (p *Process) start() error {
	if p.ended != nil && !closed(p.ended) {
		return nil
	}
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = append(append(os.Environ(), p.Clock.Setting()), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.Machine.net.Do(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.starts++
	fmt.Fprintf(log, "---- lab: start %d of %s, process %d, at %s\n", p.starts, p.Name, cmd.Process.Pid, time.Now().UTC().Format(time.RFC3339Nano))
	p.cmd, p.ended = cmd, make(chan struct{})
	go p.await(cmd, p.ended) // ends with the process, which Stop sees to
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// restartPause is how long a supervisor waits before it starts again what has ended.
const restartPause = 500 * time.Millisecond

func (p *Process) await(cmd *exec.Cmd, ended chan struct{}) {
	_ = cmd.Wait() // how it ended is in its state
	p.mu.Lock()
	again := p.wanted
	if again {
		p.unexpected = append(p.unexpected, fmt.Sprintf("%s %s", time.Now().UTC().Format(time.RFC3339), cmd.ProcessState))
	}
	close(ended)
	p.mu.Unlock()
	if !again {
		return
	}
	time.Sleep(restartPause)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		if err := p.start(); err != nil {
			p.unexpected = append(p.unexpected, err.Error())
		}
	}
}

// current is the running process; ok is false if there is none.
func (p *Process) current(wanted bool) (cmd *exec.Cmd, ended chan struct{}, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = wanted
	return p.cmd, p.ended, p.ended != nil && !closed(p.ended)
}

// Pid of the process; 0 if it does not run.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil || closed(p.ended) {
		return 0
	}
	return p.cmd.Process.Pid
}

// Unexpected tells of ends that nobody has asked for.
func (p *Process) Unexpected() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.unexpected...)
}

// Log is the path of what the process has written.
func (p *Process) Log() string { return p.log }

// ErrNotRunning is wrapped if there was no process to do something to.
var ErrNotRunning = errors.New("does not run")

// Kill sends SIGKILL and makes sure that this is what the process died of. It stays down until it is started.
func (p *Process) Kill(ctx context.Context) (evidence string, err error) {
	cmd, ended, ok := p.current(false)
	if !ok {
		return "", fmt.Errorf("kill %s: it %w", p.Name, ErrNotRunning)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return "", fmt.Errorf("kill %s: %w", p.Name, err)
	}
	if err := wait(ctx, ended); err != nil {
		return "", fmt.Errorf("kill %s: it does not die: %w", p.Name, err)
	}
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signal() != syscall.SIGKILL {
		return "", fmt.Errorf("kill %s: it ended with %v", p.Name, cmd.ProcessState)
	}
	return fmt.Sprintf("process %d: %v", cmd.Process.Pid, cmd.ProcessState), nil
}

// Terminate sends SIGTERM and waits for the end. It stays down until it is started.
func (p *Process) Terminate(ctx context.Context) (evidence string, err error) {
	cmd, ended, ok := p.current(false)
	if !ok {
		return "", fmt.Errorf("terminate %s: it %w", p.Name, ErrNotRunning)
	}
	sent := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return "", fmt.Errorf("terminate %s: %w", p.Name, err)
	}
	if err := wait(ctx, ended); err != nil {
		return "", fmt.Errorf("terminate %s: it does not stop: %w", p.Name, err)
	}
	return fmt.Sprintf("process %d: %v after %v", cmd.Process.Pid, cmd.ProcessState, time.Since(sent).Round(time.Millisecond)), nil
}

func wait(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Freeze sends SIGSTOP and makes sure that the process stands still.
func (p *Process) Freeze(ctx context.Context) (evidence string, err error) {
	return p.signal(ctx, syscall.SIGSTOP, func(state string) bool { return state == "T" })
}

// Thaw sends SIGCONT and makes sure that the process goes on.
func (p *Process) Thaw(ctx context.Context) (evidence string, err error) {
	return p.signal(ctx, syscall.SIGCONT, func(state string) bool { return state != "T" })
}

func (p *Process) signal(ctx context.Context, s syscall.Signal, done func(state string) bool) (string, error) {
	cmd, ended, ok := p.current(true)
	if !ok {
		return "", fmt.Errorf("%v to %s: it %w", s, p.Name, ErrNotRunning)
	}
	if err := cmd.Process.Signal(s); err != nil {
		return "", fmt.Errorf("%v to %s: %w", s, p.Name, err)
	}
	for {
		state, err := processState(cmd.Process.Pid)
		if err != nil {
			return "", fmt.Errorf("%v to %s: %w", s, p.Name, err)
		}
		if done(state) {
			return fmt.Sprintf("process %d in state %s", cmd.Process.Pid, state), nil
		}
		select {
		case <-ended:
			return "", fmt.Errorf("%v to %s: it ended with %v", s, p.Name, cmd.ProcessState)
		case <-ctx.Done():
			return "", fmt.Errorf("%v to %s: %w", s, p.Name, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// processState is the letter that ps shows for a process.
func processState(pid int) (string, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	return string(stat[bytes.LastIndexByte(stat, ')')+2:][:1]), nil // "1234 (name) T ..."
}

// IsReady asks the process itself.
func (p *Process) IsReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.ready, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("%s says %s: %s", p.ready, answer.Status, text)
	}
	return nil
}

// client keeps no connections: processes come and go.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// AwaitReady waits until the process takes work.
func (p *Process) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	before := len(p.Unexpected())
	for {
		err := p.IsReady(ctx)
		if err == nil {
			return nil
		}
		if ends := p.Unexpected(); len(ends) > before+hopeless {
			return fmt.Errorf("%s ended by itself %d times, last: %s; see %s", p.Name, len(ends), ends[len(ends)-1], p.log)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; see %s", p.Name, err, p.log)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
