package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// answerError is returned by Write when an answer grows over its limit; it fails the turn.
type answerError struct{ limit int }

func (e *answerError) Error() string {
	return fmt.Sprintf("the answer is over %d bytes long, more are not allowed", e.limit)
}

// answer is the http.ResponseWriter of a turn: nothing leaves before the turn is stored. A flush stores what the turn has
// asked for so far, and from then on the answer leaves in parts.
type answer struct {
	limit  int
	status int
	header http.Header
	body   []byte // that has not left
	err    error  // fails the turn
	gone   error  // nobody reads any more; that does not

	save  func() error     // stores what the turn has asked for
	send  func(part) error // waits if the client is slow
	begun bool             // the head has left
}

func newAnswer(limit int) *answer { return &answer{limit: limit, header: http.Header{}} }

// FlushError sends what was written, once everything that the turn has asked for is stored. It waits if the client is slow.
// An error because that cannot be stored fails the turn; one because nobody reads any more, ErrClientGone, does not.
func (a *answer) FlushError() error {
	if err := errors.Join(a.err, a.gone); err != nil {
		return err
	}
	if err := a.save(); err != nil {
		a.err = fmt.Errorf("flush: %w", err)
		return a.err
	}
	p := part{data: a.body}
	if !a.begun {
		p.head = a.response()
		p.head.Header, p.head.Body = maps.Clone(p.head.Header), nil
	}
	a.body, a.begun = nil, true
	a.gone = a.send(p)
	return a.gone
}

// Flush is FlushError for who asks for an http.Flusher.
func (a *answer) Flush() {
	if a.FlushError() != nil {
		return // the next Write says so
	}
}

// Header returns the header that WriteHeader sends.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader sets the status. As with net/http, the first one counts.
func (a *answer) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid status %d", status)) // what net/http does
	}
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

// Write adds to the body.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if err := errors.Join(a.err, a.gone); err != nil {
		return 0, err
	}
	if len(a.body)+len(p) > a.limit {
		a.err = &answerError{limit: a.limit}
		return 0, a.err
	}
	a.body = append(a.body, p...)
	return len(p), nil
}

func (a *answer) response() *protocol.HTTPResponse {
	a.WriteHeader(http.StatusOK)
	if a.header.Get("Content-Type") == "" && len(a.body) > 0 {
		a.header.Set("Content-Type", http.DetectContentType(a.body))
	}
	return &protocol.HTTPResponse{Status: a.status, Header: a.header, Body: a.body}
}

// errorBody is the JSON of an answer that is an error.
type errorBody struct {
	Error errorText `json:"error"`
}

type errorText struct {
	Name    string `json:"name"`
	Message string `json:"message"`
	// Classes lists the classes there are, if the one asked for is not among them.
	Classes []string `json:"classes,omitempty"`
}

// failed is the answer of a turn that ended with err. What a panic says is for the log, not for callers.
func failed(err error) *protocol.HTTPResponse {
	if e, ok := errors.AsType[*Error](err); ok {
		response := errorResponse(e.status(), errorText{Name: nameOr(e.Name, protocol.FailureError), Message: e.Error()})
		if e.RetryAfter > 0 {
			seconds := (e.RetryAfter + time.Second - 1) / time.Second
			response.Header["Retry-After"] = []string{strconv.FormatInt(int64(seconds), 10)}
		}
		return response
	}
	if errors.Is(err, ErrNoSpace) {
		return failed(noSpace(err))
	}
	if _, ok := errors.AsType[*PanicError](err); ok {
		return errorResponse(http.StatusInternalServerError, errorText{Name: protocol.FailurePanic, Message: "the agent panicked"})
	}
	f := protocol.NewFailure(err)
	return errorResponse(http.StatusInternalServerError, errorText{Name: f.Name, Message: f.Message})
}

func nameOr(name, other string) string {
	if name == "" {
		return other
	}
	return name
}

func errorResponse(status int, text errorText) *protocol.HTTPResponse {
	body, err := json.Marshal(errorBody{Error: text})
	if err != nil {
		panic(err) // a struct of texts
	}
	return &protocol.HTTPResponse{
		Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: append(body, '\n'),
	}
}
