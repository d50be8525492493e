package protocol_test

import (
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestDerivedIDsNeverChange: an instance that a call made yesterday must be found by the same id today.
func TestDerivedIDsNeverChange(t *testing.T) {
	t.Parallel()
	p := *parent()
	child := protocol.Instance{Project: "mail", Shard: 1, Workflow: "booking", ID: "u-7"}
	for _, tt := range []struct{ what, have, want string }{
		{"child", p.ChildID(), "t-1-a45bef5bc11271a4dbb9"},
		{"create", p.CreateInput(), "call/trips/trip/t-1/=31.1.2.book it"},
		{"end", p.EndInput(), "end/trips/trip/t-1/=31.1.2.book it"},
		{"callback", protocol.CallbackInput(child, protocol.Done{Incarnation: 44, Epoch: 1, Log: 50}), "=done/mail/booking/u-7/44.1.50"},
	} {
		if tt.have != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, tt.have, tt.want)
		}
	}
}

func TestDerivedIDs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", protocol.MaxInstanceID)
	seen := map[string][]string{}
	for _, parts := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {""}, nil} {
		id := protocol.DerivedID(long, parts...)
		if err := protocol.CheckInstance(id); err != nil {
			t.Error(err)
		}
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q give the same id", parts, other)
		}
		seen[id] = parts
	}
	p := *parent()
	q := p
	q.ID = "t-2"
	if p.ChildID() == q.ChildID() {
		t.Error("two callers have the same child")
	}
}
