package journal

import (
	"encoding/json"
	"testing"
)

// FuzzAcknowledged holds the short way of reading an answer against the long one.
func FuzzAcknowledged(f *testing.F) {
	for _, seed := range []string{
		`{"stream":"S","seq":7}`, `{"stream":"S","seq":7,"duplicate":true}`, `{"stream":"S", "seq":7}`, `{"seq":7}`, ``,
		`{"stream":"S","seq":99999999999999999999}`, `{"stream":"S","seq":}`, `{"stream":"S","seq":7}}`, `{"error":{"code":400}}`,
		`{"stream":"S","domain":"d","seq":7}`, `{"stream":"a\"b","seq":7}`, `{"stream":"S","seq":07}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, ok := acknowledged(answer)
		if !ok {
			return
		}
		var want publishAnswer
		if err := json.Unmarshal(answer, &want); err != nil || want.Error != nil || want.Sequence != got {
			t.Errorf("%q is read as %d, it says %+v, %v", answer, got, want, err)
		}
	})
}
