package execution

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

func largeJSON(letter string) json.RawMessage {
	return json.RawMessage(`"` + strings.Repeat(letter, protocol.InlinePayload) + `"`)
}

// TestMissingObject: the code must not see an error that another run does not.
func TestMissingObject(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	owner := protocol.OwnerOf(r.instance, "")
	gone, err := objects.New(r.store).Put(t.Context(), objects.Value{Owner: owner, JSON: largeJSON("x")})
	if err != nil {
		t.Fatal(err)
	}
	if err := objects.New(r.store).DeleteInstance(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	history := engine.NewHistory(r.stream, r.created, protocol.Create{})
	err = history.Apply(r.created+1, &protocol.Append{V: 1, Incarnation: r.created, Entries: []protocol.Entry{
		{Kind: protocol.EntryStepCompleted, Step: &protocol.Key{Op: protocol.OpDo, Name: "a", Count: 1}, Object: gone},
	}})
	if err != nil {
		t.Fatal(err)
	}
	x := r.over(Settings{}, history, func(ctx context.Context) (json.RawMessage, error) {
		err := do(ctx, "a", nothing)
		t.Errorf("the step returned %v", err)
		return nil, err
	})
	e := r.event(x, Dropped)
	if missing, ok := errors.AsType[*objects.MissingError](e.Err); !ok || missing.Name != gone.Name {
		t.Errorf("dropped with %v, want a *MissingError", e.Err)
	}
	if n := len(r.entries()); n != 0 {
		t.Errorf("%d entries were stored", n)
	}
}

func TestLargeResultAndOutput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	x := r.start(Settings{}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		step, err := s.Do(ctx, "a", protocol.StepConfig{LostRuns: 1}, Code{Body: func(context.Context) (json.RawMessage, error) {
			return largeJSON("a"), nil
		}})
		if err != nil || string(step.Result) != string(largeJSON("a")) {
			t.Errorf("the step returned %v, %v", step, err)
		}
		return largeJSON("b"), nil
	})
	done := r.event(x, Finished).Done
	if done.OutputObject == nil || done.Output != nil {
		t.Fatalf("the end is %+v", done)
	}
	output, err := objects.New(r.store).Get(t.Context(), "p", *done.OutputObject)
	if err != nil || string(output) != string(largeJSON("b")) {
		t.Errorf("the output has %d bytes, %v", len(output), err)
	}
}
