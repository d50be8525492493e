package process

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/logkey"
)

const (
	dialTimeout   = 2 * time.Second
	dialPause     = 250 * time.Millisecond
	closeTimeout  = 2 * time.Second
	pingInterval  = 5 * time.Second
	maxPingsOut   = 2
	reconnectWait = 250 * time.Millisecond
)

// Connect connects to the NATS servers of the settings and waits for one to appear until ctx ends. The connection
// reconnects for ever, logs what befalls it, and refuses to publish while it is disconnected: what a caller has given
// up on must not be sent later.
func Connect(ctx context.Context, name string, s Settings, log *slog.Logger) (*nats.Conn, error) {
	opts, err := connOptions(ctx, name, s, log)
	if err != nil {
		return nil, err
	}
	address := RedactURL(s.NATSURL)
	for waiting := false; ; waiting = true {
		nc, err := nats.Connect(s.NATSURL, opts...)
		if err == nil {
			log.InfoContext(ctx, "connected to NATS", slog.String(logkey.URL, nc.ConnectedUrlRedacted()))
			return nc, nil
		}
		if hint, ok := refused(err); ok {
			return nil, WithHint(fmt.Errorf("connect to NATS at %s: %w", address, err), hint)
		}
		if !waiting {
			log.InfoContext(ctx, "waiting for NATS at "+address, slog.Any(logkey.Error, err))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to NATS at %s: %w, after %w", address, context.Cause(ctx), err)
		case <-time.After(dialPause):
		}
	}
}

func connOptions(ctx context.Context, name string, s Settings, log *slog.Logger) ([]nats.Option, error) {
	ctx = context.WithoutCancel(ctx) // the connection outlives the order to stop
	opts := []nats.Option{
		nats.Name(name),
		nats.Timeout(dialTimeout),
		nats.SetCustomDialer(&gathering{net.Dialer{Timeout: dialTimeout}}),
		nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPingsOut),
		// Credentials may be exchanged while servers and clients run: a refusal must not close the connection for good.
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: closed by ourselves
				log.WarnContext(ctx, "lost connection to NATS", slog.Any(logkey.Error, err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.InfoContext(ctx, "connected to NATS again", slog.String(logkey.URL, nc.ConnectedUrlRedacted()))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if sub == nil {
				log.ErrorContext(ctx, "NATS reports an error", slog.Any(logkey.Error, err))
				return
			}
			log.ErrorContext(ctx, "NATS reports an error", slog.Any(logkey.Error, err), slog.String(logkey.Subject, sub.Subject))
		}),
	}
	credentials, err := credentialOptions(s)
	return append(opts, credentials...), err
}

// CloseConn sends what is still in the connection's buffer before it closes it.
func CloseConn(ctx context.Context, nc *nats.Conn, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if nc.IsConnected() {
		if err := nc.FlushWithContext(ctx); err != nil {
			log.WarnContext(ctx, "flush before closing", slog.Any(logkey.Error, err))
		}
	}
	nc.Close()
}
