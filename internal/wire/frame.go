package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Types of frames.
const (
	typeIdentity   = "cf_agent_identity"
	typeState      = "cf_agent_state"
	typeStateError = "cf_agent_state_error"
	typeCall       = "rpc"
	typeStateSet   = "skein_state_set"
	typePing       = "skein_ping"
	typePong       = "skein_pong"
)

// What a client is told of a state that it has sent.
const (
	StateRejected = "State update rejected"
	StateReadonly = "Connection is readonly"
)

// Limits of frames.
const (
	// MaxCallID is how many bytes the id of a call may have: it comes back with every answer. That of a state may have as many.
	MaxCallID = 256
	// MaxMethod is how many bytes the name of a method may have: errors repeat it.
	MaxMethod = 256
	// MaxArgs is how many arguments a call may have: no method has as many, and each takes more memory than the frame has for it.
	MaxArgs = 100
	// MaxDepth is how deep states and arguments may be nested: they travel inside of other JSON, whose readers have limits of their own.
	MaxDepth = 1000
)

// Kind says what a frame of a client is.
type Kind int

// Kinds of frames of clients.
const (
	// KindMessage is whatever is no other kind.
	KindMessage Kind = iota
	KindState
	KindCall
	// KindPing asks whether the connection is alive: pages cannot send the pings that WebSockets have.
	KindPing
)

// Frame is a text frame of a client.
type Frame struct {
	Kind Kind
	// State is set by KindState. StateID is not empty if the client wants to know when the state was set.
	State   json.RawMessage
	StateID string
	// Call is set by KindCall.
	Call Call
}

// Call asks for a method.
type Call struct {
	// ID is chosen by the client: the answers bear it.
	ID     string            `json:"id"`
	Method string            `json:"method"`
	Args   []json.RawMessage `json:"args,omitempty"`
}

// FrameError says what is wrong with a frame that says of itself that it is a state or a call.
type FrameError struct {
	Kind Kind
	// CallID is that of the call, if it has one that can be answered.
	CallID string
	// Field is the one that is wrong.
	Field  string
	Reason string
}

func (e *FrameError) Error() string { return e.what() + e.Reason }

// Brief says it without anything of the frame itself, for logs.
func (e *FrameError) Brief() string {
	return e.what() + "the field " + e.Field + " is missing or not allowed"
}

func (e *FrameError) what() string {
	if e.Kind == KindState {
		return "frame of a state: "
	}
	return "frame of a call: "
}

// Decode reads a text frame of a client. What does not say of itself that it is a state or a call is a message; what does,
// and is none, is a *FrameError. Names of fields are taken exactly as they are.
func Decode(text []byte) (Frame, error) {
	var fields map[string]json.RawMessage
	if !isObject(text) || json.Unmarshal(text, &fields) != nil {
		return Frame{}, nil
	}
	kind, err := decodeText(fields["type"])
	if err != nil {
		return Frame{}, nil
	}
	switch kind {
	case typeState:
		return decodeState(fields)
	case typeCall:
		return decodeCall(fields)
	case typePing:
		return Frame{Kind: KindPing}, nil
	}
	return Frame{}, nil
}

func isObject(text []byte) bool {
	rest := bytes.TrimLeft(text, " \t\r\n")
	return len(rest) > 0 && rest[0] == '{' && utf8.Valid(text)
}

func decodeText(raw json.RawMessage) (text string, err error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", fmt.Errorf("%.40q is no text", raw)
	}
	return text, json.Unmarshal(raw, &text)
}

func decodeState(fields map[string]json.RawMessage) (Frame, error) {
	state, ok := fields["state"]
	if !ok {
		return Frame{}, &FrameError{Kind: KindState, Field: "state", Reason: "the field state is missing"}
	}
	if depth(state) > MaxDepth {
		return Frame{}, &FrameError{Kind: KindState, Field: "state", Reason: tooDeep("state")}
	}
	var id string
	if raw, ok := fields["id"]; ok {
		var err error
		if id, err = decodeText(raw); err != nil || id == "" || len(id) > MaxCallID {
			return Frame{}, &FrameError{Kind: KindState, Field: "id",
				Reason: fmt.Sprintf("the field id is %s; allowed is a text of 1 to %d bytes", excerpt(raw), MaxCallID)}
		}
	}
	return Frame{Kind: KindState, State: state, StateID: id}, nil
}

func decodeCall(fields map[string]json.RawMessage) (Frame, error) {
	f := Frame{Kind: KindCall}
	var err error
	refuse := func(field, allowed string) (Frame, error) {
		reason := "the field " + field + " is missing"
		if value, ok := fields[field]; ok {
			reason = fmt.Sprintf("the field %s is %s", field, excerpt(value))
		}
		return Frame{}, &FrameError{Kind: KindCall, CallID: f.Call.ID, Field: field, Reason: reason + "; allowed is " + allowed}
	}
	if f.Call.ID, err = decodeText(fields["id"]); err != nil || f.Call.ID == "" || len(f.Call.ID) > MaxCallID {
		f.Call.ID = ""
		return refuse("id", fmt.Sprintf("a text of 1 to %d bytes", MaxCallID))
	}
	if f.Call.Method, err = decodeText(fields["method"]); err != nil || len(f.Call.Method) > MaxMethod {
		return refuse("method", fmt.Sprintf("a text of up to %d bytes", MaxMethod))
	}
	args := bytes.TrimLeft(fields["args"], " \t\r\n")
	if len(args) == 0 || args[0] != '[' || json.Unmarshal(args, &f.Call.Args) != nil {
		return refuse("args", "an array")
	}
	if n := len(f.Call.Args); n > MaxArgs {
		return Frame{}, &FrameError{Kind: KindCall, CallID: f.Call.ID, Field: "args",
			Reason: fmt.Sprintf("the field args has %d elements; allowed are %d", n, MaxArgs)}
	}
	if depth(args) > MaxDepth+1 {
		return Frame{}, &FrameError{Kind: KindCall, CallID: f.Call.ID, Field: "args", Reason: tooDeep("args")}
	}
	return f, nil
}

func tooDeep(field string) string {
	return fmt.Sprintf("the field %s is nested more than %d deep", field, MaxDepth)
}

// depth is how deep arrays and objects are nested in valid JSON.
func depth(value []byte) (deepest int) {
	now, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch b := value[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			now++
			deepest = max(deepest, now)
		case b == '}' || b == ']':
			now--
		}
	}
	return deepest
}

// excerpt shows the beginning of a value, for people.
func excerpt(value json.RawMessage) string {
	const most = 60
	if len(value) <= most {
		return string(value)
	}
	cut := value[:most]
	for len(cut) > 0 && !utf8.Valid(cut) {
		cut = cut[:len(cut)-1]
	}
	return string(cut) + "…"
}
