package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// ErrRejected is wrapped by [RejectedError].
var ErrRejected = errors.New("rejected")

// Approval is a yes, with what came with it.
type Approval[M any] struct {
	Metadata M
	Reason   string
	// Sent is when it was given.
	Sent time.Time
}

// RejectedError is what a wait for an approval returns that was told no. An instance that ends with it is an InstanceError
// for which errors.Is(err, ErrRejected) holds.
type RejectedError struct {
	// Wait is the name of the wait, Reason what was said; it may be empty.
	Wait, Reason string
}

func (e *RejectedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("approval %q: %v", e.Wait, ErrRejected)
	}
	return fmt.Sprintf("approval %q: %v: %s", e.Wait, ErrRejected, e.Reason)
}

// Unwrap makes errors.Is(err, ErrRejected) true.
func (e *RejectedError) Unwrap() error { return ErrRejected }

// Terminal is true: another run would be told the same.
func (e *RejectedError) Terminal() bool { return true }

// FailureName names the error when it is stored.
func (e *RejectedError) FailureName() string { return protocol.FailureRejected }

// ApprovalOption is an option of WaitForApproval: Timeout or ApprovalType.
type ApprovalOption interface{ applyApproval(*approvalOptions) error }

type approvalOptions struct {
	eventType string
	wait      []WaitOption
}

func (t TimeoutOption) applyApproval(o *approvalOptions) error {
	o.wait = append(o.wait, t)
	return nil
}

// AnswerOption is an option of Approve and Reject: Reason, ApprovalType or EventID.
type AnswerOption interface{ applyAnswer(*decision) error }

type decision struct {
	protocol.Approval
	eventType string
	send      []SendOption
}

func (e EventIDOption) applyAnswer(d *decision) error {
	d.send = append(d.send, e)
	return nil
}

// ApprovalType tells approvals of one instance apart: what is approved or rejected with a type answers the wait with that
// type. Without it that is protocol.ApprovalType.
func ApprovalType(eventType string) ApprovalTypeOption { return ApprovalTypeOption(eventType) }

// ApprovalTypeOption is made by [ApprovalType].
type ApprovalTypeOption string

func (t ApprovalTypeOption) applyApproval(o *approvalOptions) error {
	o.eventType = string(t)
	return protocol.CheckEventType(o.eventType)
}

func (t ApprovalTypeOption) applyAnswer(d *decision) error {
	d.eventType = string(t)
	return protocol.CheckEventType(d.eventType)
}

// MaxReason is the most bytes that the reason of an approval or rejection may have.
const MaxReason = 4096

// Reason says why something is approved.
func Reason(reason string) AnswerOption { return reasonOption(reason) }

type reasonOption string

func (r reasonOption) applyAnswer(d *decision) error {
	d.Reason = string(r)
	if len(r) > MaxReason {
		return &OptionError{Option: "Reason", Value: fmt.Sprintf("%d bytes long", len(r)), Allowed: fmt.Sprintf("at most %d", MaxReason)}
	}
	return nil
}

// WaitForApproval waits until somebody approves or rejects: Instance.Approve, Instance.Reject. A no is a [*RejectedError]; if
// nobody answers before the timeout, by default DefaultEventTimeout, the error is a [*TimeoutError]. It is a wait for an
// event: the first answer counts, one that was given before is taken, and further ones are for further waits of the same type.
func WaitForApproval[M any](ctx context.Context, name string, options ...ApprovalOption) (Approval[M], error) {
	o := approvalOptions{eventType: protocol.ApprovalType}
	for _, option := range options {
		if err := option.applyApproval(&o); err != nil {
			return Approval[M]{}, fmt.Errorf("approval %q: %w", name, err)
		}
	}
	received, err := WaitForEvent[protocol.Approval](ctx, name, o.eventType, o.wait...)
	if err != nil {
		return Approval[M]{}, err
	}
	if !received.Payload.Approved {
		return Approval[M]{}, &RejectedError{Wait: name, Reason: received.Payload.Reason}
	}
	metadata, err := decode[M](received.Payload.Metadata, fmt.Sprintf("metadata of approval %q", name))
	return Approval[M]{Metadata: metadata, Reason: received.Payload.Reason, Sent: received.Sent}, err
}

// Approve answers a WaitForApproval of the instance with yes, now or when it comes to one. The metadata is handed on, nil is
// none. Otherwise it is like SendEvent: in an agent's turn it is part of the turn's commit.
func (i *Instance[R]) Approve(ctx context.Context, metadata any, options ...AnswerOption) error {
	d := decision{Approval: protocol.Approval{Approved: true}}
	if metadata != nil {
		raw, err := json.Marshal(metadata)
		if err != nil {
			return &EncodingError{What: "metadata of an approval", Err: err}
		}
		d.Metadata = raw
	}
	return i.decide(ctx, d, options)
}

// Reject answers a WaitForApproval of the instance with no. The reason may be empty.
func (i *Instance[R]) Reject(ctx context.Context, reason string, options ...AnswerOption) error {
	return i.decide(ctx, decision{}, append([]AnswerOption{Reason(reason)}, options...))
}

func (i *Instance[R]) decide(ctx context.Context, d decision, options []AnswerOption) error {
	d.eventType = protocol.ApprovalType
	for _, option := range options {
		if err := option.applyAnswer(&d); err != nil {
			return err
		}
	}
	return i.SendEvent(ctx, d.eventType, d.Approval, d.send...)
}
