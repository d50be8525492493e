package process

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/skein-run/skein/internal/logkey"
)

// SignalError is the cause of a context that a signal ended.
type SignalError struct{ Signal os.Signal }

func (e *SignalError) Error() string { return "signal: " + e.Signal.String() }

// withSignals ends the returned context at the first SIGINT or SIGTERM, and the process at the second: whoever sends
// it does not want to wait for work to be handed back.
func withSignals(parent context.Context, log *slog.Logger) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case s := <-signals:
			cancel(&SignalError{Signal: s})
		case <-quit:
			return
		}
		select {
		case s := <-signals:
			log.ErrorContext(ctx, "second signal, ending at once", slog.String(logkey.Signal, s.String()))
			os.Exit(exitCode(s))
		case <-quit:
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		close(quit)
		wg.Wait()
		cancel(nil)
	}
}

// exitCode is what shells report for a process that a signal killed.
func exitCode(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 1
}
