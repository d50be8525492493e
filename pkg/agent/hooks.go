package agent

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// Starter is implemented by agents that want a turn when they come into memory, before any other turn. If it fails,
// so does whatever woke the agent.
type Starter interface {
	OnStart(ctx context.Context) error
}

// Requester is implemented by agents that answer HTTP. The request's context is that of the turn, its URL that of the
// original request. The answer leaves when the turn is stored; an error drops both, and is answered with its status if
// it is an *Error, else with 500.
//
// The body of the request may still be on its way: reading it waits for the client, and what is cut off ends with an error.
//
// w is an http.Flusher: a flush stores what the turn has asked for so far, and from then on the answer is streamed. An error
// then breaks it off. Long streams belong into Outside, so that other turns run meanwhile.
type Requester interface {
	OnRequest(w http.ResponseWriter, r *http.Request) error
}

// ErrorHandler is implemented by agents that want a turn for what fails outside of any caller's sight: mail that was
// given up, or something a turn asked for that was refused for good.
type ErrorHandler interface {
	OnError(ctx context.Context, err error) error
}

// hooks are the methods that a host calls by name.
func hooks() []reflect.Method {
	var all []reflect.Method
	for _, t := range []reflect.Type{
		reflect.TypeFor[Starter](), reflect.TypeFor[Requester](), reflect.TypeFor[ErrorHandler](),
		reflect.TypeFor[Connector](), reflect.TypeFor[MessageHandler](), reflect.TypeFor[CloseHandler](),
		reflect.TypeFor[WorkflowProgressHandler](), reflect.TypeFor[WorkflowEventHandler](),
		reflect.TypeFor[WorkflowCompletionHandler](), reflect.TypeFor[WorkflowErrorHandler](),
	} {
		all = append(all, t.Method(0))
	}
	return all
}

// checkHooks refuses methods that look like hooks and are none: a misspelt hook would never be called.
func (c *class) checkHooks() {
	for m := range c.kind.Methods() {
		if want, ok := c.stateHooks()[m.Name]; ok {
			if got := withoutReceiver(m.Type); got != want {
				c.problem("%s has the signature %s, wanted is %s", m.Name, got, want)
			}
			continue
		}
		if !looksLikeHook(m.Name) {
			continue
		}
		hook, known := hookNamed(m.Name)
		got := withoutReceiver(m.Type)
		switch {
		case known && got != hook.Type.String():
			c.problem("%s has the signature %s, wanted is %s", m.Name, got, hook.Type)
		case !known:
			c.problem("%s: no such hook%s", m.Name, suggestion(m.Name))
		}
	}
}

// stateHooks are the signatures of the hooks whose parameters are of the type of the state, by name.
func (c *class) stateHooks() map[string]string {
	zero, ok := reflect.New(c.kind.Elem()).Interface().(Agent)
	if !ok {
		return nil
	}
	return zero.stateHooks()
}

// observesState reports whether agents of the class have a turn for a state that has changed.
func (c *class) observesState() bool {
	_, ok := c.kind.MethodByName(hookStateChanged)
	return ok
}

func hookNamed(name string) (reflect.Method, bool) {
	for _, h := range hooks() {
		if h.Name == name {
			return h, true
		}
	}
	return reflect.Method{}, false
}

// looksLikeHook reports whether a method is called On… or Validate…: names that belong to hooks.
func looksLikeHook(name string) bool {
	for _, prefix := range []string{"On", "Validate"} {
		rest, ok := strings.CutPrefix(name, prefix)
		if ok && rest != "" && unicode.IsUpper([]rune(rest)[0]) {
			return true
		}
	}
	return false
}

// withoutReceiver prints the type of a method as that of a function.
func withoutReceiver(t reflect.Type) string {
	in := slices.Collect(t.Ins())
	return reflect.FuncOf(in[1:], slices.Collect(t.Outs()), t.IsVariadic()).String()
}

func suggestion(name string) string {
	best, distance := "", 4
	var names []string
	for _, h := range hooks() {
		names = append(names, h.Name)
	}
	names = append(names, hookValidate, hookStateChanged)
	for _, hook := range names {
		if d := editDistance(name, hook); d < distance {
			best, distance = hook, d
		}
	}
	if best != "" {
		return fmt.Sprintf(", did you mean %s?", best)
	}
	return fmt.Sprintf("; hooks are %s; call the method something that does not start with On or Validate", strings.Join(names, ", "))
}

// editDistance counts the insertions, deletions and replacements of bytes that turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
