package engine_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestReports: what the tracker of an instance is told of a message, and under which numbers.
func TestReports(t *testing.T) {
	t.Parallel()
	event := reportedEvent()
	progress := event
	progress.Type, progress.Result = "", json.RawMessage("1")
	entries := []protocol.Entry{progress, event}
	for _, kind := range entryKinds(t) {
		if kind != protocol.EntryReported {
			entries = append(entries, protocol.Entry{Kind: kind})
		}
	}
	var got []string
	last := protocol.Cursor{}
	for _, n := range engine.Reports(7, &protocol.Append{Entries: entries}) {
		got = append(got, strings.TrimSpace(fmt.Sprint(n.Kind, " ", n.Type, string(n.Value))))
		if n.Cursor.Sequence != 7 || n.Cursor.Compare(last) <= 0 {
			t.Errorf("%s has the cursor %v after %v", n.Kind, n.Cursor, last)
		}
		last = n.Cursor
	}
	want := "progress 1, event-reported paid, completed, errored, terminated, deleted, paused, held, resumed, restarted"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("told is  %s\nwant     %s", text, want)
	}
}
