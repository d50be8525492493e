package agent

import (
	"net/http"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/quiesce"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestHostIsQuiet: while a backup asks for it, turns run and are not stored: then they are, and answered.
func TestHostIsQuiet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ran := make(chan time.Time, 1)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			ran <- time.Now()
			return count(d, w, r)
		}
	}))
	h.call(t, http.MethodPost, "/agents/desk/ada", "")
	<-ran
	began := time.Now()
	if err := quiesce.Ask(t.Context(), r.nc, []string{testProject}, protocol.MaxQuiesce); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, soon, "the host has heard of it", func() bool { return h.log.has("what agents write waits") })
	if status, body := h.call(t, http.MethodPost, "/agents/desk/ada", ""); status != http.StatusOK {
		t.Errorf("answer %d %q", status, body)
	}
	if took := (<-ran).Sub(began); took >= protocol.MaxQuiesce {
		t.Errorf("the turn ran after %s, as if turns waited", took)
	}
	if took := time.Since(began); took < protocol.MaxQuiesce {
		t.Errorf("the turn was stored after %s", took)
	}
	if record, _ := r.record(t, "ada"); record.Turn != 2 {
		t.Errorf("record %+v", record)
	}
}
