package doctor

import (
	"encoding/json"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestOldEndAnnouncedAgain: the announcement of an end before a restart that comes again, late, hides that of the end after it from
// nobody; without that one, the end is not told.
func TestOldEndAnnouncedAgain(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i := at("works", "a")
	r.finished(i)
	old, err := r.store.Last(t.Context(), stream, i.DoneSubject())
	if err != nil {
		t.Fatal(err)
	}
	r.control(i, protocol.ActionRestart, "program")
	stop := r.serve()
	var newer uint64
	natstest.Eventually(t, patience, "its second end is announced", func() bool {
		m, err := r.store.Last(t.Context(), stream, i.DoneSubject())
		var done protocol.Done
		if err != nil || json.Unmarshal(m.Data, &done) != nil {
			return false
		}
		newer = m.Sequence
		return done.Epoch == 1
	})
	r.quiesce()
	stop()
	if _, err := r.store.Publish(t.Context(), i.DoneSubject(), nil, old.Data); err != nil {
		t.Fatal(err)
	}
	if found, report := r.examine(); len(found) > 0 || report.Instances != 1 {
		t.Errorf("the doctor finds %v, %+v", found, report)
	}
	s, err := r.js.Stream(t.Context(), stream)
	if err == nil {
		err = s.DeleteMsg(t.Context(), newer)
	}
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := r.examine(); len(found) != 1 || found[0].Kind != EndNotTold {
		t.Errorf("without the announcement the doctor finds %v", found)
	}
}
