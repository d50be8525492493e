package backup

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/quiesce"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestMomentAmongWrites: that an agent writes all the time keeps nobody from making a backup. What it wrote last before the logs ended
// is there with all that came before.
func TestMomentAmongWrites(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.record("ada", protocol.Record{Turn: 1})
	ctx, stop := context.WithCancel(t.Context())
	var writes sync.WaitGroup
	defer writes.Wait()
	defer stop()
	writes.Go(func() { // each record of a turn is followed by a log that knows of it, each log by a record that does
		for turn := uint64(2); ctxtime.Sleep(ctx, time.Millisecond) == nil; turn++ {
			p.record("ada", protocol.Record{Turn: turn})
			p.log("a", turn, protocol.EntryStarted)
		}
	})
	natstest.Eventually(t, natstest.Patience, "there are records", func() bool { return p.recordOf("ada").Turn > 20 })
	dir, _ := p.backup()
	stop()
	writes.Wait()
	q := restored(t, dir)
	m, err := q.store.Last(t.Context(), "WORKFLOWS_shop", pay("a").LogSubject())
	var log protocol.Append
	if err == nil {
		err = json.Unmarshal(m.Data, &log)
	}
	if turn := q.recordOf("ada").Turn - turnSkip; err != nil || turn != log.Incarnation && turn != log.Incarnation+1 {
		t.Errorf("the record has turn %d, the log knows of turn %d, %v", turn, log.Incarnation, err)
	}
}

// TestMomentIsAskedFor: where a record is written at each moment that is looked at, hosts are asked to hold up, and then none is.
func TestMomentIsAskedFor(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	var gate quiesce.Gate
	if _, err := gate.Listen(p.nc, "shop", slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	held, tries := 0, 0
	turn := p.record("ada", protocol.Record{Turn: 1})
	_, err := Create(t.Context(), Options{JS: p.js, Store: p.store, Dir: filepath.Join(t.TempDir(), "backup"), Progress: func(what string, n int) {
		switch what {
		case lookingForMoment:
			tries = n
		case protocol.KVStream(protocol.AgentsBucket("shop")): // was read
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if gate.Pass(ctx) != nil {
				held++
				return
			}
			turn++
			p.record("ada", protocol.Record{Turn: turn})
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if held == 0 || tries == 0 {
		t.Errorf("the moment was found after %d that were none, of which %d writes waited", tries, held)
	}
}
