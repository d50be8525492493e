package protocol_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestOpenSockets holds them against a map, also after they were written and read, and looks that what is changed is left as it was.
func TestOpenSockets(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var open protocol.OpenSockets
	want := map[uint64]uint64{}
	for range 2000 {
		before, earlier := open, slices.Clone(open)
		conn, applied := random.Uint64N(64), random.Uint64()>>random.IntN(64)
		if random.IntN(3) == 0 {
			open = open.Without(conn)
			delete(want, conn)
		} else {
			open = open.With(conn, applied)
			want[conn] = applied
		}
		if !slices.Equal(before, earlier) {
			t.Fatalf("%v was changed, it was %v", before, earlier)
		}
		if got := maps.Collect(open.All()); !maps.Equal(got, want) || len(open) != len(want) || !slices.IsSortedFunc(open, func(a, b protocol.OpenSocket) int {
			return int(a.Conn) - int(b.Conn)
		}) {
			t.Fatalf("%v, want %v", open, want)
		}
		got, isOpen := open.Applied(conn)
		if known, isKnown := want[conn]; got != known || isOpen != isKnown {
			t.Fatalf("connection %d: %d, %v; want %d, %v", conn, got, isOpen, known, isKnown)
		}
		if conn == 0 {
			open = open.Without(0) // no connection has this number
			delete(want, 0)
		}
		wantGateway(t, protocol.Gateway{Since: 1, Connected: 2, Sent: 3, Open: open})
	}
}

func wantGateway(t *testing.T, want protocol.Gateway) {
	t.Helper()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got protocol.Gateway
	if err := json.Unmarshal(data, &got); err != nil || got.Since != 1 || got.Connected != 2 || got.Sent != 3 || !slices.Equal(got.Open, want.Open) {
		t.Fatalf("%s is read as %+v, %v; want %+v", data, got, err, want)
	}
}

func TestReadOpenSockets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		data string
		want protocol.OpenSockets // nil: an error
	}{
		{`{"open":{"9":1,"10":2}}`, protocol.OpenSockets{{9, 1}, {10, 2}}},
		{`{"many":"AQIDBA=="}`, protocol.OpenSockets{{1, 2}, {4, 4}}},
		{`{"open":{"2":7},"many":"AQIDBA=="}`, protocol.OpenSockets{{1, 2}, {2, 7}, {4, 4}}},
		{`{"open":{"-1":1}}`, nil},
		{`{"many":"AQ=="}`, nil},                     // half of a pair
		{`{"many":"AAE="}`, nil},                     // the same number again
		{`{"many":"gA=="}`, nil},                     // no whole varint
		{`{"many":"AQH///////////8BAQ=="}`, nil},     // over the greatest number
		{`{"many":"/////////////////////wEB"}`, nil}, // no number
		{`{"many":7}`, nil},
	} {
		var g protocol.Gateway
		err := json.Unmarshal([]byte(test.data), &g)
		if (err != nil) != (test.want == nil) || err == nil && !reflect.DeepEqual(g.Open, test.want) {
			t.Errorf("%s is read as %v, %v; want %v", test.data, g.Open, err, test.want)
		}
	}
}

func BenchmarkEncodeRecordOfManySockets(b *testing.B) {
	record := protocol.Record{Gateways: map[string]protocol.Gateway{"host": {Open: manySockets(5000)}}}
	for b.Loop() {
		if _, err := record.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
