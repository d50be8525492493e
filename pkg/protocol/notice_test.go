package protocol_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

func TestCursors(t *testing.T) {
	t.Parallel()
	rising := []protocol.Cursor{{}, {Sequence: 3, Index: 1}, {Sequence: 3, Index: 9}, {Sequence: 3}, {Sequence: 4, Index: 2}, {Sequence: 10}}
	if !slices.IsSortedFunc(rising, protocol.Cursor.Compare) {
		t.Error("cursors do not rise")
	}
	for _, c := range rising {
		raw, err := json.Marshal(c)
		var back protocol.Cursor
		if err == nil {
			err = json.Unmarshal(raw, &back)
		}
		if err != nil || back != c || back.Compare(c) != 0 {
			t.Errorf("%v is written as %s and read as %v, %v", c, raw, back, err)
		}
	}
	for _, bad := range []string{"x", "1.", ".1", "1.0", "01", "1.01", "1.2.3", "-1", "1.-1", "99999999999999999999", "1.9999999999", " 1"} {
		var c protocol.Cursor
		if err := c.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, c)
		}
	}
	var c protocol.Cursor
	if err := c.UnmarshalText(nil); err != nil || c != (protocol.Cursor{}) {
		t.Errorf("nothing is read as %v, %v", c, err)
	}
}
