package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// handle is an instance of the bench by hand.
func (b *bench) handle(class, id string) *Instance[json.RawMessage] {
	b.t.Helper()
	p, err := project.Open(b.t.Context(), project.Config{Name: "p"}, project.Conn(b.nc))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(p.Close)
	return &Instance[json.RawMessage]{at: b.instance(class, id), project: p, reader: b.reader()}
}

type seat struct{ Row int }

// TestApproval: yes with what comes with it, no with a reason, each to the wait that it is for, given before or after.
func TestApproval(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(parks(), Define("w", func(ctx context.Context, e Event[int]) (any, error) {
		manager, err := WaitForApproval[seat](ctx, "manager", ApprovalType("manager"))
		if err != nil {
			return nil, err
		}
		first, err := WaitForApproval[seat](ctx, "first")
		if err != nil {
			return nil, err
		}
		_, err = WaitForApproval[seat](ctx, "second")
		rejected, ok := errors.AsType[*RejectedError](err)
		if !ok || !errors.Is(err, ErrRejected) {
			return nil, fmt.Errorf("second is %w, want a rejection", err)
		}
		return fmt.Sprintln(manager.Metadata.Row, manager.Reason, first.Metadata.Row, first.Sent.IsZero(), rejected.Wait, rejected.Reason), nil
	}))
	b.create("w", "a", 1)
	i := b.handle("w", "a")
	if err := errors.Join(
		i.Approve(t.Context(), seat{1}),
		i.Approve(t.Context(), seat{7}, ApprovalType("manager"), Reason("fine"), EventID("once")),
		i.Approve(t.Context(), seat{8}, ApprovalType("manager"), EventID("once")),
		i.Reject(t.Context(), "too late"),
	); err != nil {
		t.Fatal(err)
	}
	if got := string(b.complete("w", "a").Output); got != `"7 fine 1 false second too late\n"` {
		t.Errorf("output %s", got)
	}
}

// TestRejectedInstance: one that ends with a no says so.
func TestRejectedInstance(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(parks(), Define("w", func(ctx context.Context, e Event[int]) (any, error) {
		return WaitForApproval[any](ctx, "ask", Timeout(time.Duration(e.Payload)*time.Millisecond))
	}))
	b.create("w", "a", int(natstest.Patience/time.Millisecond))
	if err := b.handle("w", "a").Reject(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	f := b.errored("w", "a")
	ended := &InstanceError{Workflow: "w", ID: "a", Failure: f}
	if !errors.Is(ended, ErrRejected) || errors.Is(ended, context.DeadlineExceeded) || !strings.Contains(f.Message, `approval "ask"`) {
		t.Errorf("ended with %+v", f)
	}
	b.create("w", "late", 1)
	if f := b.errored("w", "late"); f.Name != protocol.FailureTimeout {
		t.Errorf("nobody answered: %+v", f)
	}
}

// TestApprovalMisuse: each mistake is an error that says what is wrong, before anything is stored.
func TestApprovalMisuse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.create("w", "a", 1)
	i, before := b.handle("w", "a"), b.stored()
	long := i.Reject(t.Context(), strings.Repeat("x", MaxReason+1))
	if refused, ok := errors.AsType[*OptionError](long); !ok || refused.Option != "Reason" {
		t.Errorf("long reason: %v", long)
	}
	if err := i.Approve(t.Context(), nil, ApprovalType("a b")); !errors.Is(err, protocol.ErrName) {
		t.Errorf("bad type: %v", err)
	}
	if encoding, ok := errors.AsType[*EncodingError](i.Approve(t.Context(), func() {})); !ok {
		t.Errorf("metadata that is no JSON: %v", encoding)
	}
	if err := b.handle("w", "nobody").Approve(t.Context(), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such instance: %v", err)
	}
	if _, err := WaitForApproval[any](t.Context(), "ask"); !errors.Is(err, ErrNoWorkflow) {
		t.Errorf("outside of a workflow: %v", err)
	}
	if _, err := WaitForApproval[any](t.Context(), "ask", ApprovalType("")); !errors.Is(err, protocol.ErrName) {
		t.Errorf("empty type: %v", err)
	}
	if b.stored() != before {
		t.Error("something was stored")
	}
}
