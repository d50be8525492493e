package protocol

import (
	"bytes"
	"encoding/json"
	"strings"
)

// FrameText is the text of a frame. A large one that JSON would make longer still travels in base64, as an object: so a frame
// fits into a message, whatever is in it.
type FrameText string

// packedText is how such a text travels.
type packedText struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON implements json.Marshaler.
func (t FrameText) MarshalJSON() ([]byte, error) {
	if GrowsInJSON(string(t)) {
		return json.Marshal(packedText{[]byte(strings.ToValidUTF8(string(t), "\uFFFD"))}) // as in a text of JSON
	}
	return encodePlain(string(t))
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *FrameText) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(data, []byte("{")) {
		return json.Unmarshal(data, (*string)(t))
	}
	var packed packedText
	if err := json.Unmarshal(data, &packed); err != nil {
		return err
	}
	*t = FrameText(packed.Base64)
	return nil
}

// GrowsInJSON reports whether a large text takes more bytes as a text of JSON than in base64: it might fit into no message.
func GrowsInJSON[T string | []byte](text T) bool {
	if len(text) < MaxFrame/8 {
		return false
	}
	more := 0
	for i := range len(text) {
		switch b := text[i]; {
		case b < ' ':
			more += 5
		case b == '"' || b == '\\':
			more++
		case b == 0xe2: // that of line separators, among others
			more += 3
		}
	}
	return more > len(text)/3
}

// encodePlain writes JSON without the escapes that browsers may need in HTML: markup would take six times as much.
func encodePlain(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
