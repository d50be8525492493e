package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// ErrReads is returned by what would change something, in a method marked with Reads.
var ErrReads = errors.New("the method is marked agent.Reads: it cannot change anything")

// Reads marks methods, given as method expressions like (*Cart).Total, that only look at the state. A call of one runs
// beside the turns of the agent, as many as come, on the state that was last stored. It gets an agent of its own from the
// factory, so that it shares nothing with the turns: what OnStart or a turn has put into fields is not there. What would
// change something returns ErrReads.
func Reads(methods ...any) ClassOption {
	return classOption(func(c *class) {
		for _, m := range methods {
			name, err := c.method(m)
			if err != nil {
				c.problem("Reads: %v", err)
				continue
			}
			c.reads[name] = true
		}
	})
}

// snapshot is what an agent has stored last, and the lease under which that is known.
type snapshot struct {
	record protocol.Record
	whole  json.RawMessage
	stamp  stamp
}

// expose lets readers see what is stored; of a condemned agent, nothing.
func (a *actor) expose() {
	if a.at.record.Condemned {
		a.stored.Store(nil)
		return
	}
	a.stored.Store(&snapshot{record: a.at.record, whole: a.whole, stamp: a.stamp})
}

// read runs a call beside the turns, if its method only reads and the host is sure of the agent. Else the call needs a turn.
func (a *actor) read(ctx context.Context, call *protocol.AgentCall) (protocol.Reply, bool) {
	name, m, err := a.class.methodOf(call, a.id.Project)
	if err != nil || !a.class.reads[name] || call.Fresh {
		return protocol.Reply{}, false
	}
	seen := a.stored.Load()
	if !a.isSure(seen) {
		return protocol.Reply{}, false
	}
	result, err := a.readOnly(ctx, seen, call, m)
	if !a.isSure(seen) {
		return protocol.Reply{}, false
	}
	if err != nil {
		return protocol.Reply{Error: a.callFailure(ctx, call.Method, seen.record.Turn, err)}, true
	}
	return protocol.Reply{Result: result}, true
}

// isSure reports whether the host has held its lease all the time since it knew what it has seen.
func (a *actor) isSure(seen *snapshot) bool {
	now, held := a.host.lease.held()
	return seen != nil && held && now == seen.stamp
}

func (a *actor) readOnly(ctx context.Context, seen *snapshot, call *protocol.AgentCall, m method) (result json.RawMessage, err error) {
	reader, err := a.class.instance(a.id.Name, seen.whole, seen.record.Revision)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.class.limit, fmt.Errorf("%w: over %s", ErrTurnTooLong, a.class.limit))
	defer cancel()
	d := &draft{agent: a.id, class: a.class, core: reader.base(), reading: true, stored: seen.record, whole: seen.whole, log: a.log}
	defer d.end()
	err = protect(func() error {
		result, err = m.call(context.WithValue(turn.With(ctx, d), chainKey{}, call.Chain), reader, call.Payload)
		return err
	})
	return result, err
}
