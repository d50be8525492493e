package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// child is one of the demo's processes.
type child struct {
	name string
	cmd  *exec.Cmd
	tap  *tap
	// done is closed when the process is gone; err is then how it ended.
	done   chan struct{}
	err    error
	killed bool
}

// startChild starts this program again, as one of the processes that Process makes.
func startChild(dir, name string, args, env []string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	file, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, tap: &tap{file: file}, done: make(chan struct{})}
	c.cmd = exec.Command(self, append([]string{processCommand}, args...)...)
	// If the demo is killed, this pipe breaks: the process logs that it has lost its NATS server, and is gone.
	c.cmd.Stdout, c.cmd.Stderr = c.tap, c.tap
	c.cmd.Env = append(cleanEnv(), env...)
	c.cmd.Dir = dir
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), file.Close())
	}
	go func() { // waited for by end
		c.err = errors.Join(c.cmd.Wait(), file.Close())
		close(c.done)
	}()
	return c, nil
}

// cleanEnv is the environment without settings that are meant for other servers.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SKEIN_") })
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// gone reports whether the process has ended.
func (c *child) gone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// ready reports whether the process says that it takes work.
func (c *child) ready(ctx context.Context) bool {
	addr := c.tap.facts().health
	if addr == "" {
		return false
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	return response.Body.Close() == nil && response.StatusCode == http.StatusOK
}

// kill ends the process without warning, and waits until it is gone.
func (c *child) kill() error {
	c.killed = true
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	<-c.done
	return nil
}

// tell asks the process to stop.
func (c *child) tell() {
	// It may be gone already; end finds out.
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
}

// end waits until a process that was told to stop is gone. After the limit it is killed. The error says what was wrong
// with its end.
func (c *child) end(limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		return errors.Join(fmt.Errorf("%s did not stop within %s", c.name, limit), c.kill())
	}
	if c.err != nil && !c.killed {
		return fmt.Errorf("%s ended with: %w", c.name, c.err)
	}
	return nil
}
