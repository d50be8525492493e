package streams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/logkey"
)

const (
	// tryTimeout bounds one try: an answer that was lost must not hold up the next one.
	tryTimeout = 5 * time.Second
	firstPause = 20 * time.Millisecond
	longPause  = time.Second
)

// Error codes of the NATS server that its client has no names for.
const (
	codeNoPeers       jetstream.ErrorCode = 10005 // fewer servers than replicas, maybe only so far
	codeNoStorage     jetstream.ErrorCode = 10047
	codeInvalidConfig jetstream.ErrorCode = 10052
	codeNotClustered  jetstream.ErrorCode = 10074 // replicas on a server without a cluster
)

// retry repeats try until it succeeds, fails for good or ctx ends. A cluster without a leader answers nothing or
// errors that pass, for some seconds. At the end of ctx the error wraps what a try said last, not that the end of ctx cut one off.
func retry(ctx context.Context, log *slog.Logger, what string, try func(context.Context) error) error {
	told := false
	var last error
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		tryCtx, cancel := context.WithTimeout(ctx, tryTimeout)
		err := try(tryCtx)
		cancel()
		if err == nil {
			return nil
		}
		if !passes(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if log != nil && !told && pause > 4*firstPause { // shorter ones are other processes doing the same
			told = true
			log.WarnContext(ctx, "JetStream is not ready, trying on", slog.String("operation", what),
				slog.Any(logkey.Error, err))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w, after %w", what, context.Cause(ctx), last)
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// permanentError ends a retry.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// permanent marks err, if it is one, as what no later try can mend.
func permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

// passes reports whether a later try may succeed.
func passes(err error) bool {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return false
	}
	if _, ok := errors.AsType[permanentError](err); ok {
		return false
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return true
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamNameInUse, jetstream.JSErrCodeConsumerAlreadyExists, jetstream.JSErrCodeConsumerExists,
		jetstream.JSErrCodeConsumerNameExists, jetstream.JSErrCodeStreamNotFound, jetstream.JSErrCodeConsumerNotFound,
		jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant, codeNoPeers:
		return true
	case codeNoStorage, codeInvalidConfig, codeNotClustered:
		return false
	}
	return api.Code >= 500
}
