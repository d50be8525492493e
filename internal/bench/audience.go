package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// audience is clients in a process of their own, who hear what an agent says. They would be elsewhere in earnest: what they do is no work of
// the machine that is measured. So they do it only where nobody else wants a CPU, unless equal is set.
type audience struct {
	addr, path     string
	sockets, hears int
	equal          bool
}

// audienceCommand connects clients, says so on stdout, and ends when each of them has heard the mark so often, and left.
func audienceCommand() *cobra.Command {
	var a audience
	cmd := &cobra.Command{Use: "audience", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
		defer stop()
		if !a.equal {
			if err := yieldToAll(); err != nil {
				return err
			}
		}
		c, err := gather(ctx, a.addr, a.sockets, atOnce, func(int) string { return a.path })
		if err != nil {
			return err
		}
		c.heard.Add(a.hears * a.sockets)
		c.listen(ctx)
		fmt.Fprintln(cmd.OutOrStdout(), "ready", a.sockets)
		all := make(chan struct{})
		go func() { c.heard.Wait(); close(all) }() // ends when all have heard, or with the process
		select {
		case <-all:
			return c.leave()
		case <-ctx.Done():
			return errors.New("not all clients have heard what was said")
		}
	}}
	cmd.Flags().StringVar(&a.addr, "addr", "", "of the host")
	cmd.Flags().StringVar(&a.path, "path", "", "of the agent")
	cmd.Flags().IntVar(&a.sockets, "sockets", 0, "how many clients")
	cmd.Flags().IntVar(&a.hears, "hears", 0, "how often each hears the mark")
	cmd.Flags().BoolVar(&a.equal, "equal", false, "run at the priority of all others")
	return cmd
}

// startAudience starts the clients of the hall, and returns when they are connected.
func (r *socketRun) startAudience(ctx context.Context) (*exec.Cmd, error) {
	child, _, err := start(ctx, r.cmd, r.socketLoad.procs, "audience", "--addr", r.hostAddr, "--path", hallPath+crowdHall, "--sockets", strconv.Itoa(r.audience),
		"--hears", strconv.Itoa(r.turns), "--equal="+strconv.FormatBool(r.equal))
	return child, err
}

// hasHeard returns when all clients of an audience have heard everything and left.
func (r *socketRun) hasHeard(ctx context.Context, child *exec.Cmd) error {
	late := time.AfterFunc(within, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer late.Stop()
	if err := child.Wait(); err != nil {
		return fmt.Errorf("the clients: %w", err)
	}
	return r.isLeft(ctx)
}
