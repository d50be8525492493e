package journal

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestHoleInAnAnswer: each message of an answer names the one before it.
func TestHoleInAnAnswer(t *testing.T) {
	t.Parallel()
	message := func(sequence, before string) *nats.Msg {
		return &nats.Msg{Header: nats.Header{
			"Nats-Sequence": {sequence}, "Nats-Last-Sequence": {before}, "Nats-Time-Stamp": {"2026-01-02T03:04:05Z"},
		}}
	}
	end := func(before string) *nats.Msg {
		return &nats.Msg{Header: nats.Header{"Status": {"204"}, "Nats-Last-Sequence": {before}}}
	}
	for _, tt := range []struct {
		name    string
		answer  []*nats.Msg
		refused bool
	}{
		{"whole", []*nats.Msg{message("3", "0"), message("5", "3"), end("5")}, false},
		{"first lost", []*nats.Msg{message("5", "3"), end("5")}, true},
		{"middle lost", []*nats.Msg{message("3", "0"), message("7", "5"), end("7")}, true},
		{"last lost", []*nats.Msg{message("3", "0"), end("5")}, true},
		{"all lost", []*nats.Msg{end("5")}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := &collector{}
			for i, m := range tt.answer {
				end, err := c.add(m)
				if err != nil && (!tt.refused || !end || !retryable(err)) {
					t.Fatalf("message %d: %v", i, err)
				}
				if err != nil {
					return
				}
			}
			if tt.refused {
				t.Error("the hole was not seen")
			}
		})
	}
}

// TestRefusedRead: what no repetition mends is not repeated.
func TestRefusedRead(t *testing.T) {
	t.Parallel()
	for status, again := range map[string]bool{"408": false, "413": false, "500": true} {
		end, err := (&collector{}).add(&nats.Msg{Header: nats.Header{"Status": {status}}})
		if _, ok := errors.AsType[*ServerError](err); !end || !ok || retryable(err) != again {
			t.Errorf("status %s: %v, tried again: %t", status, err, retryable(err))
		}
	}
}
