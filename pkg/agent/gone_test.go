package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

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
	times.leaseFor = soon                                            // nobody renews it meanwhile
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
		{"silent for three renewals of ours", listens, 4, none, false, false},
		{"silent for four renewals of ours", listens, 5, none, true, true},
		{"renewed since we looked", listens, 5, func(t *testing.T, r *rig, _ *host) { r.putHost(t, row) }, false, false},
		{"silent after a renewal of its own", listens, 2, func(t *testing.T, r *rig, h *host) {
			r.putHost(t, row)
			for range 5 {
				h.renew(t)
			}
		}, true, true},
		{"no process", func(t *testing.T, r *rig) { r.putHost(t, row) }, 1, none, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.idleHost(t)
			if test.name == "no process" {
				h.times.acceptWithin = soon // the server says so, if late
			}
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

// TestTimingKeepsItsPromises holds what the figures promise together: nobody is held for gone whose lease may be good, and
// who is gone for good is replaced within 9 s. The first is so of the short leases of tests, too.
func TestTimingKeepsItsPromises(t *testing.T) {
	t.Parallel()
	times, short := defaultTiming(), defaultTiming()
	quick(&short)
	for _, one := range []timing{times, short} {
		if misses := time.Duration(one.leaseMisses) * one.leaseEvery; misses < one.leaseFor+one.leaseFor/5 {
			t.Errorf("a lease that is good for %s is held for over after %s: clocks may differ by a fifth", one.leaseFor, misses)
		}
	}
	misses := time.Duration(times.leaseMisses) * times.leaseEvery
	if over := times.leaseEvery + misses; over+2*times.acceptWithin+longPause > 9*time.Second {
		t.Errorf("a lease is over after up to %s: a caller is to be answered within 9s", over)
	}
	if doorbellExpiry >= misses-times.leaseEvery {
		t.Errorf("a frozen host is sent bells for %s, and may be replaced after %s", doorbellExpiry, misses-times.leaseEvery)
	}
}

// TestDoubtOfARowThatMovedOnIsRefused: only one of those who ask for agents of a lost host at once can write the doubt, and
// the others must not take that for a sign of life.
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
	if gone, err := h.declareGone(t.Context(), row, sequence); gone || err != nil {
		t.Errorf("gone = %v, %v after a renewal; want a refusal", gone, err)
	}
	r.putHost(t, protocol.Host{V: protocol.Version, ID: "other", Beat: 2, Doubted: "third"})
	if gone, err := h.declareGone(t.Context(), row, sequence); !gone || err != nil {
		t.Errorf("gone = %v, %v after a doubt of somebody else; want it gone", gone, err)
	}
}

// TestWhenALostHostIsSweptUp: who has doubted a host for the sake of a caller looks after the rest of its agents when the lease
// would be over, everybody else later.
func TestWhenALostHostIsSweptUp(t *testing.T) {
	t.Parallel()
	row := protocol.Host{V: protocol.Version, ID: "other", Beat: 1}
	for _, test := range []struct {
		name  string
		then  func(*testing.T, *rig, *host) // after two renewals that have seen the row
		after int                           // further renewals
	}{
		{"nothing", func(*testing.T, *rig, *host) {}, 3},
		{"a doubt of ours", func(t *testing.T, _ *rig, h *host) {
			_, sequence, err := h.hostRow(t.Context(), "other")
			if gone, doubtErr := h.declareGone(t.Context(), row, sequence); err != nil || doubtErr != nil || !gone {
				t.Fatal(gone, err, doubtErr)
			}
		}, 3},
		{"a doubt of another", func(t *testing.T, r *rig, _ *host) {
			r.putHost(t, protocol.Host{V: protocol.Version, ID: "other", Beat: 1, Doubted: "third"})
		}, 5},
		{"a renewal", func(t *testing.T, r *rig, _ *host) { r.putHost(t, row) }, 5},
		{"a vain try", func(_ *testing.T, _ *rig, h *host) { h.peers.putOff("other", h.lease.beats()) }, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.idleHost(t)
			r.putHost(t, row)
			h.renew(t)
			h.renew(t)
			test.then(t, r, h)
			for n := 1; n <= test.after; n++ {
				h.renew(t)
				if over := slices.Contains(h.peers.expired(h.lease.beats()), "other"); over != (n == test.after) {
					t.Errorf("after %d further renewals the lease is over: %v", n, over)
				}
			}
		})
	}
}

func TestAgentsOfLostHostsThatHaveMail(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.idleHost(t)
	r.own(t, "jo", "dead")
	r.own(t, "mo", "alive")
	mailed := map[protocol.Agent]bool{agentNamed("jo"): true, agentNamed("mo"): true, agentNamed("nobody"): true}
	got := h.mailedOf(t.Context(), map[string]uint64{"dead": 1}, mailed)
	if want := map[protocol.Agent]string{agentNamed("jo"): "dead"}; !maps.Equal(got.agents, want) {
		t.Errorf("found %v, want %v", got.agents, want)
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
