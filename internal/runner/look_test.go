package runner

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestWakeBeforeTheLeaderHasIt looks for the create of a wake that another replica has delivered and the leader has not stored:
// it is not taken for that of an instance which is gone. Nor is a log that the leader does not have to its end.
func TestWakeBeforeTheLeaderHasIt(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner()
	instance := protocol.Instance{Project: "p", Workflow: "w", ID: "late"}
	h := &held{Wake: engine.Wake{Wake: protocol.Wake{Sequence: 1}}, instance: instance, deliveries: 1}
	asked := make(chan *nats.Msg, 1000)
	if _, err := r.nc.ChanSubscribe("$JS.API.STREAM.INFO."+protocol.WorkflowsStream("p", 0), asked); err != nil {
		t.Fatal(err)
	}
	store := func(subject string) {
		t.Helper()
		for range 2 { // then the leader has said once that it does not have it
			select {
			case <-asked:
			case <-time.After(patience):
				t.Fatal("nobody asks how far the leader is")
			}
		}
		if _, err := r.store.Publish(t.Context(), subject, nil, []byte(`{"v":1,"workflow":"w","id":"late"}`)); err != nil {
			t.Fatal(err)
		}
	}
	type looked struct {
		sight
		err error
	}
	seen := make(chan looked, 1)
	go func() {
		s, err := runner.lookFor(t.Context(), h)
		for errors.Is(err, journal.ErrBehind) { // this test is late: it is looked for again, as when the wake is delivered again
			s, err = runner.lookFor(t.Context(), h)
		}
		seen <- looked{s, err}
	}()
	store(instance.CreateSubject())
	if s := <-seen; s.err != nil || s.createAt != 1 {
		t.Errorf("the create is found at %d, error %v", s.createAt, s.err)
	}

	read := make(chan uint64, 1)
	go func() {
		var last uint64
		readTo := func() error {
			return runner.read(t.Context(), instance.Stream(), instance.LogSubject(), 1, 2, func(m *journal.Message) error { last = m.Sequence; return nil })
		}
		err := readTo()
		for errors.Is(err, journal.ErrBehind) {
			err = readTo()
		}
		if err != nil {
			t.Error(err)
		}
		read <- last
	}()
	store(instance.LogSubject())
	if last := <-read; last != 2 {
		t.Errorf("the log was read up to %d, want 2", last)
	}
}

// TestWakeOfWhatIsLost: a wake whose message the leader never gets is decided about in the end. A single server that lost its
// power has such ones.
func TestWakeOfWhatIsLost(t *testing.T) {
	t.Parallel()
	runner := setup(t).runner()
	h := &held{Wake: engine.Wake{Wake: protocol.Wake{Sequence: 7}}, instance: protocol.Instance{Project: "p", Workflow: "w", ID: "lost"}, deliveries: 1}
	if _, err := runner.lookFor(t.Context(), h); !errors.Is(err, journal.ErrBehind) {
		t.Errorf("at first the error is %v, want ErrBehind", err)
	}
	h.deliveries = lostAfter + 1
	if s, err := runner.lookFor(t.Context(), h); err != nil || s.createAt != 0 {
		t.Errorf("in the end: create at %d, error %v", s.createAt, err)
	}
}

// TestReadThatCounts: a replica is believed about a wake if it has come to what that is about, and about a timer only if it has the log up
// to the park, however far it says that it is.
func TestReadThatCounts(t *testing.T) {
	t.Parallel()
	create := &held{Wake: engine.Wake{Wake: protocol.Wake{Sequence: 7}, Kind: engine.WakeCreate}}
	due := &held{Wake: engine.Wake{Wake: protocol.Wake{Sequence: 3}, Kind: engine.WakeDue, Park: 7}}
	for _, tt := range []struct {
		what   string
		s      *sight
		h      *held
		counts bool
	}{
		{"nothing", nil, create, false},
		{"not as far as the create", &sight{upTo: 6}, create, false},
		{"the create", &sight{upTo: 7}, create, true},
		{"not as far as the park", &sight{upTo: 6, tailAt: 5}, due, false},
		{"the park", &sight{upTo: 9, tailAt: 7}, due, true},
		{"what is after the park", &sight{upTo: 9, tailAt: 8}, due, true},
		{"further than the park, and not the park", &sight{upTo: 9, tailAt: 5}, due, false},
		{"no log", &sight{upTo: 9}, due, false},
	} {
		if got := tt.s.counts(tt.h); got != tt.counts {
			t.Errorf("%s: it counts: %v", tt.what, got)
		}
	}
}

// TestTimerWhoseParkIsNotSeen: the leader is asked about a timer whose park a replica does not show, although it says that it is further.
func TestTimerWhoseParkIsNotSeen(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner()
	instance := protocol.Instance{Project: "p", Workflow: "w", ID: "parked"}
	for _, subject := range []string{instance.CreateSubject(), instance.LogSubject(), instance.EventSubject(), instance.EventSubject()} {
		if _, err := r.store.Publish(t.Context(), subject, nil, []byte(`{"v":1,"workflow":"w","id":"parked"}`)); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan *nats.Msg, 100)
	if _, err := r.nc.ChanSubscribe("$JS.API.STREAM.MSG.GET."+instance.Stream(), asked); err != nil {
		t.Fatal(err)
	}
	due := func(park uint64) *held {
		return &held{Wake: engine.Wake{Wake: protocol.Wake{Sequence: 9}, Kind: engine.WakeDue, Park: park}, instance: instance, deliveries: 1}
	}
	runner.decideTogether(t.Context(), t.Context(), instance.Stream(), []*held{due(2)})
	if err := r.nc.Flush(); err != nil || len(asked) > 0 {
		t.Errorf("the leader is asked %d times about a park that is seen, %v", len(asked), err)
	}
	runner.decideTogether(t.Context(), t.Context(), instance.Stream(), []*held{due(3)})
	select {
	case <-asked:
	case <-time.After(patience):
		t.Error("nobody asks the leader about a park that is not seen")
	}
}
