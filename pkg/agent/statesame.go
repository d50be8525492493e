package agent

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"unicode/utf8"
)

// survives reports whether reading the JSON of a value makes the same value.
type survives func(reflect.Value) bool

var (
	writesJSON = reflect.TypeFor[json.Marshaler]()
	writesText = reflect.TypeFor[encoding.TextMarshaler]()
)

// survivorOf returns what tells values of a type that survive JSON from others; nil if all do. It says no to types of which
// that is not plain: those that write or read themselves, or contain what JSON does not reach, or anything, or themselves.
func survivorOf(t reflect.Type, within map[reflect.Type]bool) (all survives, ok bool) {
	p := reflect.PointerTo(t)
	if within[t] || isOpaque(t) || p.Implements(writesJSON) || p.Implements(writesText) || t == reflect.TypeFor[json.Number]() {
		return nil, false
	}
	within[t] = true
	defer delete(within, t)
	switch k := t.Kind(); {
	case k >= reflect.Bool && k <= reflect.Float64 && k != reflect.Uintptr:
		return nil, true
	case k == reflect.String:
		return func(v reflect.Value) bool { return utf8.ValidString(v.String()) }, true
	case k == reflect.Struct:
		return fieldsSurvivor(t, within)
	case k == reflect.Slice || k == reflect.Array:
		elem, ok := survivorOf(t.Elem(), within)
		if elem == nil {
			return nil, ok
		}
		return func(v reflect.Value) bool { return elementsSurvive(v, elem) }, true
	case k == reflect.Map:
		return mapSurvivor(t, within)
	case k == reflect.Pointer && !canBeNil(t.Elem()): // else what it refers to is null, and comes back as a nil pointer
		elem, ok := survivorOf(t.Elem(), within)
		if elem == nil {
			return nil, ok
		}
		return func(v reflect.Value) bool { return v.IsNil() || elem(v.Elem()) }, true
	}
	return nil, false
}

func canBeNil(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		return true
	}
	return false
}

func elementsSurvive(v reflect.Value, elem survives) bool {
	for i := range v.Len() {
		if !elem(v.Index(i)) {
			return false
		}
	}
	return true
}

func mapSurvivor(t reflect.Type, within map[reflect.Type]bool) (survives, bool) {
	key, keyOK := survivorOf(t.Key(), within)
	elem, elemOK := survivorOf(t.Elem(), within)
	if !keyOK || !elemOK {
		return nil, false
	}
	return func(v reflect.Value) bool {
		for all := v.MapRange(); all.Next(); {
			if key != nil && !key(all.Key()) || elem != nil && !elem(all.Value()) {
				return false
			}
		}
		return true
	}, true
}

// fieldsSurvivor is survivorOf for a struct: every field has a plain name of its own.
func fieldsSurvivor(t reflect.Type, within map[reflect.Type]bool) (survives, bool) {
	var fields []survives
	names := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		field, ok := survivorOf(f.Type, within)
		if !ok || !f.IsExported() || f.Anonymous || !isPlainName(name) || names[name] || options != "" && options != "omitempty" {
			return nil, false
		}
		names[name] = true
		if options != "" && canBeNil(f.Type) && f.Type.Kind() != reflect.Pointer {
			field = unlessEmpty(field)
		}
		if field != nil {
			fields = append(fields, func(v reflect.Value) bool { return field(v.Field(i)) })
		}
	}
	if fields == nil {
		return nil, true
	}
	return func(v reflect.Value) bool {
		for _, field := range fields {
			if !field(v) {
				return false
			}
		}
		return true
	}, true
}

// unlessEmpty is for what is left out if it is empty, and comes back as nil.
func unlessEmpty(all survives) survives {
	return func(v reflect.Value) bool {
		return v.IsNil() || v.Len() > 0 && (all == nil || all(v))
	}
}

// isPlainName reports whether a field is called so in JSON.
func isPlainName(name string) bool {
	return name != "-" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}
