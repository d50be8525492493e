package backup

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/pkg/protocol"
)

type archiveWriter = *archive.Writer

const (
	// chunkSize is how much is sent at a time: less than any server takes.
	chunkSize = 128 << 10
	// beginLimit is how long a server may take to begin a restore, answerLimit to take a chunk, endLimit to end it.
	beginLimit  = 5 * time.Second
	answerLimit = 20 * time.Second
	endLimit    = 10 * time.Minute
	// unheardLimit is for how long something is sent again that nobody was there to hear, unheardPause how long to wait before.
	unheardLimit = 2 * time.Second
	unheardPause = 50 * time.Millisecond
)

// codeNoPeers is what a server says if there are fewer servers than replicas, maybe only so far.
const codeNoPeers jetstream.ErrorCode = 10005

func isFew(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeNoPeers
}

// passes reports whether what could not be sent may be sent later: a cluster elects a leader, or a server is gone.
func passes(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code >= 500 || isFew(err)
	}
	for _, passing := range []error{
		nats.ErrNoResponders, nats.ErrTimeout, context.DeadlineExceeded, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, nats.ErrStaleConnection,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// chunks sends what is written to it, chunk by chunk, each after the server has taken the one before.
type chunks struct {
	ctx     context.Context
	nc      *nats.Conn
	subject string
}

// answer is what the server says to a request or a chunk.
type answer struct {
	DeliverSubject string              `json:"deliver_subject"`
	Error          *jetstream.APIError `json:"error"`
}

func (c *chunks) Write(p []byte) (int, error) {
	if _, err := c.ask(p, c.subject, answerLimit); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *chunks) ask(body []byte, subject string, limit time.Duration) (a answer, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, subject, body)
	for began := time.Now(); errors.Is(err, nats.ErrNoResponders) && time.Since(began) < unheardLimit; {
		// Nobody has it. That a server listens is known to others some moments after it says so.
		if err := ctxtime.Sleep(ctx, unheardPause); err != nil {
			return a, err
		}
		m, err = c.nc.RequestWithContext(ctx, subject, body)
	}
	if err != nil && ctx.Err() != nil && c.ctx.Err() == nil {
		return a, fmt.Errorf("no answer within %s: %w", limit, err)
	}
	if err != nil {
		return a, err
	}
	if len(m.Data) == 0 {
		return a, nil
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("answer %.80q: %w", m.Data, err)
	}
	if a.Error != nil {
		return a, a.Error
	}
	return a, nil
}

// send has a server make a stream of what is written.
func send(ctx context.Context, nc *nats.Conn, config jetstream.StreamConfig, write func(io.Writer) error) error {
	body, err := json.Marshal(map[string]any{"config": config, "state": map[string]any{}})
	if err != nil {
		return err
	}
	c := &chunks{ctx: ctx, nc: nc}
	begun, err := c.ask(body, protocol.RestoreSubject(config.Name), beginLimit)
	if err != nil {
		return err
	}
	if begun.DeliverSubject == "" {
		return errors.New("the server does not say where to send it")
	}
	c.subject = begun.DeliverSubject
	buffered := bufio.NewWriterSize(c, chunkSize)
	packed := s2.NewWriter(&pieces{buffered}, s2.WriterConcurrency(1))
	if err := errors.Join(write(packed), packed.Close()); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	_, err = c.ask(nil, c.subject, endLimit)
	return err
}

// pieces cuts what is written into what a buffer does not pass by.
type pieces struct{ to *bufio.Writer }

func (p *pieces) Write(all []byte) (n int, err error) {
	for len(all) > 0 {
		piece := all[:min(len(all), chunkSize/2)]
		m, err := p.to.Write(piece)
		if n += m; err != nil {
			return n, err
		}
		all = all[len(piece):]
	}
	return n, nil
}
