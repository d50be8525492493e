package agent

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand"
	"net/netip"
	"reflect"
	"testing"
	randomly "testing/quick"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

type order struct {
	ID      string `json:"id"`
	N       int64  `json:"n,omitempty"`
	Price   float32
	Rate    float64
	Big     uint64
	Small   int8
	Paid    bool              `json:"paid,omitempty"`
	Lines   []orderLine       `json:"lines,omitempty"`
	All     []orderLine       `json:"all"`
	Raw     []byte            `json:"raw,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
	ByShelf map[int][]string
	First   *orderLine `json:"first,omitempty"`
	Count   *int
	Grid    [2][3]uint8
}

type orderLine struct {
	Name   string `json:"name"`
	Amount int
}

// TestStatesThatSurvive: what is said to survive comes back from JSON as it was, and most of what is plain survives.
func TestStatesThatSurvive(t *testing.T) {
	t.Parallel()
	c := copierOf(reflect.TypeFor[order]())
	seed := time.Now().UnixNano()
	source := rand.New(rand.NewSource(seed))
	survived := 0
	for range 300 {
		v, ok := randomly.Value(reflect.TypeFor[order](), source)
		if !ok {
			t.Fatal("no random order")
		}
		s := v.Interface().(order)
		if source.Intn(2) == 0 {
			s = order{ID: s.ID, N: s.N, Rate: s.Rate, Lines: s.Lines, All: s.All, Tags: map[string]string{"é<": "\u2028"}, First: s.First, Count: s.Count}
		}
		raw, err := json.Marshal(s)
		if err != nil {
			continue // it has no such number
		}
		var back order
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		if !isSurvivor(c, &s) {
			continue
		}
		survived++
		if !reflect.DeepEqual(s, back) {
			t.Fatalf("seed %d: %+v comes back as %+v", seed, s, back)
		}
	}
	if survived < 50 {
		t.Errorf("seed %d: only %d states survive", seed, survived)
	}
}

type written int

func (written) MarshalJSON() ([]byte, error) { return []byte(`1`), nil }

type (
	oddNames struct {
		A int `json:"B"`
		B int
	}
	embeds  struct{ orderLine }
	unnamed struct {
		N int `json:"-"`
	}
	quoted struct {
		N int `json:",string"`
	}
	slashed struct {
		N int `json:"a/b"`
	}
	zeroed struct {
		T order `json:",omitzero"`
	}
)

// TestStatesThatDoNotSurvive: by their value, or by their type. Each comes back as another one, or might.
func TestStatesThatDoNotSurvive(t *testing.T) {
	t.Parallel()
	bad := "\xff"
	for i, survives := range []bool{
		survivesJSON(order{ID: bad}), survivesJSON(order{Lines: []orderLine{}}), survivesJSON(order{All: []orderLine{{Name: bad}}}),
		survivesJSON(order{Tags: map[string]string{}}), survivesJSON(order{Tags: map[string]string{bad: ""}}), survivesJSON(order{Raw: []byte{}}),
		survivesJSON(order{ByShelf: map[int][]string{1: {bad}}}), survivesJSON(order{First: &orderLine{Name: bad}}),
		survivesJSON(time.Now()), survivesJSON(plainState{}), survivesJSON(written(0)), survivesJSON(netip.Addr{}), survivesJSON(json.Number("")),
		survivesJSON(any(nil)), survivesJSON([]any{}), survivesJSON(linked{}), survivesJSON(new([]int)), survivesJSON(new(new(int))),
		survivesJSON(oddNames{}), survivesJSON(embeds{}), survivesJSON(bytes.Buffer{}), survivesJSON(unnamed{}), survivesJSON(quoted{}),
		survivesJSON(slashed{}), survivesJSON(zeroed{}), survivesJSON(map[written]int{}),
	} {
		if survives {
			t.Errorf("state %d is said to survive", i)
		}
	}
	for i, survives := range []bool{
		survivesJSON(order{}), survivesJSON(uint64(math.MaxUint64)), survivesJSON(map[string][]int{"a": nil, "b": {}}), survivesJSON([]*orderLine{nil, {}}),
	} {
		if !survives {
			t.Errorf("state %d is said not to survive", i)
		}
	}
}

func survivesJSON[S any](s S) bool { return isSurvivor(copierOf(reflect.TypeFor[S]()), &s) }

// TestSetStateKeepsWhatJSONMakes: of every state, whether it survives or not, and nothing that its setter changes later.
func TestSetStateKeepsWhatJSONMakes(t *testing.T) {
	t.Parallel()
	for _, s := range []order{
		{ID: "a", Lines: []orderLine{{Name: "x"}}, Tags: map[string]string{"k": "v"}}, {ID: "\xff", Lines: []orderLine{}},
	} {
		class := Define("Order", func() *orderDesk { return &orderDesk{} })
		made, err := class.class.instance("jo", json.RawMessage(`{"id":"before"}`), 1)
		if err != nil {
			t.Fatal(err)
		}
		a := made.(*orderDesk)
		ctx, _ := turnOf(t, class, a, protocol.Record{})
		if got := a.State(); got.ID != "before" {
			t.Fatalf("state %+v", got)
		}
		if err := a.SetState(ctx, s); err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want order
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if s.Tags != nil {
			s.Lines[0].Name, s.Tags["k"] = "changed", "changed"
		}
		if got := a.State(); !reflect.DeepEqual(got, want) {
			t.Errorf("state %+v, want %+v", got, want)
		}
	}
}

type orderDesk struct{ Base[order] }
