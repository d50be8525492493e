package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
)

// readyLimit is how long a process may take to say whether it is ready.
const readyLimit = 3 * time.Second

// newReady makes the command for containers that have no other program to ask with.
func newReady() *cobra.Command {
	return &cobra.Command{
		Use:   "ready URL",
		Short: "Ask a process whether it is ready: exit code 0 if it is",
		Long: "Ask a process whether it is ready, at its health_addr (http://127.0.0.1:8080/readyz) or, of a NATS server, its monitoring\n" +
			"(http://127.0.0.1:8222/healthz). The exit code is 0 if it is, else 1, with the reason.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), readyLimit)
			defer cancel()
			return askReady(ctx, args[0])
		},
	}
}

func askReady(ctx context.Context, address string) error {
	if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("URL %q: wanted is one like http://127.0.0.1:8080/readyz", address)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return process.WithHint(err, "is it running, and is its health_addr set?")
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
