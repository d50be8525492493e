//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/test/lab/disk"
	"github.com/skein-run/skein/test/lab/world"
)

// Event is a fault that was tried.
type Event struct {
	Fault
	// Began is when it was done, and Ended when it was mended.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Evidence shows that it happened.
	Evidence []string `json:"evidence"`
	// Failed says why it did not happen, or was not mended; empty if it was.
	Failed string `json:"failed,omitempty"`
}

// Injector breaks a world.
type Injector struct {
	World *world.World
	NC    *nats.Conn
	JS    jetstream.JetStream
	// Events gets one line of JSON per fault, when it is mended.
	Events io.Writer
	Log    *slog.Logger

	mu      sync.Mutex // guards what follows
	claimed map[string]bool
	changed chan struct{}
	events  []Event
	now     int
	total   disk.Lost
}

// Run does all faults, each at its time, and returns when all are mended. If ctx ends, those that have not begun do not happen.
func (in *Injector) Run(ctx context.Context, plan []Fault) ([]Event, error) {
	in.claimed, in.changed = map[string]bool{}, make(chan struct{})
	began := time.Now()
	var group sync.WaitGroup
	for _, f := range plan {
		pause(ctx, time.Until(began.Add(f.At)))
		if ctx.Err() != nil {
			break
		}
		group.Go(func() { in.happen(ctx, f) })
	}
	group.Wait()
	return in.events, ctx.Err()
}

// Progress says how many faults are over, and how many are going on.
func (in *Injector) Progress() (done, now int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.events), in.now
}

// Lost is what all losses of power have taken back.
func (in *Injector) Lost() disk.Lost {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.total
}

func (in *Injector) lost(l disk.Lost) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.total.Bytes += l.Bytes
	in.total.Files += l.Files
	in.total.Names += l.Names
}

func (in *Injector) happen(ctx context.Context, f Fault) {
	event := Event{Fault: f}
	i := &inflicter{Injector: in, ctx: ctx, began: sync.OnceFunc(func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.now++
		event.Began = time.Now().UTC()
	})}
	var err error
	for _, k := range kinds {
		if k.name == f.Kind {
			err = k.do(i, f)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	event.Ended, event.Evidence = time.Now().UTC(), i.evidence
	if event.Began.IsZero() {
		err = errors.Join(err, errors.New("it did not happen"))
	} else {
		in.now--
	}
	if err != nil {
		event.Failed = err.Error()
	}
	in.events = append(in.events, event)
	line, err := json.Marshal(event)
	if err == nil {
		_, err = fmt.Fprintf(in.Events, "%s\n", line)
	}
	if err != nil {
		in.Log.ErrorContext(ctx, fmt.Sprintf("write down fault %d: %v", f.Number, err))
	}
	in.Log.DebugContext(ctx, fmt.Sprintf("fault %d: %v %v %s", f.Number, f, event.Evidence, event.Failed))
}

// claim waits until nobody else breaks any of these, and keeps others from it until it is released.
func (in *Injector) claim(names []string) (release func()) {
	for {
		in.mu.Lock()
		free := true
		for _, name := range names {
			free = free && !in.claimed[name]
		}
		if free {
			break
		}
		changed := in.changed
		in.mu.Unlock()
		<-changed
	}
	for _, name := range names {
		in.claimed[name] = true
	}
	in.mu.Unlock()
	return func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		for _, name := range names {
			delete(in.claimed, name)
		}
		close(in.changed)
		in.changed = make(chan struct{})
	}
}
