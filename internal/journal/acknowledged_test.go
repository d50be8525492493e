package journal

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestAnswersThatComeTwice: an acknowledgement that comes again must not pass for that of the next append.
func TestAnswersThatComeTwice(t *testing.T) {
	t.Parallel()
	b := &replyInbox{newest: map[string]uint64{}}
	for i, row := range []struct {
		answer string
		fresh  bool
	}{
		{`{"stream":"A","seq":7}`, true}, {`{"stream":"A","seq":7}`, false}, {`{"stream":"B","seq":3}`, true},
		{`{"stream":"A","seq":6}`, false}, {`{"error":{"err_code":10071}}`, true}, {`{"error":{"err_code":10071}}`, true},
		{`{"stream":"A","seq":8}`, true}, {`{"stream":"B","seq":3}`, false},
		{`{"stream":"WORKFLOWS_a=1","seq":7}`, true}, {`{"stream":"WORKFLOWS_a=1","seq":7}`, false}, {`{"stream":"WORKFLOWS_a=2","seq":7}`, true},
		{`{"stream":"C","domain":"d","seq":7}`, true}, {`{"stream":"C","domain":"d","seq":7}`, false}, {`{"stream":"C","domain":"d","seq":8}`, true},
	} {
		if got := b.fresh(&nats.Msg{Data: []byte(row.answer)}); got != row.fresh {
			t.Errorf("answer %d, %s: fresh is %v", i, row.answer, got)
		}
	}
}

// FuzzAcknowledged holds the short way of reading an answer against the long one.
func FuzzAcknowledged(f *testing.F) {
	for _, seed := range []string{
		`{"stream":"S","seq":7}`, `{"stream":"S","seq":7,"duplicate":true}`, `{"stream":"S", "seq":7}`, `{"seq":7}`, ``,
		`{"stream":"S","seq":99999999999999999999}`, `{"stream":"S","seq":}`, `{"stream":"S","seq":7}}`, `{"error":{"code":400}}`,
		`{"stream":"WORKFLOWS_a=1","seq":7}`, `{"stream":"S","domain":"d","seq":7}`, `{"stream":"a\"b","seq":7}`, `{"stream":"S","seq":07}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var want publishAnswer
		_, got, ok := acknowledgedSimply(answer)
		if !ok {
			stream, sequence, stored := acknowledged(answer)
			if err := json.Unmarshal(answer, &want); stored != (err == nil && want.Error == nil && want.Stream != "" && want.Sequence > 0) ||
				stored && (string(stream) != want.Stream || sequence != want.Sequence) {
				t.Errorf("%q is read as %q %d %v, it says %+v, %v", answer, stream, sequence, stored, want, err)
			}
			return
		}
		if err := json.Unmarshal(answer, &want); err != nil || want.Error != nil || want.Sequence != got {
			t.Errorf("%q is read as %d, it says %+v, %v", answer, got, want, err)
		}
	})
}
