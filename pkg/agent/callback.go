package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"runtime"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// callback is a method of the form func(context.Context, P) error.
type callback struct {
	index   int
	payload reflect.Type
}

// findCallbacks returns the methods of an agent's type that schedules and mail can call, by name. Hooks and what Base
// brings along are none.
func findCallbacks(kind reflect.Type) map[string]callback {
	found := map[string]callback{}
	for i := range kind.NumMethod() {
		m := kind.Method(i)
		t := m.Type
		_, ofBase := reflect.TypeFor[*Base[struct{}]]().MethodByName(m.Name)
		if ofBase || looksLikeHook(m.Name) || t.NumIn() != 3 || t.NumOut() != 1 || t.IsVariadic() {
			continue
		}
		if is, _ := isChunked(t.In(2)); is {
			continue // it answers clients
		}
		if t.In(1) == reflect.TypeFor[context.Context]() && t.Out(0) == reflect.TypeFor[error]() {
			found[m.Name] = callback{index: i, payload: t.In(2)}
		}
	}
	return found
}

// call decodes the payload and calls the method of a.
func (c callback) call(ctx context.Context, a Agent, payload json.RawMessage) error {
	p := reflect.New(c.payload)
	if payload != nil {
		if err := json.Unmarshal(payload, p.Interface()); err != nil {
			return &payloadError{fmt.Errorf("decode payload as %s: %w", c.payload, err)}
		}
	}
	out := reflect.ValueOf(a).Method(c.index).Call([]reflect.Value{reflect.ValueOf(ctx), p.Elem()})
	err, _ := out[0].Interface().(error)
	return err
}

// payloadError is terminal: another attempt would meet the same bytes.
type payloadError struct{ error }

func (e *payloadError) Unwrap() error       { return e.error }
func (e *payloadError) FailureName() string { return protocol.FailureEncoding }
func (e *payloadError) Terminal() bool      { return true }

// lookUp finds the callback that a stored name means today.
func (c *class) lookUp(name string) (callback, error) {
	if today, ok := c.renamed[name]; ok {
		name = today
	}
	if cb, ok := c.callbacks[name]; ok {
		return cb, nil
	}
	return callback{}, &CallbackError{Class: c.name, Callback: name,
		Reason: "no such method of the form func(context.Context, P) error; agent.Renamed keeps an old name alive"}
}

// isCallable reports whether other projects may call a callback by its stored name.
func (c *class) isCallable(name string) bool {
	if today, ok := c.renamed[name]; ok {
		name = today
	}
	return c.callable[name]
}

// method resolves a method expression of the class's type to the name of a callback.
func (c *class) method(expression any) (string, error) {
	t := reflect.TypeOf(expression)
	if t == nil || t.Kind() != reflect.Func {
		return "", fmt.Errorf("%v is no method expression such as (%s).Method", expression, c.kind)
	}
	f, err := parseFunc(expression)
	if err != nil || f.value || t.NumIn() == 0 || t.In(0) != c.kind {
		return "", fmt.Errorf("%s is no method expression of %s", t, c.kind)
	}
	if _, ok := c.methods[f.method]; !ok {
		return "", fmt.Errorf("method %s has the signature %s, wanted is %s", f.method, t, methodForms)
	}
	return f.method, nil
}

// callbackName resolves a method value of the class's type to the name under which it is stored.
func (c *class) callbackName(value any, payload reflect.Type) (string, error) {
	f, err := parseFunc(value)
	if err != nil {
		return "", &CallbackError{Class: c.name, Callback: f.full, Reason: err.Error()}
	}
	refuse := func(reason string) (string, error) {
		return "", &CallbackError{Class: c.name, Callback: f.full, Reason: reason}
	}
	if !f.value {
		return refuse("is a function or closure, which no restart could find again; wanted is a method value of the agent, such as a.Method")
	}
	if !hasReceiver(c.kind.Elem(), f) {
		return refuse("is a method of another type; wanted is a method of " + c.kind.String())
	}
	cb, ok := c.callbacks[f.method]
	if !ok {
		return refuse("is no method that can be called later: it must be exported and no hook")
	}
	if cb.payload != payload {
		return refuse("is hidden by a method of the same name that takes " + cb.payload.String())
	}
	return f.method, nil
}

// funcName is the name of a function as the runtime has it, taken apart.
type funcName struct {
	full     string
	pkg      string
	receiver string // the type's name, without type arguments
	method   string
	value    bool // a method value: the receiver is bound
}

var errNoMethod = errors.New("is no method")

// parseFunc reads names like example.com/desk.(*FlightDesk).RunWorkflow-fm.
func parseFunc(fn any) (funcName, error) {
	entry := runtime.FuncForPC(reflect.ValueOf(fn).Pointer())
	if entry == nil {
		return funcName{full: "nil"}, errors.New("is nil")
	}
	f := funcName{full: entry.Name()}
	name, bound := strings.CutSuffix(f.full, "-fm")
	f.value = bound
	slash := strings.LastIndexByte(name, '/') + 1
	pkg, rest, ok := strings.Cut(name[slash:], ".")
	if !ok {
		return f, errNoMethod
	}
	f.pkg = name[:slash] + pkg
	if plain, err := url.PathUnescape(f.pkg); err == nil {
		f.pkg = plain // the linker escapes dots in the last element
	}
	rest = strings.ReplaceAll(rest, "[...]", "")
	dot := strings.LastIndexByte(rest, '.')
	if dot < 0 {
		return f, nil // a plain function: neither bound nor with a receiver
	}
	f.receiver = strings.TrimSuffix(strings.TrimPrefix(rest[:dot], "(*"), ")")
	f.method = rest[dot+1:]
	return f, nil
}

// hasReceiver reports whether f is a method of the struct or of one that it embeds: the method value of a promoted
// method carries the name of the embedded type.
func hasReceiver(t reflect.Type, f funcName) bool {
	if isReceiver(t, f) {
		return true
	}
	for _, field := range reflect.VisibleFields(t) {
		embedded := field.Type
		if embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		if field.Anonymous && isReceiver(embedded, f) {
			return true
		}
	}
	return false
}

func isReceiver(t reflect.Type, f funcName) bool {
	name, _, _ := strings.Cut(t.Name(), "[")
	return name == f.receiver && t.PkgPath() == f.pkg
}
