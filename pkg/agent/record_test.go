package agent

import (
	"errors"
	"fmt"
	"testing"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestAllRecordsAreReadPageByPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	where := bucketOf(protocol.AgentsBucket(testProject))
	records := &records{store: r.store, where: where}
	read := func(f func(*journal.Message) error) int {
		seen := map[string]int{}
		err := records.each(t.Context(), func(m *journal.Message) error {
			seen[m.Subject]++
			return f(m)
		})
		if err != nil {
			t.Fatal(err)
		}
		for subject, times := range seen {
			if times != 1 {
				t.Errorf("%s was read %d times", subject, times)
			}
		}
		return len(seen)
	}
	keep := func(*journal.Message) error { return nil }
	if n := read(keep); n != 0 {
		t.Errorf("read %d of no records", n)
	}
	const all = 2*recordsPage + 3
	for i := range all {
		if _, err := r.js.PublishAsync(where.subject(protocol.AgentKey("Desk", fmt.Sprint(i))), []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	<-r.js.PublishAsyncComplete()
	if n := read(keep); n != all {
		t.Errorf("read %d of %d records", n, all)
	}
	rewritten := 0
	if n := read(func(m *journal.Message) error { // who writes while others read does not keep them reading
		if rewritten++; rewritten > 3*all {
			return nil
		}
		_, err := r.store.Publish(t.Context(), where.subject(protocol.AgentKey("Desk", fmt.Sprint("new-", rewritten))), nil, m.Data)
		return err
	}); n < all || n > all+recordsPage {
		t.Errorf("read %d of %d records", n, all)
	}
	stop := errors.New("enough")
	if err := records.each(t.Context(), func(*journal.Message) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v, want that of the reader", err)
	}
}
