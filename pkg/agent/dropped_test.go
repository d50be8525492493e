package agent

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestZombieAcksNoMail: a host that was away, and whose agent another host has taken, finds mail void by what it remembers: of
// a schedule that only the record of the other knows. It must leave it to that one.
func TestZombieAcksNoMail(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.idleHost(t)
	h.renew(t)
	a := &actor{
		host: h, class: &class{name: "Desk"}, id: agentNamed("jo"), log: slog.New(slog.DiscardHandler), mail: newMailbox(),
		stuck: map[string]bool{}, again: map[string]bool{},
	}
	var err error
	if a.at, a.stamp, err = h.take(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	a.states = h.statesOf(a)
	heir := a.at.record
	heir.Owner, heir.Epoch, heir.Turn = "other", heir.Epoch+1, heir.Turn+1
	heir.Seen = map[string]uint64{protocol.ScheduleSource("new"): 0}
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", "jo"), heir)
	r.putHost(t, protocol.Host{V: protocol.Version, ID: h.id, Doubted: "other"})
	h.renew(t) // is refused
	h.renew(t)
	sequence := r.mail(t, "jo", testProject, firing("new", heir.Life, 1, "tick"))
	acks, err := r.nc.SubscribeSync(protocol.AckPrefix + "test")
	if err != nil {
		t.Fatal(err)
	}
	a.mail.ring(protocol.Bell{Sequence: sequence, Ack: protocol.AckPrefix + "test"})
	if err := a.mail.load(t.Context(), h.inbox, a.id); err != nil {
		t.Fatal(err)
	}
	l := a.mail.held[sequence]
	if l == nil || a.isVoid(l) == "" {
		t.Fatalf("letter %+v, want one that looks void to the zombie", l)
	}
	if err := a.receive(t.Context(), l); !errors.Is(err, ErrLostOwnership) || !isEnd(err) {
		t.Errorf("the zombie drops mail: %v, want that it has lost the agent", err)
	}
	if err := r.nc.Flush(); err != nil { // the host's connection
		t.Fatal(err)
	}
	if n, _, err := acks.Pending(); n != 0 || err != nil {
		t.Errorf("the zombie has acked the mail %d times (%v), want 0", n, err)
	}
}
