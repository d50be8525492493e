package janitor_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// lines is a log that a test reads.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), text)
}

// TestUnackedIsTold: what holds up the cleaning for long is said once in the log, and stands in the row of the project as long
// as it does.
func TestUnackedIsTold(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	i := create(y, "works", "long", "long")
	y.send(i, "begin")
	<-y.gate("long").arrived
	var log lines
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- janitor.New(janitor.Options{
			Store: y.store, JS: y.js, Log: slog.New(slog.NewTextHandler(&log, nil)), ID: "first", Every: 20 * time.Millisecond,
			Settings: janitor.Settings{Age: time.Nanosecond, Margin: time.Nanosecond, Chunk: 1000, Share: -1000},
		}).Run(ctx)
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	row := func() (row protocol.Janitor) {
		m, err := y.store.Last(t.Context(), protocol.KVStream(protocol.BucketJanitors), protocol.KVSubject(protocol.BucketJanitors, "p"))
		if err == nil {
			err = json.Unmarshal(m.Data, &row)
		}
		if err != nil {
			t.Log(err)
		}
		return row
	}
	const holder = "of instance p/works/long"
	natstest.Eventually(t, natstest.Patience, "the row says what holds it up", func() bool { return strings.Contains(row().Held, holder) })
	for _, text := range []string{holder, "stored at 20", "is not acknowledged", "level=WARN"} {
		if log.count(text) == 0 {
			t.Errorf("the log has no %q: %s", text, log.all.String())
		}
	}
	close(y.gate("long").open)
	y.result(i, "long")
	natstest.Eventually(t, natstest.Patience, "nothing holds it up", func() bool { return row().Owner != "" && row().Held == "" })
	if n := log.count("is not acknowledged"); n > 2 { // of the create, of the event
		t.Errorf("%d warnings", n)
	}
}
