package agent

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// maxMarks bounds the calls that a record remembers. With more, those go that may be forgotten first.
	maxMarks = 1000
	// maxMarkedResult bounds the result of one of them, maxMarkedResults all of them.
	maxMarkedResult  = 4 << 10
	maxMarkedResults = 64 << 10
	// keepFor is how long a call or mail is remembered that its sender may repeat long after its end, lingerFor how long after
	// the end of the caller's patience any other call is. The clocks of hosts may differ by half of the latter. copyFor is how long
	// other mail is: what its sender stored twice, as it did not know whether it was, can wait behind much else.
	keepFor   = 7 * 24 * time.Hour
	lingerFor = time.Minute
	copyFor   = time.Hour
)

// markUntil is when a mark may be forgotten: in whole seconds, as a record has many.
func markUntil(keep time.Duration) time.Time {
	return time.Now().Add(keep + time.Second).UTC().Truncate(time.Second)
}

// callMark is what the record will remember of a call.
type callMark struct {
	key    string
	until  time.Time
	ended  bool
	stored bool // with an early commit
	result json.RawMessage
}

func newCallMark(j *job) *callMark {
	keep := time.Duration(j.call.Within) + lingerFor
	if j.call.Keep {
		keep = max(keep, keepFor)
	}
	return &callMark{key: protocol.CallMark(j.id), until: markUntil(keep)}
}

// isLate reports whether a call comes so late that the record may have forgotten it: a host that was frozen had it.
func isLate(call *protocol.AgentCall, now time.Time) bool {
	return !call.Until.IsZero() && now.After(call.Until.Add(lingerFor/2))
}

func (m *callMark) end(result json.RawMessage) { m.ended, m.result = true, result }

func (m *callMark) applied() protocol.AppliedCall {
	a := protocol.AppliedCall{Until: m.until, Open: !m.ended, Result: m.result}
	if len(a.Result) > maxMarkedResult {
		a.Result, a.Lost = nil, true
	}
	return a
}

// appliedReply answers a call that was applied before.
func appliedReply(a protocol.AppliedCall) protocol.Reply {
	switch {
	case a.Open:
		return protocol.Reply{Error: &protocol.Failure{Name: protocol.FailureInterrupted, Terminal: true,
			Message: "the call was interrupted: what it had saved early is stored, the rest is not"}}
	case a.Lost:
		return protocol.Reply{Error: &protocol.Failure{Name: protocol.FailureResultLost, Terminal: true,
			Message: "the call was applied before; its result was too large to be remembered"}}
	}
	return protocol.Reply{Result: a.Result, Kept: true}
}

// remembered is what a record remembers of calls from now on: without what is confirmed or out of date, and with those of
// the turn.
func remembered(calls map[string]protocol.AppliedCall, confirmed map[string]bool, now time.Time, turn *callMark) map[string]protocol.AppliedCall {
	next := maps.Clone(calls)
	maps.DeleteFunc(next, func(key string, a protocol.AppliedCall) bool { return confirmed[key] || a.Until.Before(now) })
	if turn != nil {
		if next == nil {
			next = map[string]protocol.AppliedCall{}
		}
		next[turn.key] = turn.applied()
	}
	results := 0
	for _, a := range next {
		results += len(a.Result)
	}
	if len(next) <= maxMarks && results <= maxMarkedResults {
		return next
	}
	oldest := slices.SortedFunc(maps.Keys(next), func(a, b string) int { return next[a].Until.Compare(next[b].Until) })
	for _, key := range oldest {
		a := next[key]
		if len(next) > maxMarks {
			results -= len(a.Result)
			delete(next, key)
			continue
		}
		if results <= maxMarkedResults {
			break
		}
		if len(a.Result) > 0 {
			results -= len(a.Result)
			a.Result, a.Lost = nil, true
			next[key] = a
		}
	}
	return next
}

// confirmations are the calls whose callers have the answers.
type confirmations struct {
	mu   sync.Mutex // guards keys
	keys map[string]bool
}

func (c *confirmations) add(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil {
		c.keys = map[string]bool{}
	}
	c.keys[key] = true
}

func (c *confirmations) all() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.keys)
}

// drop forgets the confirmations of calls that the record does not remember any more.
func (c *confirmations) drop(calls map[string]protocol.AppliedCall) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.keys, func(key string, _ bool) bool { _, known := calls[key]; return !known })
}
