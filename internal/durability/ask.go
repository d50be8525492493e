package durability

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// askLimit is the default of Options.Patience.
	askLimit = time.Second
	// asks is how often servers are asked before it counts that most are silent: they may be busy, or about to start.
	asks = 10
	// mostAnswer is far above what a server tells of itself.
	mostAnswer = 1 << 20
)

// varz is what counts of what a server tells of itself.
type varz struct {
	Name      string `json:"server_name"`
	Version   string `json:"version"`
	JetStream struct {
		Config *struct {
			SyncInterval time.Duration `json:"sync_interval"`
			SyncAlways   bool          `json:"sync_always"`
		} `json:"config"`
	} `json:"jetstream"`
}

func (v *varz) server() Server {
	s := Server{Name: v.Name, Version: v.Version}
	if c := v.JetStream.Config; c != nil {
		s.Sync = Sync{Known: true, Always: c.SyncAlways, Interval: c.SyncInterval}
	}
	return s
}

// ask asks the servers of these names, over NATS and then over HTTP. Who does not answer is missing; silent is set if he may answer the
// next time.
func ask(ctx context.Context, o Options, names []string) (told map[string]Server, silent bool) {
	told = map[string]Server{}
	missing := func() bool {
		for _, name := range names {
			if !told[name].Sync.Known {
				return true
			}
		}
		return false
	}
	limit := o.patience()
	if err := askNATS(ctx, o.NC, limit, told, missing); err != nil {
		silent = !errors.Is(err, nats.ErrNoResponders)
		o.Log.DebugContext(ctx, "NATS servers do not tell when they write to disk", slog.Any(logkey.Error, err))
	}
	for address := range strings.SplitSeq(o.Monitor, ",") {
		if address = strings.TrimSpace(address); address == "" || !missing() {
			continue
		}
		if err := askHTTP(ctx, address, limit, told); err != nil {
			silent = true
			o.Log.WarnContext(ctx, "a NATS server's monitoring does not answer", slog.String(logkey.URL, address), slog.Any(logkey.Error, err))
		}
	}
	return told, silent
}

func (o *Options) patience() time.Duration { return cmp.Or(o.Patience, askLimit) }

// askNATS asks all servers at once, until none is missing or time is up. Only the system account may, and accounts that
// import that from it.
func askNATS(ctx context.Context, nc *nats.Conn, limit time.Duration, told map[string]Server, missing func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone, and the subscription with it
	if err := nc.PublishRequest(protocol.SubjectServers, inbox, nil); err != nil {
		return err
	}
	for missing() {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return errors.Join(errNoAnswer, err)
		}
		var answer struct {
			Data varz `json:"data"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return fmt.Errorf("what a server tells of itself: %w", err)
		}
		told[answer.Data.Name] = answer.Data.server()
	}
	return nil
}

// askHTTP asks one server's monitoring.
func askHTTP(ctx context.Context, address string, limit time.Duration, told map[string]Server) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(address, "/")+"/varz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // read to its end, or of no use
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answer is %s", response.Status)
	}
	var v varz
	if err := json.NewDecoder(io.LimitReader(response.Body, mostAnswer)).Decode(&v); err != nil {
		return fmt.Errorf("what the server tells of itself: %w", err)
	}
	told[v.Name] = v.server()
	return nil
}
