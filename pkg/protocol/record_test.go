package protocol_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestEncodeRecord: what Encode writes is read as what json.Marshal writes, for every record that there is a golden file of.
func TestEncodeRecord(t *testing.T) {
	t.Parallel()
	records := 0
	for _, g := range goldens() {
		r, ok := g.value.(protocol.Record)
		if !ok {
			continue
		}
		records++
		wantEncoded(t, r)
		r.State, r.Seen, r.Aged = json.RawMessage(`{"n":1}`), map[string]uint64{"schedule/a": 1, "tell/é\"\\\x01": 1 << 60}, map[string]uint64{"b": 2}
		wantEncoded(t, r)
	}
	if records < 10 {
		t.Errorf("%d records, there are more", records)
	}
	wantEncoded(t, protocol.Record{})
}

func wantEncoded(t *testing.T, r protocol.Record) {
	t.Helper()
	got, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	var back protocol.Record
	if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil || json.Unmarshal(got, &back) != nil {
		t.Fatalf("no JSON: %s", got)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("encoded as %s, want %s", got, want)
	}
	if again, err := json.Marshal(back); err != nil || !bytes.Equal(again, want) {
		t.Errorf("read as %s, want %s: %v", again, want, err)
	}
}

// TestEncodeTakesStateAsItIs: nothing goes over it again.
func TestEncodeTakesStateAsItIs(t *testing.T) {
	t.Parallel()
	state := json.RawMessage(`{ "text" : "` + strings.Repeat("<x>", 1000) + `" }`) // json.Marshal would write it otherwise
	got, err := protocol.Record{State: state}.Encode()
	if err != nil || !bytes.HasSuffix(got, append([]byte(`,"state":`), append(state, '}')...)) {
		t.Errorf("%s, %v", got[max(0, len(got)-100):], err)
	}
}
