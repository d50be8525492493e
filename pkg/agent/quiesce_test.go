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
	h.call(t, http.MethodPost, "/agents/desk/ada", "") // to take an agent is a write, too
	<-ran
	turns := uint64(1)
	// A busy machine may need longer than the host is quiet to run a turn: then it is asked again.
	natstest.Eventually(t, soon, "a turn runs while the host is quiet", func() bool {
		heard := h.log.count("what agents write waits")
		began := time.Now()
		natstest.Eventually(t, soon, "the host is quiet", func() bool {
			if h.log.count("what agents write waits") > heard {
				return true
			}
			if err := quiesce.Ask(t.Context(), r.nc, []string{testProject}, protocol.MaxQuiesce); err != nil {
				t.Fatal(err)
			}
			return false
		})
		if status, body := h.call(t, http.MethodPost, "/agents/desk/ada", ""); status != http.StatusOK {
			t.Fatalf("answer %d %q", status, body)
		}
		turns++
		if took := time.Since(began); took < protocol.MaxQuiesce {
			t.Errorf("the turn was stored after %s", took)
		}
		return (<-ran).Sub(began) < protocol.MaxQuiesce
	})
	if record, _ := r.record(t, "ada"); record.Turn != turns {
		t.Errorf("record %+v, of %d turns", record, turns)
	}
}
