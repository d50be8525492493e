package answers

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
)

func open(t *testing.T) (*Desk, *nats.Conn) {
	t.Helper()
	nc := natstest.Start(t).Connect(t)
	d, err := Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	return d, nc
}

func next(t *testing.T, w *Wait) (*nats.Msg, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	return w.Next(ctx)
}

// TestAnswersGoToWhoAsked: several for each request, in their order, however many requests are under way and who is slow. All of
// them need one subscription.
func TestAnswersGoToWhoAsked(t *testing.T) {
	t.Parallel()
	d, nc := open(t)
	before := nc.NumSubscriptions()
	if _, err := nc.Subscribe("q", func(m *nats.Msg) {
		for i := range 3 {
			_ = m.Respond(fmt.Appendf(nil, "%s %d", m.Data, i))
		}
	}); err != nil {
		t.Fatal(err)
	}
	waits := make([]*Wait, 10)
	for i := range waits {
		waits[i] = d.Wait()
		if err := nc.PublishRequest("q", waits[i].Subject, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := len(waits) - 1; i >= 0; i-- {
		for n := range 3 {
			m, err := next(t, waits[i])
			if want := fmt.Sprint(i, " ", n); err != nil || string(m.Data) != want {
				t.Fatalf("answer %+v, %v; want %s", m, err, want)
			}
		}
		waits[i].Close()
	}
	if n := nc.NumSubscriptions(); n != before+1 || len(d.waiting) != 0 {
		t.Errorf("%d subscriptions, were %d before those of the test; %d wait", n, before, len(d.waiting))
	}
}

// TestWhoWaitsIsTold: that nobody is there, that the time is over, that the connection is closed.
func TestWhoWaitsIsTold(t *testing.T) {
	t.Parallel()
	d, nc := open(t)
	w := d.Wait()
	if err := nc.PublishRequest("nobody", w.Subject, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if m, err := next(t, w); err != nil || len(m.Data) != 0 {
		t.Errorf("answer %+v, %v; want one without data", m, err)
	}
	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	if _, err := w.Next(ctx); !errors.Is(err, over) {
		t.Errorf("error %v, want why it is over", err)
	}
	nc.Close()
	for _, w := range []*Wait{w, d.Wait()} {
		if _, err := next(t, w); !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("error %v of a closed connection", err)
		}
		w.Close()
	}
}

// TestNobodyTakesTheAnswers: those that are too many are lost, and hold up nobody else.
func TestNobodyTakesTheAnswers(t *testing.T) {
	t.Parallel()
	d, nc := open(t)
	idle, other := d.Wait(), d.Wait()
	for range room + 1 {
		if err := nc.Publish(idle.Subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Publish(other.Subject, []byte("y")); err != nil {
		t.Fatal(err)
	}
	if m, err := next(t, other); err != nil || string(m.Data) != "y" {
		t.Errorf("answer %+v, %v", m, err)
	}
	if len(idle.answers) != room {
		t.Errorf("%d answers wait, want %d", len(idle.answers), room)
	}
}
