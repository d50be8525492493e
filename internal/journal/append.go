package journal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// Error codes of the NATS server that an append must tell apart.
const (
	codeNoMessage       = 10037
	codeNoSequence      = 10043
	codeDeleteFailed    = 10057
	codeNoStream        = 10059
	codeWrongLast       = 10071
	codeWrongLastMoving = 10164 // something on the subject is in flight: no verdict
	codeStoreFailed     = 10077
	codeTooManyRequests = 429
	// What the server says if it has no room: the account has used what it may, the server has, at a publish or when something
	// is made. The last one is for streams in memory.
	codeAccountLimit  = 10002
	codeNoResources   = 10023
	codeNoFileStore   = 10047
	codeNoMemoryStore = 10028
)

// subjectFull is how the server describes, under a code for all that a store can refuse, that a subject has its limit.
const subjectFull = "maximum messages per subject exceeded"

// ServerError is a refusal by the NATS server that no retry mends.
type ServerError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("nats server: %s (%d)", e.Description, e.ErrCode)
}

// Is makes errors.Is(err, ErrNoStream) true for a stream that does not exist, and with ErrFull for a subject that has
// its limit.
func (e *ServerError) Is(target error) bool {
	return target == ErrNoStream && e.ErrCode == codeNoStream ||
		target == ErrFull && e.ErrCode == codeStoreFailed && e.Description == subjectFull
}

// ConflictError says that an append was refused for good because its subject has moved on.
type ConflictError struct {
	Subject  string
	Expected uint64
	// Tail is what the leader held after the refusal; nil if nothing.
	Tail *Message
}

func (e *ConflictError) Error() string {
	at := "nothing"
	if e.Tail != nil {
		at = "sequence " + strconv.FormatUint(e.Tail.Sequence, 10)
	}
	return fmt.Sprintf("append to %s after %d: %v, it holds %s", e.Subject, e.Expected, ErrConflict, at)
}

// Unwrap makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Append stores body as the next message of a literal subject of stream, if the newest one there still has sequence
// expected (0: none yet), and returns the new sequence. The body must carry an id chosen once: an append of unknown
// outcome is repeated unchanged until it is stored or refused, and a refusal is settled by comparing the tail.
//
// It goes on through disconnects and leader elections until ctx ends; then it returns ErrUnknownOutcome. A refusal
// is a *ConflictError; a body over the server's limit is ErrTooLarge.
func (s *Store) Append(ctx context.Context, stream, subject string, expected uint64, body []byte) (uint64, error) {
	return s.AppendWith(ctx, stream, subject, expected, nil, body)
}

// AppendWith is Append with further headers. Those do not tell appends apart: what two writers mean to be different
// must differ in the body.
func (s *Store) AppendWith(ctx context.Context, stream, subject string, expected uint64, header nats.Header, body []byte) (uint64, error) {
	all := make(nats.Header, len(header)+1)
	maps.Copy(all, header)
	all[protocol.HeaderExpectedSubjectSequence] = []string{strconv.FormatUint(expected, 10)}
	seq, err := s.publish(ctx, subject, all, body)
	if se, ok := errors.AsType[*ServerError](err); !ok || se.ErrCode != codeWrongLast {
		return seq, err
	}
	tail, err := s.Last(ctx, stream, subject)
	switch {
	case errors.Is(err, ErrNotFound):
		return 0, &ConflictError{Subject: subject, Expected: expected}
	case err != nil:
		return 0, fmt.Errorf("append to %s: settle: %w: %w", subject, ErrUnknownOutcome, err)
	case tail.Sequence > expected && bytes.Equal(tail.Data, body):
		return tail.Sequence, nil
	}
	return 0, &ConflictError{Subject: subject, Expected: expected, Tail: tail}
}

// Publish stores a message whatever its subject holds and returns its sequence. It may be stored more than once: for
// projections only, which are harmless twice. It goes on through disconnects until ctx ends.
func (s *Store) Publish(ctx context.Context, subject string, header nats.Header, body []byte) (uint64, error) {
	return s.publish(ctx, subject, header, body)
}

type publishAnswer struct {
	Stream   string       `json:"stream"`
	Sequence uint64       `json:"seq"`
	Error    *ServerError `json:"error"`
}

// publish tries until the message is stored or refused. What finds no room waits until there is some, unless ctx is Refusing.
func (s *Store) publish(ctx context.Context, subject string, header nats.Header, body []byte) (uint64, error) {
	of, uncertain := spaceOf(subject), false
	p := publication{replies: &s.replies}
	defer p.end()
	for wait := (backoff{}); ; {
		if err := s.awaitSpace(ctx, of); err != nil {
			return 0, noSpace(subject, uncertain, err)
		}
		sequence, err := p.try(ctx, &nats.Msg{Subject: subject, Header: header, Data: body}, wait.try())
		full := s.space.note(of, err)
		uncertain = uncertain || !notStored(err)
		switch {
		case err == nil:
			return sequence, nil
		case errors.Is(err, nats.ErrMaxPayload):
			return 0, fmt.Errorf("publish to %s: %d bytes: %w", subject, len(body), ErrTooLarge)
		case !retryable(err):
			return 0, fmt.Errorf("publish to %s: %w", subject, err)
		case full:
			continue
		}
		if stop := wait.sleep(ctx, s.replies.network, err); stop != nil {
			if answer := p.late(); answer != nil {
				_, sequence, _ := acknowledged(answer.Data)
				return sequence, nil
			}
			return 0, fmt.Errorf("publish to %s: %w: %w (last try: %w)", subject, ErrUnknownOutcome, stop, err)
		}
	}
}

