package agent

import (
	"encoding"
	"encoding/json"
	"reflect"
	"time"
)

// copier makes copies of states that share nothing with what they were copied from, of types where that is known to be
// what reading the JSON again would come to. It costs less the fewer references a state has; reading costs every byte.
type copier struct {
	// own gives a value that was assigned from another one copies of its own of everything that it refers to. It is nil
	// if values of the type refer to nothing that can change.
	own func(reflect.Value)
	// plain is set if values of the type can survive JSON; same tells those that do, and is nil if all do.
	plain bool
	same  survives
}

// copierOf returns how values of a type are copied that json.Unmarshal has made; nil if that cannot be told.
func copierOf(t reflect.Type) *copier {
	own, ok := ownerOf(t, map[reflect.Type]bool{})
	if !ok {
		return nil
	}
	c := &copier{own: own}
	c.same, c.plain = survivorOf(t, map[reflect.Type]bool{})
	return c
}

// isSurvivor reports whether reading the JSON of *s would make the same state: nobody has to, then.
func isSurvivor[S any](c *copier, s *S) bool {
	return c != nil && c.plain && (c.same == nil || c.same(reflect.ValueOf(s).Elem()))
}

// copied makes what was assigned to *s independent of what it was assigned from.
func copied[S any](c *copier, s *S) {
	if c.own != nil {
		c.own(reflect.ValueOf(s).Elem())
	}
}

var (
	readsJSON = reflect.TypeFor[json.Unmarshaler]()
	readsText = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isOpaque reports whether a type reads itself from JSON: what it makes of it can be anything.
func isOpaque(t reflect.Type) bool {
	if t == reflect.TypeFor[json.RawMessage]() {
		return false
	}
	p := reflect.PointerTo(t)
	return p.Implements(readsJSON) || p.Implements(readsText)
}

// ownerOf is copier.own for a type, and whether it can be copied. Types that contain themselves are left to JSON.
func ownerOf(t reflect.Type, within map[reflect.Type]bool) (own func(reflect.Value), ok bool) {
	switch k := t.Kind(); {
	case k >= reflect.Bool && k <= reflect.Float64 && k != reflect.Uintptr, k == reflect.String, t == reflect.TypeFor[time.Time]():
		return nil, true // it refers to nothing that can change
	case within[t] || isOpaque(t):
		return nil, false
	}
	within[t] = true
	defer delete(within, t)
	switch t.Kind() {
	case reflect.Struct:
		return fieldsOwner(t, within)
	case reflect.Interface:
		return ownAny, t.NumMethod() == 0
	case reflect.Map:
		if key, ok := ownerOf(t.Key(), within); !ok || key != nil {
			return nil, false
		}
	case reflect.Slice, reflect.Array, reflect.Pointer:
	default:
		return nil, false
	}
	elem, ok := ownerOf(t.Elem(), within)
	if !ok {
		return nil, false
	}
	switch t.Kind() {
	case reflect.Map:
		return func(v reflect.Value) { ownMap(v, elem) }, true
	case reflect.Slice:
		return func(v reflect.Value) { ownSlice(v, elem) }, true
	case reflect.Pointer:
		return func(v reflect.Value) { ownPointer(v, elem) }, true
	}
	if elem == nil {
		return nil, true
	}
	return func(v reflect.Value) { ownElements(v, elem) }, true
}

// fieldsOwner is ownerOf for a struct. What is in fields that JSON does not reach is always zero.
func fieldsOwner(t reflect.Type, within map[reflect.Type]bool) (own func(reflect.Value), ok bool) {
	owners := map[int]func(reflect.Value){}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() && !f.Anonymous || f.Tag.Get("json") == "-" {
			continue
		}
		field, ok := ownerOf(f.Type, within)
		if !ok || field != nil && !f.IsExported() {
			return nil, false
		}
		if field != nil {
			owners[i] = field
		}
	}
	if len(owners) == 0 {
		return nil, true
	}
	return func(v reflect.Value) {
		for i, own := range owners {
			own(v.Field(i))
		}
	}, true
}

func ownElements(v reflect.Value, elem func(reflect.Value)) {
	for i := range v.Len() {
		elem(v.Index(i))
	}
}

func ownSlice(v reflect.Value, elem func(reflect.Value)) {
	if v.IsNil() {
		return
	}
	mine := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
	reflect.Copy(mine, v)
	if elem != nil {
		ownElements(mine, elem)
	}
	v.Set(mine)
}

func ownMap(v reflect.Value, elem func(reflect.Value)) {
	if v.IsNil() {
		return
	}
	mine := reflect.MakeMapWithSize(v.Type(), v.Len())
	value := reflect.New(v.Type().Elem()).Elem()
	for all := v.MapRange(); all.Next(); {
		value.SetIterValue(all)
		if elem != nil {
			elem(value)
		}
		mine.SetMapIndex(all.Key(), value)
	}
	v.Set(mine)
}

func ownPointer(v reflect.Value, elem func(reflect.Value)) {
	if v.IsNil() {
		return
	}
	mine := reflect.New(v.Type().Elem())
	mine.Elem().Set(v.Elem())
	if elem != nil {
		elem(mine.Elem())
	}
	v.Set(mine)
}

// ownAny is for what JSON makes of an interface.
func ownAny(v reflect.Value) {
	if !v.IsNil() {
		v.Set(reflect.ValueOf(copyAny(v.Interface())))
	}
}

func copyAny(x any) any {
	switch x := x.(type) {
	case []any:
		mine := make([]any, len(x))
		for i := range x {
			mine[i] = copyAny(x[i])
		}
		return mine
	case map[string]any:
		mine := make(map[string]any, len(x))
		for key := range x {
			mine[key] = copyAny(x[key])
		}
		return mine
	}
	return x
}
