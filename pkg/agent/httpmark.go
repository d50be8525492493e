package agent

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// A request that was passed on to another host may have been served, though its answer is lost. Then the agent is asked again,
// under the id of the request, wherever it lives by then: the commit of a turn remembers the answer as it does that of a call.
// No handler is run for that.

// What answers a request whose answer was lost and is not remembered.
var (
	errAnswerLost = &Error{Status: http.StatusBadGateway, Name: "AnswerLost",
		Message: "the request was served, and what it asked for is stored; its answer was lost, and too large to be remembered"}
	errInterrupted = &Error{Status: http.StatusBadGateway, Name: protocol.FailureInterrupted,
		Message: "the agent's host was lost with the request: what it had saved early is stored, the rest is not"}
	errNotServed = &Error{Status: http.StatusServiceUnavailable, Name: "NotServed", RetryAfter: time.Second,
		Message: "the agent's host was lost with the request; nothing of it is stored"}
	errOutOfDate = &Error{Status: http.StatusGatewayTimeout, Name: "Timeout",
		Message: "the request came after the host that had taken it had given up"}
)

// fateUnknown is the answer if nobody can tell.
func fateUnknown(err error) *Error {
	return &Error{Status: http.StatusBadGateway, Name: "FateUnknown", Message: err.Error(), Err: err}
}

// newHTTPMark is what the record will remember of a request that another host has passed on; nil of another one.
func newHTTPMark(j *job) *callMark {
	if j.id == "" {
		return nil
	}
	return &callMark{key: protocol.CallMark(j.id), until: callUntil(max(time.Until(j.until), 0) + lingerFor)}
}

// endHTTP notes the answer of a request, unless that is on its way already.
func (m *callMark) endHTTP(w *answer) error {
	if m == nil || w.begun {
		return nil
	}
	if len(w.body) > maxMarkedResult {
		m.ended, m.lost = true, true
		return nil
	}
	raw, err := json.Marshal(w.response())
	m.end(raw)
	return err
}

// recall answers a request that must not be served: because it was, or because it was begun elsewhere and is lost there.
func (a *actor) recall(j *job, mark *callMark) (outcome, bool) {
	if mark == nil {
		return outcome{}, false
	}
	applied, known := a.at.record.Calls[mark.key]
	switch {
	case known:
		return appliedHTTP(applied), true
	case j.again && a.at.record.Life == a.taken: // the life that had the request is over
		return outcome{reply: protocol.Reply{HTTP: failed(fateUnknown(errFate))}}, true
	case j.again:
		return outcome{reply: protocol.Reply{HTTP: failed(errNotServed)}}, true
	case isLate(j.until, time.Now()):
		return outcome{reply: protocol.Reply{HTTP: failed(errOutOfDate)}}, true
	}
	return outcome{}, false
}

// appliedHTTP is the answer to a request that was served before.
func appliedHTTP(applied protocol.AppliedCall) outcome {
	var response protocol.HTTPResponse
	switch {
	case applied.Open:
		return outcome{reply: protocol.Reply{HTTP: failed(errInterrupted)}}
	case applied.Lost || json.Unmarshal(applied.Result, &response) != nil:
		return outcome{reply: protocol.Reply{HTTP: failed(errAnswerLost)}}
	}
	return outcome{reply: protocol.Reply{HTTP: &response, Kept: true}}
}
