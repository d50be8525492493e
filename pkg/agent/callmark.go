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
	// maxMarks bounds the calls and keys that a record remembers. With more, those go that may be forgotten first.
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

// callUntil is when a call may be forgotten: in whole seconds, as a record has many.
func callUntil(keep time.Duration) time.Time {
	return time.Now().Add(keep + time.Second).UTC().Truncate(time.Second)
}

// keyUntil is when a key of mail may be forgotten: in whole minutes, so that many share a moment.
func keyUntil(keep time.Duration) time.Time {
	return time.Now().Add(keep + time.Minute).UTC().Truncate(time.Minute)
}

// callMark is what the record will remember of a call, or of mail with a key.
type callMark struct {
	key    string
	until  time.Time
	isMail bool
	ended  bool
	stored bool // with an early commit
	result json.RawMessage
	lost   bool // there is a result, which is too large
}

func newCallMark(j *job) *callMark {
	keep := time.Duration(j.call.Within) + lingerFor
	if j.call.Keep {
		keep = max(keep, keepFor)
	}
	return &callMark{key: protocol.CallMark(j.id), until: callUntil(keep)}
}

// isLate reports whether what its sender waits for until some moment comes so late that the record may have forgotten it: a host that was frozen had it.
func isLate(until, now time.Time) bool {
	return !until.IsZero() && now.After(until.Add(lingerFor/2))
}

func (m *callMark) end(result json.RawMessage) { m.ended, m.result = true, result }

func (m *callMark) applied() protocol.AppliedCall {
	a := protocol.AppliedCall{Until: m.until, Open: !m.ended, Result: m.result}
	if m.lost || len(a.Result) > maxMarkedResult {
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

// isRemembered reports whether a record knows a key of mail.
func isRemembered(r protocol.Record, mark string) bool {
	if slices.ContainsFunc(r.Keys, func(k protocol.AppliedKeys) bool { return k.Has(mark) }) {
		return true
	}
	_, known := r.Calls[mark] // of a program that knew no Keys
	return known
}

// rememberCalls makes a record remember the calls and keys that it remembers from now on: without what is confirmed or out of
// date, and with that of the turn.
func rememberCalls(r *protocol.Record, confirmed map[string]bool, now time.Time, turn *callMark) {
	calls, keys := maps.Clone(r.Calls), slices.Clone(r.Keys)
	maps.DeleteFunc(calls, func(key string, a protocol.AppliedCall) bool { return confirmed[key] || a.Until.Before(now) })
	keys = slices.DeleteFunc(keys, func(k protocol.AppliedKeys) bool { return k.Until.Before(now) })
	switch {
	case turn == nil:
	case turn.isMail:
		keys = withKey(keys, turn)
	default:
		if calls == nil {
			calls = map[string]protocol.AppliedCall{}
		}
		calls[turn.key] = turn.applied()
	}
	r.Calls, r.Keys = calls, keys
	forgetFirst(r)
}

// withKey adds a key to the others that may be forgotten at the same time.
func withKey(keys []protocol.AppliedKeys, m *callMark) []protocol.AppliedKeys {
	i, found := slices.BinarySearchFunc(keys, m.until, func(k protocol.AppliedKeys, until time.Time) int { return k.Until.Compare(until) })
	if !found {
		return slices.Insert(keys, i, protocol.AppliedKeys{Until: m.until, Marks: m.key})
	}
	keys[i].Marks += m.key
	return keys
}

// forgetFirst keeps calls and keys within their limits: those go first that may be forgotten first.
func forgetFirst(r *protocol.Record) {
	excess, results := len(r.Calls)-maxMarks, 0
	for _, k := range r.Keys {
		excess += k.Len()
	}
	for _, a := range r.Calls {
		results += len(a.Result)
	}
	if excess <= 0 && results <= maxMarkedResults {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(r.Calls), func(a, b string) int { return r.Calls[a].Until.Compare(r.Calls[b].Until) })
	for ; excess > 0; excess-- {
		if len(oldest) == 0 || len(r.Keys) > 0 && r.Keys[0].Until.Before(r.Calls[oldest[0]].Until) {
			r.Keys = withoutFirst(r.Keys)
			continue
		}
		results -= len(r.Calls[oldest[0]].Result)
		delete(r.Calls, oldest[0])
		oldest = oldest[1:]
	}
	for _, key := range oldest {
		a := r.Calls[key]
		if results <= maxMarkedResults {
			return
		}
		if len(a.Result) > 0 {
			results -= len(a.Result)
			a.Result, a.Lost = nil, true
			r.Calls[key] = a
		}
	}
}

// withoutFirst forgets one key.
func withoutFirst(keys []protocol.AppliedKeys) []protocol.AppliedKeys {
	if keys[0].Len() <= 1 {
		return keys[1:]
	}
	keys[0].Marks = keys[0].Marks[protocol.CallMarkLen:]
	return keys
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
