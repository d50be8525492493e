package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// idleHost is a host that does nothing by itself: the test renews its lease.
func (r *rig) idleHost(t *testing.T) *host {
	t.Helper()
	p, err := project.Open(t.Context(), project.Config{Name: testProject}, project.Conn(r.nc), project.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	times := defaultTiming()
	times.acceptWithin, times.absentGap = 5*quickPause, quickPause/4 // a busy machine says late that nobody listens
	return newHost(p, nil, times)
}

func (h *host) renew(t *testing.T) {
	t.Helper()
	h.lease.renew(t.Context())
	if err := h.peers.observe(t.Context(), h.lease.beats()); err != nil {
		t.Fatal(err)
	}
}

// TestWhoIsGone holds the rule of taking over (O4) against every kind of evidence.
func TestWhoIsGone(t *testing.T) {
	t.Parallel()
	row := protocol.Host{V: protocol.Version, ID: "other", Beat: 1}
	listens := func(t *testing.T, r *rig) { r.fakeHost(t, "other") }
	nothing := func(*testing.T, *rig) {}
	none := func(*testing.T, *rig, *host) {}
	for _, test := range []struct {
		name     string
		before   func(*testing.T, *rig)
		renewals int
		then     func(*testing.T, *rig, *host)
		gone     bool
		doubted  bool
	}{
		{"no row", nothing, 1, none, true, false},
		{"doubted by somebody", func(t *testing.T, r *rig) {
			listens(t, r)
			r.putHost(t, protocol.Host{V: protocol.Version, ID: "other", Doubted: "third"})
		}, 1, none, true, true},
		{"silent", listens, 1, none, false, false},
		{"silent for four renewals of ours", listens, 5, none, false, false},
		{"silent for five renewals of ours", listens, 6, none, true, true},
		{"renewed since we looked", listens, 6, func(t *testing.T, r *rig, _ *host) { r.putHost(t, row) }, false, false},
		{"silent after a renewal of its own", listens, 2, func(t *testing.T, r *rig, h *host) {
			r.putHost(t, row)
			for range 6 {
				h.renew(t)
			}
		}, true, true},
		{"no process", func(t *testing.T, r *rig) { r.putHost(t, row) }, 1, none, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.idleHost(t)
			test.before(t, r)
			for range test.renewals {
				h.renew(t)
			}
			test.then(t, r, h)
			gone, err := h.isGone(t.Context(), "other", agentNamed("jo"))
			if err != nil || gone != test.gone {
				t.Errorf("isGone = %v, %v; want %v", gone, err, test.gone)
			}
			var now protocol.Host
			if raw := r.row(t, protocol.HostsBucket(testProject), "other"); raw != nil {
				if err := json.Unmarshal(raw, &now); err != nil {
					t.Fatal(err)
				}
			}
			if (now.Doubted != "") != test.doubted {
				t.Errorf("row %+v, want it doubted: %v", now, test.doubted)
			}
		})
	}
}

func TestDoubtOfARowThatMovedOnIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.idleHost(t)
	row := protocol.Host{V: protocol.Version, ID: "other", Beat: 1}
	r.putHost(t, row)
	_, sequence, err := h.hostRow(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	r.putHost(t, protocol.Host{V: protocol.Version, ID: "other", Beat: 2})
	if gone, err := h.peers.doubt(t.Context(), row, sequence, h.id); gone || err != nil {
		t.Errorf("doubt = %v, %v; want a refusal", gone, err)
	}
}

func TestLease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.idleHost(t)
	if _, held := h.lease.held(); held {
		t.Error("held before the first renewal")
	}
	h.renew(t)
	first, held := h.lease.held()
	h.renew(t)
	if second, stillHeld := h.lease.held(); !held || !stillHeld || first != second {
		t.Errorf("stamps %+v (%v) and %+v (%v), want the lease held without a break", first, held, second, stillHeld)
	}
	r.putHost(t, protocol.Host{V: protocol.Version, ID: h.id, Doubted: "other"})
	if again, _ := h.lease.renew(t.Context()); !again {
		t.Error("renewal of a doubted lease was not refused")
	}
	if _, held := h.lease.held(); held {
		t.Error("held after a refusal")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.lease.wait(ctx); err == nil {
		t.Error("wait ended without a lease and without an error")
	}
	if again, regained := h.lease.renew(t.Context()); again || !regained {
		t.Errorf("renewal after a refusal: again %v, regained %v; want it regained", again, regained)
	}
	if now, held := h.lease.held(); !held || now == first {
		t.Errorf("stamp %+v, held %v; want a new one: agents must be checked", now, held)
	}
	h.lease.times.leaseFor = 0 // as if the answer had come too late
	if again, _ := h.lease.renew(t.Context()); !again {
		t.Error("a renewal that came too late counts")
	}
}
