package journal

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
)

// twofold is a store whose publishes are answered by the test, any number of times each.
type twofold struct {
	*testing.T
	*Store
	answering sync.Mutex
}

func newTwofold(t *testing.T) *twofold {
	t.Helper()
	store, err := Open(natstest.Start(t).Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &twofold{T: t, Store: store}
}

// answer has each publish to subject answered with all of what answers returns.
func (f *twofold) answer(subject string, answers func() []string) {
	f.Helper()
	if _, err := f.Conn().Subscribe(subject, func(m *nats.Msg) {
		f.answering.Lock()
		defer f.answering.Unlock()
		for _, answer := range answers() {
			if err := f.Conn().Publish(m.Reply, []byte(answer)); err != nil {
				f.Error(err)
			}
		}
	}); err != nil {
		f.Fatal(err)
	}
}

// settle returns when all answers to a publish are here that had one.
func (f *twofold) settle() {
	f.Helper()
	f.answering.Lock()
	defer f.answering.Unlock()
	if err := f.Conn().Flush(); err != nil {
		f.Fatal(err)
	}
}

func stored(sequence int) string { return fmt.Sprintf(`{"stream":"S","seq":%d}`, sequence) }

func refusal(code, errCode int) string {
	return fmt.Sprintf(`{"error":{"code":%d,"err_code":%d}}`, code, errCode)
}

// TestAnswerAfterARefusal: a leader that gives way refuses what it cannot tell any more, and what it was sent may be stored and
// acknowledged all the same. That acknowledgement must not pass for that of the next publish.
func TestAnswerAfterARefusal(t *testing.T) {
	t.Parallel()
	f := newTwofold(t)
	f.answer("late", func() []string { return []string{refusal(400, 10058), stored(7)} })
	f.answer("next", func() []string { return []string{stored(8)} })
	for range 20 {
		if _, err := f.Publish(t.Context(), "late", nil, nil); err == nil {
			t.Fatal("a publish that is refused is an error")
		}
		f.settle()
		if sequence, err := f.Publish(t.Context(), "next", nil, nil); err != nil || sequence != 8 {
			t.Fatalf("the next publish is told %d (%v), want 8", sequence, err)
		}
	}
}

// TestTwoAcknowledgements: what is acknowledged twice is so for one publish, whatever the sequences say.
func TestTwoAcknowledgements(t *testing.T) {
	t.Parallel()
	f, last := newTwofold(t), 0
	f.answer("twice", func() []string { last += 3; return []string{stored(last - 2), stored(last - 1)} })
	f.answer("next", func() []string { return []string{stored(last)} })
	for range 20 {
		if _, err := f.Publish(t.Context(), "twice", nil, nil); err != nil {
			t.Fatal(err)
		}
		f.settle()
		if sequence, err := f.Publish(t.Context(), "next", nil, nil); err != nil || sequence != uint64(last) {
			t.Fatalf("the next publish is told %d (%v), want %d", sequence, err, last)
		}
	}
}

// TestNoSpaceAfterALateRefusal: who is refused for want of room hears that it may be stored, if the first copy of it may be.
func TestNoSpaceAfterALateRefusal(t *testing.T) {
	t.Parallel()
	f, asked := newTwofold(t), 0
	f.answer("x", func() []string {
		switch asked++; asked {
		case 1:
			return []string{stored(1)}
		case 2:
			return []string{refusal(400, 10071), stored(2)} // the refusal is of the message before
		}
		return []string{refusal(500, 10047)}
	})
	if _, err := f.Publish(t.Context(), "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Publish(Refusing(t.Context()), "x", nil, nil); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("the error is %v, want ErrUnknownOutcome", err)
	}
}

// TestRefusalAfterAnAnswer: as above, the other way round.
func TestRefusalAfterAnAnswer(t *testing.T) {
	t.Parallel()
	f, sequence := newTwofold(t), 0
	f.answer("twice", func() []string { sequence++; return []string{stored(sequence), refusal(400, 10071)} })
	for range 20 {
		if _, err := f.Publish(t.Context(), "twice", nil, nil); err != nil {
			t.Fatalf("a publish that is acknowledged is told %v", err)
		}
		f.settle()
	}
}
