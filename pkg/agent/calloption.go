package agent

import (
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// defaultCallTimeout is how long a caller waits who says nothing else.
const defaultCallTimeout = 30 * time.Second

// CallOption is an option of Call and Exec.
type CallOption interface{ applyCall(*callOptions) error }

// TellOption is an option of Tell.
type TellOption interface{ applyTell(*callOptions) error }

type callOptions struct {
	timeout time.Duration
	fresh   bool
	id      string
	// terminate lets Destroy terminate what the agent tracks.
	terminate bool
}

// TimeoutOption is what Timeout returns.
type TimeoutOption interface {
	CallOption
	DestroyOption
}

// Timeout is how long Call and Exec wait for the answer, and Destroy for the end. Default 30s.
func Timeout(d time.Duration) TimeoutOption { return timeout(d) }

type timeout time.Duration

func (t timeout) applyCall(o *callOptions) error {
	if t <= 0 {
		return fmt.Errorf("timeout is %s, allowed is what is positive", time.Duration(t))
	}
	o.timeout = time.Duration(t)
	return nil
}

func (t timeout) applyDestroy(o *callOptions) error { return t.applyCall(o) }

// Fresh makes the answer one that no other host can have made old: the call's turn writes, also if it changes nothing.
func Fresh() CallOption { return fresh{} }

type fresh struct{}

func (fresh) applyCall(o *callOptions) error {
	o.fresh = true
	return nil
}

// IDOption is what ID returns.
type IDOption interface {
	CallOption
	TellOption
}

// ID names a call, or what is told, so that it can be repeated by whoever does not know what became of it: what was applied
// under an id is not applied again. An agent knows an id for 7 days, but of all calls and mail with ids no more than the
// last 1,000. It must be another one for everything that is to be applied.
func ID(id string) IDOption { return idOption(id) }

type idOption string

func (id idOption) applyCall(o *callOptions) error {
	if err := protocol.CheckEventID(string(id)); err != nil {
		return fmt.Errorf("id of a call: %w", err)
	}
	o.id = string(id)
	return nil
}

func (id idOption) applyTell(o *callOptions) error { return id.applyCall(o) }
