package agenttest_test

import (
	"context"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/agent/agenttest"
)

// Begin plans a note of every day, four times in all.
func (s *shop) Begin(ctx context.Context, text string) (string, error) {
	task, err := agent.Schedule(ctx, agent.Every(24*time.Hour), s.Note, text, agent.Times(4))
	return task.ID, err
}

// Slow lets a schedule note something else, every third day.
func (s *shop) Slow(ctx context.Context, id string) (bool, error) {
	return agent.UpdateSchedule(ctx, id, agent.Every(72*time.Hour), agent.Calling(s.Note, "slow"))
}

// TestUpdatedSchedule changes a schedule on the clock of the test: it has fired twice by then, and ends when it has four times.
func TestUpdatedSchedule(t *testing.T) {
	t.Parallel()
	class, _, _ := shopClass()
	k := agenttest.New(t, class)
	jo := shops.In(k.Project).Agent("jo")
	id, err := agent.Call(t.Context(), jo, (*shop).Begin, "day")
	if err != nil {
		t.Fatal(err)
	}
	k.Advance(49 * time.Hour)
	expect(t, "after two days", notes(k, "jo"), "day day")
	if found, err := agent.Call(t.Context(), jo, (*shop).Slow, id); !found || err != nil {
		t.Fatalf("updated %t, %v", found, err)
	}
	k.Advance(24 * time.Hour)
	expect(t, "after three days", notes(k, "jo"), "day day slow")
	k.Advance(71 * time.Hour)
	expect(t, "after six days", notes(k, "jo"), "day day slow slow")
	k.Advance(30 * 24 * time.Hour)
	expect(t, "after a month", notes(k, "jo"), "day day slow slow")
}
