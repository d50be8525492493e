package engine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestSnapshotHoldsEverything: who reads a snapshot knows what the log before it says, all of it.
func TestSnapshotHoldsEverything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 8))
		x := &life{t: t, r: r, log: newLog(t), now: noon, program: randomChores(r, 2, ""), recorded: map[protocol.Key]string{}}
		x.live()
		x.m.Finish(nil, nil)
		x.cut()
		s := &steered{log: x.log}
		s.stored = s.stored[:r.IntN(len(s.stored))]
		for range r.IntN(4) {
			c := randomControl(r)
			if h := s.history(); c.From != nil && len(h.Order) > 0 {
				c.From = &h.Order[r.IntN(len(h.Order))]
			}
			s.obey(s.control(c))
		}
		whole := s.history()
		before := s.last
		s.holder = whole.Holder
		at := s.put(protocol.Append{
			V: protocol.Version, Incarnation: whole.Incarnation, Holder: whole.Holder, Mark: whole.Mark, Epoch: whole.Epoch, Time: noon,
			Entries: []protocol.Entry{must[protocol.Entry](t)(whole.Snapshot(nil, before))},
		})
		all := s.history()
		s.stored = s.stored[len(s.stored)-1:]
		only := s.history()
		for name, h := range map[string]*engine.History{"read alone": only, "read after the log": all} {
			if h.CarriedTo != before || h.Tail != at {
				t.Errorf("seed %d: carried to %d, tail %d", seed, h.CarriedTo, h.Tail)
			}
			h.CarriedTo, h.Tail, h.Begun = whole.CarriedTo, whole.Tail, whole.Begun
			if d := difference("", reflect.ValueOf(*whole), reflect.ValueOf(*h)); d != "" {
				t.Fatalf("seed %d: a snapshot %s says otherwise: %s", seed, name, d)
			}
		}
	}
}

// TestGlanceNeedsNoObject: of a snapshot whose history is in an object a glance tells what it tells of any.
func TestGlanceNeedsNoObject(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 9))
		x := &life{t: t, r: r, log: newLog(t), now: noon, program: randomChores(r, 2, ""), recorded: map[protocol.Key]string{}}
		x.live()
		if r.IntN(2) == 0 {
			x.m.Finish(json.RawMessage(`"done"`), nil)
		}
		x.cut()
		s := &steered{log: x.log}
		for range r.IntN(4) {
			s.obey(s.control(randomControl(r)))
		}
		h := s.history()
		inside := protocol.Append{
			V: protocol.Version, Incarnation: h.Incarnation, Holder: h.Holder, Mark: h.Mark, Epoch: h.Epoch, Time: noon,
			Entries: []protocol.Entry{must[protocol.Entry](t)(h.Snapshot(nil, s.last))},
		}
		outside, entry, snapshot := inside, inside.Entries[0], *inside.Entries[0].Snapshot
		if err := h.PutOut(&snapshot, &protocol.Object{Name: "somewhere"}); err != nil {
			t.Fatal(err)
		}
		entry.Snapshot = &snapshot
		outside.Entries = []protocol.Entry{entry}
		want := must[protocol.Status](t)(engine.Glance(h.Stream, h.Incarnation, h.Create, s.last+1, &inside))
		got := must[protocol.Status](t)(engine.Glance(h.Stream, h.Incarnation, h.Create, s.last+1, &outside))
		if d := difference("", reflect.ValueOf(want), reflect.ValueOf(got)); d != "" {
			t.Fatalf("seed %d: at a glance it is another: %s", seed, d)
		}
		if err := engine.NewHistory(h.Stream, h.Incarnation, h.Create).Apply(s.last+1, &outside); !errors.Is(err, engine.ErrSnapshot) {
			t.Fatalf("seed %d: folded without its history: %v", seed, err)
		}
	}
}

// difference tells where two values differ. Nothing and an empty list are the same, and so is what stands for the log.
func difference(path string, a, b reflect.Value) string {
	switch {
	case path == ".standsOver", path == ".newest", path == ".open", path == ".undone": // the snapshot itself is newer, and what ended is not open
		return ""
	case a.Type() == reflect.TypeFor[time.Time]():
		if fmt.Sprint(a) != fmt.Sprint(b) {
			return fmt.Sprintf("%s: %v, %v", path, a, b)
		}
		return ""
	}
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			break
		}
		return difference(path, a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			if d := difference(path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i)); d != "" {
				return d
			}
		}
		return ""
	case reflect.Slice:
		for i := range min(a.Len(), b.Len()) {
			if d := difference(fmt.Sprint(path, "[", i, "]"), a.Index(i), b.Index(i)); d != "" {
				return d
			}
		}
		a, b = reflect.ValueOf(a.Len()), reflect.ValueOf(b.Len())
	case reflect.Map:
		for _, k := range a.MapKeys() {
			if !b.MapIndex(k).IsValid() {
				return fmt.Sprintf("%s: %v is missing", path, k)
			}
			if d := difference(fmt.Sprint(path, "[", k, "]"), a.MapIndex(k), b.MapIndex(k)); d != "" {
				return d
			}
		}
		a, b = reflect.ValueOf(a.Len()), reflect.ValueOf(b.Len())
	}
	if fmt.Sprint(a) != fmt.Sprint(b) {
		return fmt.Sprintf("%s: %v, %v", path, a, b)
	}
	return ""
}
