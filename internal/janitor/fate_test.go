package janitor

import (
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestDecide has a row for each thing that a stream can hold of an instance whose beginning is to be purged.
func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Now()
	h := Horizon{Sequence: 100, Last: 500, Settled: 400, SettledTimers: 40, Expired: now}
	holder := func(sequence uint64) protocol.Wake { return protocol.Wake{Stream: "WORKFLOWS_p", Sequence: sequence} }
	// base is one that has ended and has expired, and of which nothing is open.
	base := func() Facts {
		return Facts{
			Situation: engine.Situation{Exists: true, Begun: true, Incarnation: 10, Tail: 20, Phase: engine.Finished, Holder: holder(10)},
			Create:    10, Expires: new(now.Add(-time.Second)), Announced: 21,
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*Facts)
		want   Fate
	}{
		{"gone", func(f *Facts) { *f = Facts{Control: 30} }, Leave},
		{"the id has a newer one", func(f *Facts) { f.Create = 101 }, Leave},
		{"expired", func(*Facts) {}, Drop},
		{"expired, its log goes beyond the horizon", func(f *Facts) { f.Tail = 120 }, Drop},
		{"expired, created at the horizon", func(f *Facts) { f.Create = 100 }, Drop},
		{"expired, all settled a moment ago", func(f *Facts) { f.Input, f.Control, f.Holder = 400, 400, holder(400) }, Drop},
		{"expires now", func(f *Facts) { f.Expires = new(now) }, Renew},
		{"expires in a moment", func(f *Facts) { f.Expires = new(now.Add(time.Second)) }, Renew},
		{"never expires", func(f *Facts) { f.Expires = nil }, Renew},
		{"expired, with an event that is not acked", func(f *Facts) { f.Input = 401 }, Renew},
		{"expired, with a control that is not acked", func(f *Facts) { f.Control = 401 }, Renew},
		{"expired, its end may not be announced", func(f *Facts) { f.Holder = holder(401) }, Renew},
		{"expired, ended by a timer", func(f *Facts) { f.ByTimer, f.Holder = true, holder(40) }, Drop},
		{"expired, ended by a timer that is not acked", func(f *Facts) { f.ByTimer, f.Holder = true, holder(41) }, Renew},
		{"expired, and a create that says nothing", func(f *Facts) { f.Garbage, f.Expires = true, nil }, Drop},
		{"a create that says nothing", func(f *Facts) { f.Garbage, f.Phase = true, engine.Parked }, Stuck},
		{"parked", func(f *Facts) { f.Phase, f.Expires = engine.Parked, nil }, Renew},
		{"parked, created at the horizon", func(f *Facts) { f.Create, f.Phase, f.Expires = 100, engine.Parked, nil }, Renew},
		{"not begun", func(f *Facts) { f.Begun, f.Phase, f.Expires = false, engine.Running, nil }, Stuck},
		{"carried, and its log is gone", func(f *Facts) { f.Begun, f.Carried, f.Phase = false, true, engine.Running }, Remove},
		{"carried after the horizon, and its log is gone", func(f *Facts) { f.Create, f.Begun, f.Carried, f.Phase = 110, false, true, engine.Running }, Remove},
		{"carried, and its log is of a newer version", func(f *Facts) { f.Create, f.Begun, f.Carried, f.Newer = 110, false, true, true }, Stuck},
		{"of a newer version", func(f *Facts) { f.Newer = true }, Stuck},
		{"is being deleted", func(f *Facts) { f.Deleted = true }, Wait},
		{"carried, without a snapshot", func(f *Facts) { f.Create, f.Carried = 110, true }, Ask},
		{"carried, and parked without a snapshot", func(f *Facts) { f.Create, f.Carried, f.Phase = 110, true, engine.Parked }, Ask},
		{"carried, and announced without a snapshot", func(f *Facts) { f.Create, f.Carried, f.Announced = 110, true, 113 }, Ask},
		{"carried, the snapshot is asked for", func(f *Facts) { f.Create, f.Carried, f.Control, f.Asked = 110, true, 401, 401 }, Wait},
		{"carried, the snapshot was asked for in vain", func(f *Facts) { f.Create, f.Carried, f.Control, f.Asked = 110, true, 111, 111 }, Ask},
		{"carried, all that was asked for is settled", func(f *Facts) { f.Create, f.Carried, f.Control, f.Asked = 110, true, 400, 400 }, Ask},
		{"carried, a control came after the one that asked", func(f *Facts) { f.Create, f.Carried, f.Control, f.Asked = 110, true, 401, 0 }, Ask},
		{"carried, its announcement would go", func(f *Facts) { f.Create, f.Carried, f.Snapshot, f.Announced = 110, true, 112, 100 }, Ask},
		{"carried, its end is not announced", func(f *Facts) { f.Create, f.Carried, f.Snapshot = 110, true, 112 }, Ask},
		{"carried, and announced", func(f *Facts) { f.Create, f.Carried, f.Snapshot, f.Announced = 110, true, 112, 113 }, Leave},
		{"carried, and parked", func(f *Facts) { f.Create, f.Carried, f.Snapshot, f.Phase = 110, true, 112, engine.Parked }, Leave},
		{"carried, an older end would be believed", func(f *Facts) {
			f.Create, f.Carried, f.Snapshot, f.Phase, f.Misleading = 110, true, 112, engine.Parked, true
		}, Stuck},
	} {
		f := base()
		tt.change(&f)
		if got := Decide(f, h); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
