package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

// TestLateAcknowledgement: a server that takes longer to answer than a try waits has stored what it says all the same. What is asked again
// and again would never be answered in time, and only make others wait longer.
func TestLateAcknowledgement(t *testing.T) {
	t.Parallel()
	const latency, inboxes = tryTimeout * 5 / 2, 5
	f := newTwofold(t)
	var asked, last atomic.Int32 // sequences rise, as those of a stream do
	if _, err := f.Conn().Subscribe("slow", func(m *nats.Msg) {
		asked.Add(1)
		time.AfterFunc(latency, func() { _ = f.Conn().Publish(m.Reply, []byte(stored(int(last.Add(1))))) })
	}); err != nil {
		t.Fatal(err)
	}
	var together []string
	if _, err := f.Conn().Subscribe("quick", func(m *nats.Msg) {
		if together = append(together, m.Reply); len(together) == inboxes {
			for _, reply := range together {
				_ = f.Conn().Publish(reply, []byte(stored(int(last.Add(1)))))
			}
			together = nil
		}
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there are inboxes that were used
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 4*latency)
		sequence, err := f.Publish(ctx, "slow", nil, nil)
		if err != nil || sequence == 0 {
			t.Fatalf("told %d (%v) after %s", sequence, err, time.Since(began))
		}
		if n := asked.Swap(0); n > 4 {
			t.Errorf("sent %d times within %s", n, time.Since(began))
		}
		var publishing sync.WaitGroup
		for range inboxes {
			publishing.Go(func() {
				if _, err := f.Publish(ctx, "quick", nil, nil); err != nil {
					t.Error(err)
				}
			})
		}
		publishing.Wait()
		cancel()
	}
}

// TestRefusalOfAnEarlierTry: what refuses an earlier try says nothing of the one that is under way.
func TestRefusalOfAnEarlierTry(t *testing.T) {
	t.Parallel()
	f := newTwofold(t)
	var first atomic.Pointer[string]
	if _, err := f.Conn().Subscribe("x", func(m *nats.Msg) {
		if first.CompareAndSwap(nil, &m.Reply) {
			return
		}
		for _, answer := range []struct{ to, says string }{{*first.Load(), refusal(400, 10071)}, {m.Reply, stored(7)}} {
			if err := f.Conn().Publish(answer.to, []byte(answer.says)); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if sequence, err := f.Publish(t.Context(), "x", nil, nil); err != nil || sequence != 7 {
		t.Errorf("told %d, %v", sequence, err)
	}
}

// TestPatience: each try waits longer than the one before when several were not answered.
func TestPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		b := backoff{}
		for range 8 {
			waits = append(waits, b.try())
			if err := b.sleep(t.Context(), connection{}, nats.ErrTimeout); err != nil {
				t.Fatal(err)
			}
		}
		if want := []time.Duration{2, 2, 2, 4, 8, 16, 16, 16}; !slices.EqualFunc(waits, want, func(a, b time.Duration) bool { return a == b*time.Second }) {
			t.Errorf("tries wait %v, want %v seconds", waits, want)
		}
		if err := b.sleep(t.Context(), connection{}, nats.ErrNoResponders); err != nil || b.try() != tryTimeout {
			t.Errorf("after an answer a try waits %s (%v)", b.try(), err)
		}
	})
}

// TestUnansweredInboxesAreFew: an inbox is listened to on only if its try was not answered, and few of those are.
func TestUnansweredInboxesAreFew(t *testing.T) {
	t.Parallel()
	f := newTwofold(t)
	f.answer("refused", func() []string { return []string{refusal(500, 10008)} })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	before, most := f.Conn().NumSubscriptions(), 0
	done := make(chan error, 1)
	go func() { _, err := f.Publish(ctx, "refused", nil, nil); done <- err }()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case err := <-done:
			if !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("told %v", err)
			}
			if n := f.Conn().NumSubscriptions() - before; most > 2 || n > 0 {
				t.Errorf("%d inboxes at most, %d in the end", most, n)
			}
			return
		case <-tick.C:
			most = max(most, f.Conn().NumSubscriptions()-before)
		}
	}
}

// TestLateWhileWaiting: what is acknowledged while nothing is under way is not sent again.
func TestLateWhileWaiting(t *testing.T) {
	t.Parallel()
	f := newTwofold(t)
	p := publication{replies: &f.Store.replies, tried: true}
	defer p.end()
	var asked atomic.Int32
	replies := make(chan string, 2)
	if _, err := f.Conn().Subscribe("x", func(m *nats.Msg) { asked.Add(1); replies <- m.Reply }); err != nil {
		t.Fatal(err)
	}
	if _, err := p.try(t.Context(), &nats.Msg{Subject: "x"}, time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Fatalf("a try that is not answered is told %v", err)
	}
	if err := f.Conn().Publish(<-replies, []byte(stored(9))); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "the answer is there", func() bool { return len(p.open[0].answers) > 0 })
	if sequence, err := p.try(t.Context(), &nats.Msg{Subject: "x"}, time.Second); err != nil || sequence != 9 || asked.Load() != 1 {
		t.Errorf("told %d (%v) after %d tries", sequence, err, asked.Load())
	}
}
