package protocol_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestFrameText: a text comes back as it was, and one as large as may be fits into a message beside what else is in that.
func TestFrameText(t *testing.T) {
	t.Parallel()
	const most = 3 * protocol.MaxFrame / 2
	for _, letter := range []string{"x", "<", `"`, "\\", "\n", "\x00", "\u2028", "ü", "€"} {
		for _, n := range []int{1, protocol.MaxFrame / len(letter)} {
			text := protocol.FrameText(strings.Repeat(letter, n))
			body, err := protocol.Record{Outbox: []protocol.Outgoing{{Frames: &protocol.SocketBatch{Frames: []protocol.SocketFrame{{Text: &text}}}}}}.Encode()
			if err != nil || len(body) > most {
				t.Errorf("%d times %q takes %d bytes, %v; want at most %d", n, letter, len(body), err, most)
			}
			var back protocol.Record
			if err := json.Unmarshal(body, &back); err != nil || *back.Outbox[0].Frames.Frames[0].Text != text {
				t.Errorf("%d times %q does not come back: %v", n, letter, err)
			}
		}
	}
	for text, want := range map[string]protocol.FrameText{`"hi"`: "hi", `{"base64":"aGk="}`: "hi"} {
		var got protocol.FrameText
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", text, got, err, want)
		}
	}
	for _, wrong := range []string{`{"base64":7}`, `{"base64":"?"}`, `7`, `[]`} {
		var got protocol.FrameText
		if err := json.Unmarshal([]byte(wrong), &got); err == nil {
			t.Errorf("%s is read as %q", wrong, got)
		}
	}
}

// TestFrameTextIsUTF8: what is not is told in the same way, whether the text is large or not.
func TestFrameTextIsUTF8(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, protocol.MaxFrame / 2} {
		body, err := json.Marshal(protocol.FrameText(strings.Repeat("\"\xff", n)))
		if err != nil {
			t.Fatal(err)
		}
		var got protocol.FrameText
		if err := json.Unmarshal(body, &got); err != nil || string(got) != strings.Repeat("\"\uFFFD", n) {
			t.Errorf("%d times: %.30q, %v", n, got, err)
		}
	}
}
