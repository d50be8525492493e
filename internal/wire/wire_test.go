package wire

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestGoldenBytes: these are the frames that clients in the field know. They never change.
func TestGoldenBytes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"identity", Identity("flight-desk", "jo@x <1>", false), `{"type":"cf_agent_identity","name":"jo@x <1>","agent":"flight-desk"}`},
		{"identity before a state", Identity("desk", "jo", true), `{"type":"cf_agent_identity","name":"jo","agent":"desk","stateFollows":true}`},
		{"pong", Pong(), `{"type":"skein_pong"}`},
		{"state", State(json.RawMessage(`{"n":1}`)), `{"type":"cf_agent_state","state":{"n":1}}`},
		{"state error", StateError(StateRejected, ""), `{"type":"cf_agent_state_error","error":"State update rejected"}`},
		{"state error with a reason", StateError(StateRejected, "n < 0"), `{"type":"cf_agent_state_error","error":"State update rejected","reason":"n < 0"}`},
		{"readonly", StateError(StateReadonly, ""), `{"type":"cf_agent_state_error","error":"Connection is readonly"}`},
		{"result", Result("7", json.RawMessage(`[1]`)), `{"type":"rpc","id":"7","success":true,"result":[1],"done":true}`},
		{"null", Result("7", json.RawMessage(`null`)), `{"type":"rpc","id":"7","success":true,"result":null,"done":true}`},
		{"no result", Result("7", nil), `{"type":"rpc","id":"7","success":true,"done":true}`},
		{"chunk", Chunk("7", json.RawMessage(`"a"`)), `{"type":"rpc","id":"7","success":true,"result":"a","done":false}`},
		{"error", CallError("7", "no <seat>"), `{"type":"rpc","id":"7","success":false,"error":"no <seat>"}`},
		{"error without a text", CallError("7", ""), `{"type":"rpc","id":"7","success":false,"error":"error"}`},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.name, test.got, test.want)
		}
		if !json.Valid(test.got) {
			t.Errorf("%s is no JSON", test.name)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Frame{
		`{"type":"cf_agent_state","state":{"n":1}}`:                     {Kind: KindState, State: json.RawMessage(`{"n":1}`)},
		`{"type":"cf_agent_state","state":1,"id":"7"}`:                  {Kind: KindState, State: json.RawMessage(`1`), StateID: "7"},
		` {"state":null,"type":"cf_agent_state"}`:                       {Kind: KindState, State: json.RawMessage(`null`)},
		`{"type":"rpc","id":"7","method":"add","args":[1,"a"]}`:         {Kind: KindCall, Call: Call{ID: "7", Method: "add", Args: args(`1`, `"a"`)}},
		`{"type":"rpc","id":"7","method":"add","args":[],"extra":true}`: {Kind: KindCall, Call: Call{ID: "7", Method: "add", Args: args()}},
		`{"type":"skein_ping"}`:                                         {Kind: KindPing},
		`hello`:                                                         {},
		``:                                                              {},
		`[{"type":"rpc"}]`:                                              {},
		`{"type":"chat"}`:                                               {},
		`{"type":7}`:                                                    {},
		`{"type":null}`:                                                 {},
		`{"Type":"rpc","id":"7"}`:                                       {},
		`{"type":"rpc"`:                                                 {},
		`{"type":"RPC"}`:                                                {},
		"{\"type\":\"rpc\",\"\xff\":1}":                                 {},
		`{"type":"cf_agent_identity"}`:                                  {},
	} {
		got, err := Decode([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Decode(%s) = %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func args(texts ...string) []json.RawMessage {
	all := []json.RawMessage{}
	for _, text := range texts {
		all = append(all, json.RawMessage(text))
	}
	return all
}

func TestDecodeSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]FrameError{
		`{"type":"cf_agent_state"}`:                              {Kind: KindState, Reason: "the field state is missing"},
		`{"type":"cf_agent_state","state":1,"id":7}`:             {Kind: KindState, Reason: "the field id is 7; allowed is a text of 1 to 256 bytes"},
		`{"type":"cf_agent_state","state":1,"id":""}`:            {Kind: KindState, Reason: `the field id is ""; allowed is a text of 1 to 256 bytes`},
		`{"type":"rpc","method":"add","args":[]}`:                {Kind: KindCall, Reason: "the field id is missing; allowed is a text of 1 to 256 bytes"},
		`{"type":"rpc","id":7,"method":"add","args":[]}`:         {Kind: KindCall, Reason: "the field id is 7; allowed is a text of 1 to 256 bytes"},
		`{"type":"rpc","id":"","method":"add","args":[]}`:        {Kind: KindCall, Reason: `the field id is ""; allowed is a text of 1 to 256 bytes`},
		`{"type":"rpc","id":"7","args":[]}`:                      {Kind: KindCall, CallID: "7", Reason: "the field method is missing; allowed is a text of up to 256 bytes"},
		`{"type":"rpc","id":"7","method":["add"],"args":[]}`:     {Kind: KindCall, CallID: "7", Reason: `the field method is ["add"]; allowed is a text of up to 256 bytes`},
		`{"type":"rpc","id":"7","method":"add"}`:                 {Kind: KindCall, CallID: "7", Reason: "the field args is missing; allowed is an array"},
		`{"type":"rpc","id":"7","method":"add","args":{"0":1}}`:  {Kind: KindCall, CallID: "7", Reason: `the field args is {"0":1}; allowed is an array`},
		`{"type":"rpc","id":"7","method":"add","args":null}`:     {Kind: KindCall, CallID: "7", Reason: `the field args is null; allowed is an array`},
		`{"type":"rpc","id":"` + strings.Repeat("x", 257) + `"}`: {Kind: KindCall, Reason: `the field id is "` + strings.Repeat("x", 59) + `…; allowed is a text of 1 to 256 bytes`},
		`{"type":"rpc","id":"7","method":"` + "a" + `","args":"` + strings.Repeat("ü", 60) + `"}`: {Kind: KindCall, CallID: "7",
			Reason: `the field args is "` + strings.Repeat("ü", 29) + `…; allowed is an array`},
		`{"type":"rpc","id":"7","method":"` + strings.Repeat("m", 257) + `"}`: {Kind: KindCall, CallID: "7",
			Reason: `the field method is "` + strings.Repeat("m", 59) + `…; allowed is a text of up to 256 bytes`},
		`{"type":"rpc","id":"7","method":"add","args":[1` + strings.Repeat(",1", 100) + `]}`: {Kind: KindCall, CallID: "7",
			Reason: "the field args has 101 elements; allowed are 100"},
		`{"type":"rpc","id":"7","method":"add","args":[` + nested(1001) + `]}`: {Kind: KindCall, CallID: "7",
			Reason: "the field args is nested more than 1000 deep"},
		`{"type":"cf_agent_state","state":` + nested(1001) + `}`: {Kind: KindState, Reason: "the field state is nested more than 1000 deep"},
	} {
		_, err := Decode([]byte(text))
		wrong, ok := errors.AsType[*FrameError](err)
		if ok {
			field := wrong.Field
			wrong.Field = ""
			if !strings.HasPrefix(want.Reason, "the field "+field+" ") || wrong.Error() == wrong.Brief() {
				t.Errorf("Decode(%.80s): the field is %q", text, field)
			}
		}
		if !ok || *wrong != want {
			t.Errorf("Decode(%.80s): %+v, want %+v", text, err, want)
		}
	}
}

// nested is JSON that is so deep, with texts in it that look like more.
func nested(depth int) string {
	return strings.Repeat(`["[{\\\"[",`, depth-1) + `{}` + strings.Repeat("]", depth-1)
}

func TestDepth(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 1000} {
		text := `{"type":"cf_agent_state","state":` + nested(n) + `}`
		if f, err := Decode([]byte(text)); err != nil || f.Kind != KindState || depth(f.State) != n {
			t.Errorf("Decode of %d: kind %d of depth %d, %v", n, f.Kind, depth(f.State), err)
		}
	}
}

type item struct {
	SKU   string `json:"sku"`
	Count int    `json:"count"`
}

func TestBind(t *testing.T) {
	t.Parallel()
	all := []reflect.Type{
		reflect.TypeFor[string](), reflect.TypeFor[int8](), reflect.TypeFor[uint16](), reflect.TypeFor[float64](), reflect.TypeFor[bool](),
		reflect.TypeFor[item](), reflect.TypeFor[[]string](), reflect.TypeFor[*int](), reflect.TypeFor[any](), reflect.TypeFor[time.Time](),
	}
	good := []string{`"a"`, `-3`, `9`, `1.5`, `true`, `{"sku":"x","count":2}`, `["a"]`, `null`, `{"free":1}`, `"2027-02-23T00:00:00Z"`}
	m := NewMethod("AddAll", all)
	values, err := m.Bind(args(good...))
	if err != nil || len(values) != len(all) || values[0].String() != "a" || values[5].Interface() != (item{"x", 2}) || !values[7].IsNil() {
		t.Fatalf("Bind = %v, %v", values, err)
	}
	for _, test := range []struct {
		position int
		value    string
		want     string
	}{
		{1, `7`, "Method addAll: argument 1 is 7; allowed is a text"},
		{1, `null`, "Method addAll: argument 1 is null; allowed is a text"},
		{2, `300`, "Method addAll: argument 2 is 300; allowed is a whole number of 8 bits"},
		{2, `1.5`, "Method addAll: argument 2 is 1.5; allowed is a whole number of 8 bits"},
		{3, `-1`, "Method addAll: argument 3 is -1; allowed is a whole number from 0, of 16 bits"},
		{4, `"1"`, `Method addAll: argument 4 is "1"; allowed is a number`},
		{5, `1`, "Method addAll: argument 5 is 1; allowed is true or false"},
		{6, `{"sku":1}`, `Method addAll: argument 6 is {"sku":1}; allowed is an object item (the field sku cannot be number)`},
		{6, `[]`, "Method addAll: argument 6 is []; allowed is an object item"},
		{7, `"a"`, `Method addAll: argument 7 is "a"; allowed is an array`},
		{8, `"a"`, `Method addAll: argument 8 is "a"; allowed is a whole number of 64 bits or null`},
		{10, `"soon"`, `argument 10 is "soon"; allowed is an object Time (parsing time`},
	} {
		bad := args(good...)
		bad[test.position-1] = json.RawMessage(test.value)
		_, err := m.Bind(bad)
		if wrong, ok := errors.AsType[*ArgumentError](err); !ok || wrong.Position != test.position || !strings.Contains(err.Error(), test.want) {
			t.Errorf("argument %d = %s: %v, want %q", test.position, test.value, err, test.want)
		}
	}
}

func TestBindCounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		params []reflect.Type
		args   []json.RawMessage
		want   string
	}{
		{nil, args(`1`), "Method add takes no arguments, got 1"},
		{[]reflect.Type{reflect.TypeFor[item]()}, nil, "Method add takes 1 argument (an object item), got 0"},
		{[]reflect.Type{reflect.TypeFor[string](), reflect.TypeFor[[]byte]()}, args(`1`, `2`, `3`), "Method add takes 2 arguments (a text, a text in base64), got 3"},
	} {
		if _, err := NewMethod("Add", test.params).Bind(test.args); err == nil || err.Error() != test.want {
			t.Errorf("Bind = %v, want %q", err, test.want)
		}
	}
}

