package wire

import (
	"bytes"
	"encoding/json"
)

// Identity is the first frame that a client gets: which agent it has reached. Class is the name as paths have it. If a state
// comes next, clients can wait for it before they say that they are ready.
func Identity(class, name string, stateFollows bool) []byte {
	return encode(struct {
		Type         string `json:"type"`
		Name         string `json:"name"`
		Agent        string `json:"agent"`
		StateFollows bool   `json:"stateFollows,omitempty"`
	}{typeIdentity, name, class, stateFollows})
}

// Pong answers a client that asks whether the connection is alive.
func Pong() []byte { return []byte(`{"type":"` + typePong + `"}`) }

// State brings the state of the agent, which is JSON.
func State(state json.RawMessage) []byte {
	frame := make([]byte, 0, len(state)+len(typeState)+24)
	frame = append(frame, `{"type":"`+typeState+`","state":`...)
	return append(append(frame, state...), '}')
}

// StateSet tells a client which of its states was set. It comes where its place is among the states that others have set.
func StateSet(id string) []byte {
	return encode(struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	}{typeStateSet, id})
}

// StateError refuses a state that the client has sent. The reason, which may be empty, is for people.
func StateError(text, reason string) []byte {
	return encode(struct {
		Type   string `json:"type"`
		Error  string `json:"error"`
		Reason string `json:"reason,omitempty"`
	}{typeStateError, text, reason})
}

// answer is a frame that answers a call.
type answer struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	Success bool            `json:"success"`
	Result  json.RawMessage `json:"result,omitempty"`
	Done    *bool           `json:"done,omitempty"`
	Error   string          `json:"error,omitempty"`
}

// Result answers a call for good. A method that returns nothing has no result, not even null.
func Result(id string, result json.RawMessage) []byte {
	return encode(answer{Type: typeCall, ID: id, Success: true, Result: result, Done: new(true)})
}

// Chunk is a part of an answer of which more is to come.
func Chunk(id string, chunk json.RawMessage) []byte {
	return encode(answer{Type: typeCall, ID: id, Success: true, Result: chunk, Done: new(false)})
}

// CallError answers a call that has failed, or breaks off an answer that has begun.
func CallError(id, text string) []byte {
	if text == "" {
		text = "error"
	}
	return encode(answer{Type: typeCall, ID: id, Error: text})
}

// encode writes texts as they are, for people to read.
func encode(frame any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(frame); err != nil {
		panic(err) // texts, and JSON that was made here
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
