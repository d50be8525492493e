package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
)

// TestAnswerAfterARefusal: a leader that gives way refuses what it cannot tell any more, and what it was sent may be stored and
// acknowledged all the same. That acknowledgement must not pass for that of the next publish.
func TestAnswerAfterARefusal(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	store, err := Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	answer := func(m *nats.Msg, what any) {
		data, err := json.Marshal(what)
		if err == nil {
			err = nc.Publish(m.Reply, data)
		}
		if err != nil {
			t.Error(err)
		}
	}
	stored := map[string]any{"stream": "S", "seq": 7}
	late, err := nc.Subscribe("late", func(m *nats.Msg) {
		answer(m, map[string]any{"error": ServerError{Code: 400, ErrCode: 10058}})
		answer(m, stored)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = late.Unsubscribe() })
	if _, err := nc.Subscribe("next", func(m *nats.Msg) { answer(m, map[string]any{"stream": "S", "seq": 8}) }); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := store.Publish(t.Context(), "late", nil, nil); err == nil {
			t.Fatal("a publish that is refused is an error")
		}
		if err := nc.Flush(); err != nil { // the second answer is here
			t.Fatal(err)
		}
		if sequence, err := store.Publish(t.Context(), "next", nil, nil); err != nil || sequence != 8 {
			t.Fatalf("the next publish is told %d (%v), want 8", sequence, err)
		}
	}
}

// TestTwoAcknowledgements: what is acknowledged twice is so for one publish, whatever the sequences say.
func TestTwoAcknowledgements(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	store, err := Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	reply := func(subject string, sequences func() []int) {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			for _, n := range sequences() {
				if err := nc.Publish(m.Reply, fmt.Appendf(nil, `{"stream":"S","seq":%d}`, n)); err != nil {
					t.Error(err)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	last := 0
	reply("twice", func() []int { last += 3; return []int{last - 2, last - 1} })
	reply("next", func() []int { return []int{last} })
	for range 20 {
		if _, err := store.Publish(t.Context(), "twice", nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil { // the second answer is here
			t.Fatal(err)
		}
		if sequence, err := store.Publish(t.Context(), "next", nil, nil); err != nil || sequence != uint64(last) {
			t.Fatalf("the next publish is told %d (%v), want %d", sequence, err, last)
		}
	}
}

// TestNoSpaceAfterALateRefusal: who is refused for want of room hears that it may be stored, if the first copy of it may be.
func TestNoSpaceAfterALateRefusal(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	store, err := Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	answers := [][]string{
		{`{"stream":"S","seq":1}`},
		{`{"error":{"code":400,"err_code":10071}}`, `{"stream":"S","seq":2}`}, // the refusal is of the message before
	}
	if _, err := nc.Subscribe("x", func(m *nats.Msg) {
		now := []string{`{"error":{"code":500,"err_code":10047}}`}
		if len(answers) > 0 {
			now, answers = answers[0], answers[1:]
		}
		for _, answer := range now {
			if err := nc.Publish(m.Reply, []byte(answer)); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Publish(t.Context(), "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Publish(Refusing(t.Context()), "x", nil, nil); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("the error is %v, want ErrUnknownOutcome", err)
	}
}

// TestRefusalAfterAnAnswer: as above, the other way round.
func TestRefusalAfterAnAnswer(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	store, err := Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	sequence := 0
	if _, err := nc.Subscribe("twice", func(m *nats.Msg) {
		sequence++
		for _, answer := range []string{fmt.Sprintf(`{"stream":"S","seq":%d}`, sequence), `{"error":{"code":400,"err_code":10071}}`} {
			if err := nc.Publish(m.Reply, []byte(answer)); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := store.Publish(t.Context(), "twice", nil, nil); err != nil {
			t.Fatalf("a publish that is acknowledged is told %v", err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}
