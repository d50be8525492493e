package protocol_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

func agentCallGoldens() []golden {
	to := &protocol.Activate{Class: "Cart", Name: "jo@example.com"}
	mail := protocol.Mail{
		V: protocol.Version, Source: desk().TellSource(3), Number: 131073, Callback: "Add", Payload: json.RawMessage(`{"n":1}`), Sent: at(6),
	}
	return []golden{
		{"record.calls", protocol.Record{V: protocol.Version, Class: "Desk", Name: "a", Life: 3, Commit: "co-1", Updated: at(7),
			Calls: map[string]protocol.AppliedCall{
				protocol.CallMark("4d2f"): {Until: at(50), Result: json.RawMessage(`7`)},
				protocol.CallMark("4d30"): {Until: at(51), Lost: true},
				protocol.CallMark("4d31"): {Until: at(52), Open: true},
			},
			Outbox: []protocol.Outgoing{{ID: protocol.OutgoingID(3, 2, 1), Kind: protocol.OutgoingMail,
				Tell: &protocol.OutgoingTell{Project: "shop", Class: "Cart", Name: "jo@example.com", Mail: mail}}},
		}},
		{"record.keys", protocol.Record{V: protocol.Version, Class: "Desk", Name: "a", Life: 3, Commit: "co-1", Updated: at(7),
			Calls: map[string]protocol.AppliedCall{protocol.CallMark("4d2f"): {Until: at(50), Result: json.RawMessage(`7`)}},
			Keys: []protocol.AppliedKeys{
				{Until: at(40), Marks: protocol.CallMark("shop order-7") + protocol.CallMark("shop order-8")},
				{Until: at(41), Marks: protocol.CallMark("shop order-9")},
			},
		}},
		{"mail.key", protocol.Mail{V: 1, Source: protocol.KeySource("order-7"), Key: "order-7", Callback: "Add", Sent: at(6)}},
		{"request.call", protocol.Request{V: protocol.Version, ID: "4d2f", Activate: to, Call: &protocol.AgentCall{
			From: "flight-desk", Method: "Add", Payload: json.RawMessage(`{"n":1}`), Within: protocol.Duration(30 * time.Second),
			Fresh: true, Keep: true, Chain: []protocol.CallLink{{Agent: desk().String()}, {Agent: "shop/Till/1", Outside: true}},
		}}},
		{"record.condemned", protocol.Record{V: protocol.Version, Class: "Desk", Name: "a", Life: 3, Owner: "h-1", Epoch: 9, Turn: 5,
			Commit: "co-1", Updated: at(7), Revision: 4, Seen: map[string]uint64{desk().TellSource(3): 131073}, Condemned: true,
		}},
		{"request.destroy", protocol.Request{V: protocol.Version, ID: "4d2f", Activate: to, Call: &protocol.AgentCall{
			From: "flight-desk", Within: protocol.Duration(30 * time.Second), Destroy: 3,
		}}},
		{"request.call-until", protocol.Request{V: protocol.Version, ID: "4d2f", Activate: to, Call: &protocol.AgentCall{
			From: "flight-desk", Method: "Add", Within: protocol.Duration(30 * time.Second), Until: at(40),
		}}},
		{"request.confirm", protocol.Request{V: 1, Confirm: "4d2f", Activate: to}},
		{"reply.call", protocol.Reply{V: protocol.Version, Result: json.RawMessage(`7`), Kept: true}},
		{"reply.busy", protocol.Reply{V: 1, Accepted: true, Busy: "GET /agents/cart/jo"}},
	}
}

func TestNamesOfCalls(t *testing.T) {
	t.Parallel()
	wantNames(t, []string{
		protocol.CallSubject("shop", "flight-desk", "Cart"), "call.shop.flight-desk.Cart",
		protocol.CallSubjects("shop", "Cart"), "call.shop.*.Cart",
		desk().TellSource(3), "agent/Desk.jo=40example=2Ecom/3",
	})
	project, from, class, err := protocol.ParseCallSubject("call.shop.flight-desk.Cart")
	if err != nil || project != "shop" || from != "flight-desk" || class != "Cart" {
		t.Errorf("parsed as %s, %s, %s, %v", project, from, class, err)
	}
	for _, subject := range []string{"", "call.shop.flight-desk", "call.shop.flight-desk.Cart.x", "calls.shop.flight-desk.Cart", "call.shop.*.Cart"} {
		if _, _, _, err := protocol.ParseCallSubject(subject); err == nil {
			t.Errorf("%q is taken for the subject of a call", subject)
		}
	}
	if mark := protocol.CallMark(strings.Repeat("x", 1000)); len(mark) != protocol.CallMarkLen {
		t.Errorf("mark %q", mark)
	}
	if a, b := protocol.KeySource("a"), protocol.KeySource("b"); a == b || len(a) != len("tell/00") {
		t.Errorf("sources %q and %q", a, b)
	}
}

// TestTellNumbersRise: over the turns, and within one.
func TestTellNumbersRise(t *testing.T) {
	t.Parallel()
	var last uint64
	for _, at := range []struct {
		turn uint64
		n    int
	}{{1, 1}, {1, 2}, {1, 65535}, {2, 1}, {1 << 40, 0}} {
		n, err := protocol.TellNumber(at.turn, at.n)
		if err != nil || n <= last {
			t.Errorf("number of %+v: %d after %d, %v", at, n, last, err)
		}
		last = n
	}
	if _, err := protocol.TellNumber(1, 65536); err == nil {
		t.Error("number 65536 of a turn is that of the next turn")
	}
}

func TestLifeOfAnOutboxEntry(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]uint64{protocol.OutgoingID(42, 3, 1): 42, "": 0, "x.1.2": 0, "042.1.2": 0} {
		if got := protocol.OutgoingLife(id); got != want {
			t.Errorf("life of %q is %d, want %d", id, got, want)
		}
	}
}

func TestChainOfCalls(t *testing.T) {
	t.Parallel()
	c := protocol.AgentCall{Chain: []protocol.CallLink{{Agent: "p/A/1"}, {Agent: "p/B/1", Outside: true}}}
	if !c.Waits("p/A/1") || c.Waits("p/B/1") || c.Waits("p/C/1") {
		t.Errorf("who waits in %+v", c.Chain)
	}
}

// TestAppliedKeys: a mark is found where one begins, and nowhere else.
func TestAppliedKeys(t *testing.T) {
	t.Parallel()
	a, b := protocol.CallMark("a"), protocol.CallMark("b")
	k := protocol.AppliedKeys{Marks: a + b}
	if !k.Has(a) || !k.Has(b) || k.Len() != 2 {
		t.Errorf("%d marks, known: %v, %v", k.Len(), k.Has(a), k.Has(b))
	}
	for _, other := range []string{"", protocol.CallMark("c"), (a + b)[1 : 1+protocol.CallMarkLen], (a + b)[:8]} {
		if k.Has(other) {
			t.Errorf("%q is known", other)
		}
	}
}

// TestAloneSources: firings in a row do not wait for each other.
func TestAloneSources(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for n := range 256 {
		seen[protocol.AloneSource("s", n+7)] = true
	}
	for source := range seen {
		if len(source) != len(protocol.KeySource("a")) {
			t.Errorf("source %q", source)
		}
	}
	if len(seen) != 256 {
		t.Errorf("%d sources, want 256", len(seen))
	}
}