func TestClientName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"Add": "add", "AddItem": "addItem", "HTTPGet": "httpGet", "ID": "id", "X": "x", "URL2": "url2"} {
		if got := ClientName(name); got != want {
			t.Errorf("ClientName(%s) = %s, want %s", name, got, want)
		}
	}
}

// FuzzDecode: nothing that a client can send is more than a frame or an error, and a call that is read can be answered.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"type":"rpc","id":"7","method":"add","args":[1,{"a":[]}]}`, `{"type":"cf_agent_state","state":{"n":1}}`, `{"type":"rpc"}`,
		`{"type":"rpc","id":"\ud800","method":"","args":[null]}`, `hello`, `{`, `[]`, "\xff{}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		frame, err := Decode(text)
		if wrong, ok := errors.AsType[*FrameError](err); err != nil && (!ok || wrong.Reason == "") {
			t.Fatalf("Decode(%q) = %v", text, err)
		}
		switch frame.Kind {
		case KindState:
			if !json.Valid(State(frame.State)) {
				t.Fatalf("Decode(%q) has the state %q, which cannot be sent on", text, frame.State)
			}
		case KindCall:
			if frame.Call.ID == "" || !json.Valid(CallError(frame.Call.ID, frame.Call.Method)) {
				t.Fatalf("Decode(%q) = %+v, which cannot be answered", text, frame.Call)
			}
			types := make([]reflect.Type, len(frame.Call.Args))
			for i := range types {
				types[i] = reflect.TypeFor[any]()
			}
			if _, err := NewMethod("M", types).Bind(frame.Call.Args); err != nil {
				t.Fatalf("Decode(%q): %v", text, err)
			}
		}
	})
}
