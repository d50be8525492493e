package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/skein-run/skein/internal/wire"
)

// clientMethod is a method that clients may call: func(context.Context, …) error or func(context.Context, …) (R, error).
type clientMethod struct {
	index    int
	chunks   reflect.Type // *Chunks[T], if it answers in parts
	args     wire.Method
	isResult bool
}

const clientForms = "func(context.Context, …) error or func(context.Context, …) (R, error), where the first of … may be a *agent.Chunks"

// Clients lets clients open sockets to agents of the class, and call methods, given as method expressions like (*Cart).Add: these and
// no others. They call AddItem as addItem, with as many arguments as it has parameters after the context. A method whose first one is a
// *Chunks answers in parts. A class that has OnConnect or OnMessage takes sockets without the option.
func Clients(methods ...any) ClassOption {
	return classOption(func(c *class) {
		c.sockets = true
		for _, m := range methods {
			name, found, err := c.clientMethod(m)
			if err != nil {
				c.problem("Clients: %v", err)
				continue
			}
			if c.client == nil {
				c.client = map[string]clientMethod{}
			}
			c.client[wire.ClientName(name)], c.client[name] = found, found
		}
	})
}

func (c *class) clientMethod(expression any) (name string, found clientMethod, err error) {
	t := reflect.TypeOf(expression)
	if t == nil || t.Kind() != reflect.Func {
		return "", found, fmt.Errorf("%v is no method expression such as (%s).Method", expression, c.kind)
	}
	f, err := parseFunc(expression)
	if err != nil || f.value || t.NumIn() == 0 || t.In(0) != c.kind {
		return "", found, fmt.Errorf("%s is no method expression of %s", t, c.kind)
	}
	m, ok := c.kind.MethodByName(f.method)
	_, ofBase := reflect.TypeFor[*Base[struct{}]]().MethodByName(f.method)
	if !ok || ofBase || looksLikeHook(f.method) || !isClientForm(m.Type) {
		return "", found, fmt.Errorf("method %s has the signature %s, wanted is %s", f.method, t, clientForms)
	}
	params := slices.Collect(m.Type.Ins())[2:]
	found = clientMethod{index: m.Index, isResult: m.Type.NumOut() == 2}
	if len(params) > 0 {
		if is, _ := isChunked(params[0]); is {
			found.chunks, params = params[0], params[1:]
		}
	}
	for _, p := range params {
		if is, byMistake := isChunked(p); is || byMistake {
			return "", found, fmt.Errorf("method %s has a parameter %s; a *agent.Chunks is wanted, as the first one after the context", f.method, p)
		}
	}
	found.args = wire.NewMethod(f.method, params)
	return f.method, found, nil
}

// isClientForm looks at a method with its receiver.
func isClientForm(t reflect.Type) bool {
	return t.NumIn() >= 2 && t.In(1) == reflect.TypeFor[context.Context]() && !t.IsVariadic() &&
		t.NumOut() >= 1 && t.NumOut() <= 2 && t.Out(t.NumOut()-1) == reflect.TypeFor[error]()
}

// unknownMethod is what a client is told of a method that is none for it, in the words that clients know.
type unknownMethod string

func (e unknownMethod) Error() string { return string(e) }

// methodForClient finds the method that a client names.
func (c *class) methodForClient(name string) (clientMethod, error) {
	if m, ok := c.client[name]; ok {
		return m, nil
	}
	for m := range c.kind.Methods() {
		if m.Name == name || wire.ClientName(m.Name) == name {
			return clientMethod{}, unknownMethod("Method " + name + " is not callable")
		}
	}
	return clientMethod{}, unknownMethod("Method " + name + " does not exist")
}

// call binds the arguments, calls the method of a, and encodes what it returns. Chunks leave through an outlet.
func (m clientMethod) call(ctx context.Context, a Agent, args []json.RawMessage, chunks *outlet) (json.RawMessage, error) {
	values, err := m.args.Bind(args)
	if err != nil {
		return nil, err
	}
	in := []reflect.Value{reflect.ValueOf(ctx)}
	if m.chunks != nil {
		c := reflect.New(m.chunks.Elem())
		c.Interface().(chunked).bind(chunks)
		in = append(in, c)
	}
	out := reflect.ValueOf(a).Method(m.index).Call(append(in, values...))
	if err, _ := out[len(out)-1].Interface().(error); err != nil || !m.isResult {
		return nil, err
	}
	result, err := json.Marshal(out[0].Interface())
	if err != nil {
		return nil, &payloadError{fmt.Errorf("encode result of type %s: %w", out[0].Type(), err)}
	}
	return result, nil
}

// takesSockets reports whether clients may open sockets to agents of the class.
func (c *class) takesSockets() bool {
	_, connects := c.kind.MethodByName("OnConnect")
	_, messages := c.kind.MethodByName("OnMessage")
	return c.sockets || connects || messages
}
