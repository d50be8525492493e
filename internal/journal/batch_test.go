package journal_test

import (
	"bytes"
	"strconv"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestLargeAnswers: what an answer lacks because it would have grown too large must not look as if it did not exist.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t).Connect(t), 1)
	large := bytes.Repeat([]byte("x"), 900<<10)
	var filters []string
	for n := range 8 {
		i := protocol.Instance{Project: "p", Workflow: "w", ID: strconv.Itoa(n)}
		if _, err := s.Append(t.Context(), stream, i.CreateSubject(), 0, large); err != nil {
			t.Fatal(err)
		}
		filters = append(filters, i.CreateSubject(), i.LogSubject())
	}
	var tail uint64
	for n := range 5 {
		var err error
		if tail, err = s.Append(t.Context(), stream, subject("0"), tail, append(large, byte(n))); err != nil {
			t.Fatal(err)
		}
	}
	b, err := s.LastOfMany(t.Context(), stream, filters)
	if err != nil {
		t.Fatal(err)
	}
	if !b.Cut || b.UpTo != 0 || len(b.Messages) == 9 {
		t.Errorf("an answer with %d of 9 messages is cut: %t, and claims to reach up to %d", len(b.Messages), b.Cut, b.UpTo)
	}
	b, err = s.LastOfMany(t.Context(), stream, filters[:4])
	if err != nil || b.Cut || len(b.Messages) != 3 || b.UpTo < tail {
		t.Errorf("a whole answer: %d messages up to %d, cut: %t, %v", len(b.Messages), b.UpTo, b.Cut, err)
	}
	found := 0
	for from, more := uint64(1), true; more; {
		page, again, err := s.Page(t.Context(), stream, subject("0"), from, 16)
		if err != nil || again && len(page) == 0 {
			t.Fatalf("page from %d: %d messages, %v", from, len(page), err)
		}
		found, more = found+len(page), again
		from = page[len(page)-1].Sequence + 1
	}
	if found != 5 {
		t.Errorf("the pages held %d of 5 messages", found)
	}
}
