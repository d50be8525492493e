package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Method says which arguments a method takes from clients.
type Method struct {
	// Name is that of the client.
	Name   string
	params []reflect.Type
}

// NewMethod takes the name of a Go method and the types of what clients give it.
func NewMethod(name string, params []reflect.Type) Method {
	return Method{Name: ClientName(name), params: params}
}

// ClientName is how clients call a Go method: AddItem is addItem, HTTPGet httpGet.
func ClientName(name string) string {
	runes := []rune(name)
	for i, r := range runes {
		if !unicode.IsUpper(r) || i > 0 && i+1 < len(runes) && unicode.IsLower(runes[i+1]) {
			break
		}
		runes[i] = unicode.ToLower(r)
	}
	return string(runes)
}

// ArgumentError says which argument of a call does not fit.
type ArgumentError struct {
	Method string
	// Position counts from 1; 0 if there are too few or too many.
	Position int
	Reason   string
}

func (e *ArgumentError) Error() string {
	if e.Position == 0 {
		return fmt.Sprintf("Method %s %s", e.Method, e.Reason)
	}
	return fmt.Sprintf("Method %s: argument %d %s", e.Method, e.Position, e.Reason)
}

// FailureName is how the error is called where it is stored or answered.
func (e *ArgumentError) FailureName() string { return "ArgumentError" }

// Terminal is true: another attempt would meet the same bytes.
func (e *ArgumentError) Terminal() bool { return true }

// Bind makes values of the arguments of a call. The error is an *ArgumentError.
func (m Method) Bind(args []json.RawMessage) ([]reflect.Value, error) {
	if len(args) != len(m.params) {
		return nil, &ArgumentError{Method: m.Name, Reason: fmt.Sprintf("takes %s, got %d", m.takes(), len(args))}
	}
	values := make([]reflect.Value, len(args))
	for i, arg := range args {
		v := reflect.New(m.params[i])
		if err := decodeArg(arg, v); err != nil {
			return nil, &ArgumentError{Method: m.Name, Position: i + 1,
				Reason: fmt.Sprintf("is %s; allowed is %s%s", excerpt(arg), describe(m.params[i]), where(err))}
		}
		values[i] = v.Elem()
	}
	return values, nil
}

func decodeArg(arg json.RawMessage, into reflect.Value) error {
	if bytes.Equal(bytes.TrimSpace(arg), []byte("null")) && !takesNull(into.Elem().Type()) {
		return errors.New("")
	}
	return json.Unmarshal(arg, into.Interface())
}

// takesNull reports whether null is a value of the type. For others, encoding/json would leave the zero value.
func takesNull(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		return true
	}
	return reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
}

// where says which part of a value is wrong.
func where(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		return fmt.Sprintf(" (the field %s cannot be %s)", wrong.Field, wrong.Value)
	}
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok || err.Error() == "" {
		return ""
	}
	return fmt.Sprintf(" (%v)", err)
}

func (m Method) takes() string {
	if len(m.params) == 0 {
		return "no arguments"
	}
	var names []string
	for _, p := range m.params {
		names = append(names, describe(p))
	}
	noun := "arguments"
	if len(names) == 1 {
		noun = "argument"
	}
	return fmt.Sprintf("%d %s (%s)", len(names), noun, strings.Join(names, ", "))
}

// describe names the JSON that a type is read from.
func describe(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return fmt.Sprintf("a whole number from 0, of %d bits", t.Bits())
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a text in base64"
		}
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object " + typeName(t)
	case reflect.Pointer:
		return describe(t.Elem()) + " or null"
	}
	return "any value"
}

// typeName is the name of a type without its package: that is no matter of clients.
func typeName(t reflect.Type) string {
	if t.Name() != "" && utf8.ValidString(t.Name()) {
		return t.Name()
	}
	return "of its own"
}
