package runner

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestParkThatWasOvertaken: an event older than the park obliges its runner to go on. If another runner, to whom the
// same wake was delivered, has done so already, the wake is what protects that one: no ack.
func TestParkThatWasOvertaken(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := New(Config{
		Reader: Reader{Store: store, Project: "p", Shards: 1}, Slots: 1, JS: js, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	instance := protocol.Instance{Project: "p", Workflow: "w", ID: "a"}
	created, err := store.Append(t.Context(), instance.Stream(), instance.CreateSubject(), 0, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	h := &held{Wake: engine.Wake{Wake: protocol.Wake{Stream: instance.Stream(), Sequence: created}}, instance: instance}
	begun := engine.NewHistory(instance.Stream(), created, protocol.Create{})
	x := execution.Start(t.Context(), execution.Config{
		Settings: execution.Settings{ShortWait: time.Nanosecond, Refresh: time.Hour}, Store: store, Instance: instance, Runner: r.ID,
		History: begun, Wake: h.Wake.Wake, Log: r.Log, NextID: r.nextID,
		Inputs: func(ctx context.Context, from uint64) ([]engine.Input, error) {
			inputs, err := r.inputs(ctx, addressed(instance, begun), from) // the event comes when it has just been looked for
			if err == nil {
				_, err = store.Publish(ctx, instance.EventSubject(), nil, []byte(`{"v":1,"input":"1","type":"go"}`))
			}
			return inputs, err
		},
	}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := execution.From(ctx)
		if err == nil {
			_, _, err = s.WaitForEvent(ctx, "go on", "go", time.Hour)
		}
		return nil, err
	})
	parked := <-x.Events()
	if parked.Kind != execution.Parked {
		t.Fatalf("event %d: %v", parked.Kind, parked.Err)
	}
	s, err := r.look(t.Context(), instance)
	if err != nil {
		t.Fatal(err)
	}
	history, err := r.load(t.Context(), instance, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.claim(t.Context(), h, history); err != nil {
		t.Fatal(err)
	}
	if r.park(t.Context(), h, addressed(instance, begun), x, parked) || h.end {
		t.Error("the wake was acked under which another runner holds the instance")
	}
	if e := <-x.Events(); e.Kind != execution.Dropped {
		t.Errorf("event %d, want that the execution was dropped", e.Kind)
	}
}