// try sends the message once more and waits for an answer, for as long as patience lasts.
func (p *publication) try(ctx context.Context, m *nats.Msg, patience time.Duration) (uint64, error) {
	answer, unsure, err := p.publish(ctx, m, patience)
	if err != nil {
		return 0, unsureIf(unsure, err)
	}
	if _, sequence, ok := acknowledged(answer.Data); ok {
		return sequence, nil
	}
	var r publishAnswer
	if err := json.Unmarshal(answer.Data, &r); err != nil {
		return 0, unreadableError{fmt.Errorf("answer %.80q: %w", answer.Data, err)}
	}
	if r.Error != nil {
		return 0, unsureIf(unsure, r.Error)
	}
	return r.Sequence, nil
}

// unsureError is the refusal of what may have been stored before.
type unsureError struct{ error }

func (e unsureError) Unwrap() error { return e.error }

func unsureIf(unsure bool, err error) error {
	if unsure {
		return unsureError{err}
	}
	return err
}

// unreadableError ends a publish whose answer makes no sense.
type unreadableError struct{ error }

// acknowledged reads what says that a message is stored. ok is false for every other answer: who takes an acknowledgement for a
// refusal asks twice.
func acknowledged(answer []byte) (stream []byte, sequence uint64, ok bool) {
	if stream, sequence, ok = acknowledgedSimply(answer); ok {
		return stream, sequence, true
	}
	var r publishAnswer
	if json.Unmarshal(answer, &r) != nil || r.Error != nil {
		return nil, 0, false
	}
	return []byte(r.Stream), r.Sequence, r.Stream != "" && r.Sequence > 0
}

// acknowledgedSimply reads the common answer {"stream":"NAME","seq":N} without the cost of a decoder: it is read once per
// append. ok is false for every other answer, as that of a server with a domain.
func acknowledgedSimply(answer []byte) (stream []byte, sequence uint64, ok bool) {
	name, ok := bytes.CutPrefix(answer, []byte(`{"stream":"`))
	if !ok {
		return nil, 0, false
	}
	rest := bytes.TrimLeft(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=")
	stream = name[:len(name)-len(rest)]
	rest, ok = bytes.CutPrefix(rest, []byte(`","seq":`))
	if !ok || len(rest) < 2 || rest[len(rest)-1] != '}' || rest[0] == '0' {
		return nil, 0, false
	}
	for _, c := range rest[:len(rest)-1] {
		if c < '0' || c > '9' || sequence > 1<<59 {
			return nil, 0, false
		}
		sequence = 10*sequence + uint64(c-'0')
	}
	return stream, sequence, true
}

// retryable reports whether the same request may succeed later.
func retryable(err error) bool {
	if errors.Is(err, ErrFull) {
		return false // the caller knows whether to wait for room
	}
	if _, ok := errors.AsType[unreadableError](err); ok {
		return false
	}
	if se, ok := errors.AsType[*ServerError](err); ok {
		return isMoving(se) || isNoSpace(se) || se.Code == codeTooManyRequests || se.Code >= 500
	}
	return !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrMaxPayload)
}

// backoff is how a request is tried again: how long to wait before that, from 1 ms, doubling to half a second, with jitter, and how long
// for an answer.
type backoff struct {
	// most bounds what is waited for an answer, 0 stands for maxTry.
	most time.Duration
	next time.Duration
	// late counts the tries in a row that were not answered.
	late int
}

const (
	// maxTry bounds what is waited for the answer of one try to publish, maxRead of one to read: what is read is not heard late.
	maxTry, maxRead = 16 * time.Second, 4 * time.Second
	// soonLate is after how many tries without an answer longer is waited for the next one: by then a cluster has most often elected
	// another leader, so it is likely that there is more to do than is done, and what is asked again adds to that.
	soonLate = 3
)

// try is how long the next try waits for its answer.
func (b *backoff) try() time.Duration {
	return min(tryTimeout<<max(b.late-soonLate+1, 0), cmp.Or(b.most, maxTry))
}

// sleep waits after a try that has failed.
func (b *backoff) sleep(ctx context.Context, network Transport, failed error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	longest := 500 * time.Millisecond
	switch moving := isMoving(failed); {
	case errors.Is(failed, nats.ErrTimeout), errors.Is(failed, context.DeadlineExceeded):
		b.late = min(b.late+1, 2*soonLate)
	case moving && b.late > 0:
		longest = tryTimeout // what is on its way is most likely the try before
	case !moving:
		b.late = 0
	}
	b.next = min(max(2*b.next, time.Millisecond), longest)
	return network.Sleep(ctx, b.next/2+rand.N(b.next/2+1))
}

// isMoving reports whether an append was refused because another one to its subject is on its way.
func isMoving(err error) bool {
	refusal, ok := errors.AsType[*ServerError](err)
	return ok && refusal.ErrCode == codeWrongLastMoving
}
