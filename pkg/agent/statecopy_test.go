package agent

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"testing"
	"time"
	"unsafe"
)

type plainState struct {
	N     int
	Flag  bool `json:",omitempty"`
	Text  string
	Times [2]time.Time
	inner struct{ n int }
}

type part1 struct{ Names []string }

type treeState struct {
	plainState
	Lines   []plainState
	Bytes   []byte
	Grid    [2][]int
	ByName  map[string]*plainState
	Nested  map[int]map[string][]string
	Pointer *[]string
	Raw     json.RawMessage
	Number  json.Number
	Any     any
	Parts   []part1 `json:"parts,omitempty"`
	Hidden  func()  `json:"-"`
}

type linked struct{ Next *linked }

type embedsTime struct{ time.Time }

type hiddenPart struct {
	part1Alias
}

type part1Alias struct{ Names []string }

// TestWhichStatesAreCopied: those of which it is known what JSON makes of them.
func TestWhichStatesAreCopied(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		state       any
		copied, own bool
	}{
		{state: plainState{}, copied: true},
		{state: "", copied: true},
		{state: time.Time{}, copied: true},
		{state: meterLike{}, copied: true},
		{state: treeState{}, copied: true, own: true},
		{state: map[string]any{}, copied: true, own: true},
		{state: linked{}},
		{state: big.Int{}},
		{state: struct{ Addr netip.Addr }{}},
		{state: embedsTime{}},
		{state: map[netip.Addr]int{}},
		{state: struct{ C chan int }{}},
		{state: hiddenPart{}},
		{state: struct{ S fmt.Stringer }{}},
	} {
		c := copierOf(reflect.TypeOf(test.state))
		if (c != nil) != test.copied || c != nil && (c.own != nil) != test.own {
			t.Errorf("%T is copied: %+v", test.state, c)
		}
	}
}

type meterLike struct {
	N   int    `json:"n"`
	Pad string `json:"pad,omitempty"`
}

// samples are trees as JSON makes them: everything set, much of it empty, nothing set.
func samples(t *testing.T) []treeState {
	t.Helper()
	line := plainState{N: -1, Flag: true, Text: "é", Times: [2]time.Time{time.Now()}}
	line.inner.n = 7
	full := treeState{
		plainState: line, Lines: []plainState{line, {}}, Bytes: []byte("abc"), Grid: [2][]int{{1}, {2, 3}},
		ByName: map[string]*plainState{"a": &line, "b": nil}, Nested: map[int]map[string][]string{1: {"x": {"y"}}, 2: nil},
		Pointer: &[]string{"z"}, Raw: json.RawMessage(`{"a": 1}`), Number: "12.5", Parts: []part1{{Names: []string{"n"}}},
		Any: []any{map[string]any{"k": []int{1}, "l": line}, 1.5, nil, "x", true, []any{}},
	}
	empty := treeState{
		Lines: []plainState{}, Bytes: []byte{}, Grid: [2][]int{{}}, ByName: map[string]*plainState{}, Pointer: new([]string),
		Nested: map[int]map[string][]string{0: {}}, Raw: json.RawMessage("null"), Any: map[string]any{}, Parts: []part1{},
	}
	var all []treeState
	for _, s := range []treeState{full, empty, {}} {
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var read treeState
		if err := json.Unmarshal(raw, &read); err != nil {
			t.Fatal(err)
		}
		all = append(all, read)
	}
	return all
}

// TestCopiesShareNothing: whatever is in a state, its copy is the same, and no change of one reaches the other.
func TestCopiesShareNothing(t *testing.T) {
	t.Parallel()
	c := copierOf(reflect.TypeFor[treeState]())
	for i, first := range samples(t) {
		second := first
		copied(c, &second)
		if !reflect.DeepEqual(first, second) {
			t.Errorf("copied\n%+v as\n%+v", first, second)
		}
		shared := map[uintptr]bool{}
		references(reflect.ValueOf(&first).Elem(), func(p uintptr) { shared[p] = true })
		if i == 0 && len(shared) < 15 {
			t.Errorf("%d references in %+v", len(shared), first)
		}
		references(reflect.ValueOf(&second).Elem(), func(p uintptr) {
			if shared[p] {
				t.Errorf("copy %d shares something: %+v", i, second)
			}
		})
	}
}

// references tells f where all is that v refers to and that can be changed.
func references(v reflect.Value, f func(uintptr)) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for _, field := range v.Fields() {
			references(field, f)
		}
	case reflect.Array:
		for i := range v.Len() {
			references(v.Index(i), f)
		}
	case reflect.Slice:
		if v.Len() > 0 {
			f(v.Pointer())
		}
		for i := range v.Len() {
			references(v.Index(i), f)
		}
	case reflect.Map:
		if v.Pointer() != 0 {
			f(v.Pointer())
		}
		for all := v.MapRange(); all.Next(); {
			references(all.Value(), f)
		}
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return
		}
		if v.Kind() == reflect.Pointer {
			f(v.Pointer())
		}
		references(v.Elem(), f)
	}
}

type plainReader struct{ Base[meterLike] }

type treeReader struct{ Base[treeState] }

// TestStateIsReadOnce: not by everyone who looks at it. What is looked at can be changed without being stored.
func TestStateIsReadOnce(t *testing.T) {
	t.Parallel()
	c := Define("Reader", func() *plainReader { return &plainReader{} }).class
	raw := json.RawMessage(`{"n":7,"pad":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`)
	made, err := c.instance("jo", raw, 1)
	if err != nil {
		t.Fatal(err)
	}
	r := made.(*plainReader)
	a, b := r.State(), r.State()
	if a.N != 7 || a != b || unsafe.StringData(a.Pad) != unsafe.StringData(b.Pad) {
		t.Errorf("states %+v and %+v, want the same texts in memory", a, b)
	}
	tree := Define("Tree", func() *treeReader { return &treeReader{} }).class
	made, err = tree.instance("jo", json.RawMessage(`{"Lines":[{"N":1}],"ByName":{"a":{"N":2}},"Any":{"x":[1]}}`), 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s := made.(*treeReader).State()
		if s.Lines[0].N != 1 || s.ByName["a"].N != 2 || len(s.ByName) != 1 || fmt.Sprint(s.Any) != "map[x:[1]]" {
			t.Fatalf("state %+v", s)
		}
		s.Lines[0].N, s.ByName["a"].N, s.ByName["b"], s.Any.(map[string]any)["x"].([]any)[0] = 5, 5, nil, 5
	}
}
