package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// oldDesk is the desk as an older program has it: with a callback that it has no more.
type oldDesk struct{ Base[deskState] }

// Remind is the callback that goes.
func (d *oldDesk) Remind(context.Context, string) error { return nil }

func (d *oldDesk) OnRequest(_ http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	if _, err := Schedule(ctx, After(0), d.Remind, "once", Idempotent(true)); err != nil {
		return err
	}
	_, err := Schedule(ctx, Every(time.Second), d.Remind, "again", Times(2), CatchUp(2))
	return err
}

// TestCallbackThatIsGone has schedules of a program whose successor has no such method any more: each firing is a dead letter
// that says so, at once, and can be redriven by a program that knows what is meant.
func TestCallbackThatIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.host(t, []Class{Define("Desk", func() *oldDesk { return &oldDesk{} })})
	if status, body := old.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 {
		t.Fatalf("the old program answers %d %s", status, body)
	}
	if err := old.stop(); err != nil {
		t.Fatal(err)
	}
	var failures []error
	today := r.host(t, desks(func(d *desk) {
		d.request = showLog
		d.failed = func(_ context.Context, _ *desk, err error) error {
			failures = append(failures, err) // in turns, one after the other
			return nil
		}
	}))
	r.scheduler(t)
	record := r.awaitRecord(t, "jo", "both schedules are over", func(p protocol.Record) bool { return len(p.Seen) == 0 })
	if len(record.Parked) != 0 {
		t.Errorf("mail waits for another attempt: %+v", record.Parked)
	}
	var letters map[string][]byte
	natstest.Eventually(t, soon, "every firing is a dead letter", func() bool {
		letters = r.rows(t, protocol.DeadBucket(testProject))
		return len(letters) >= 3
	})
	for id, data := range letters {
		var letter protocol.DeadLetter
		if err := json.Unmarshal(data, &letter); err != nil {
			t.Fatal(err)
		}
		if letter.Error.Name != "CallbackError" || !strings.Contains(letter.Error.Message, `no such method`) ||
			!strings.Contains(letter.Error.Message, "Remind") || letter.Mail.Callback != "Remind" || letter.Mail.Planned == nil || letter.Attempts != 0 {
			t.Errorf("dead letter %s: %s", id, data)
		}
	}
	if len(letters) != 3 {
		t.Fatalf("%d dead letters, want one per firing", len(letters))
	}
	if err := today.stop(); err != nil {
		t.Fatal(err)
	}
	if len(failures) != 3 {
		t.Errorf("OnError got %v, want one per dead letter", failures)
	}

	renamed := r.host(t, desks(func(d *desk) { d.request = showLog }, Renamed("Remind", (*desk).Note)))
	dead := DeadLettersOf(r.program(t, project.Config{Name: testProject}))
	for letter, err := range dead.List(t.Context(), DeadFilter{}) {
		if err == nil {
			err = dead.Redrive(t.Context(), letter.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	natstest.Eventually(t, soon, "all are applied", func() bool { return len(r.rows(t, protocol.DeadBucket(testProject))) == 0 })
	if _, log := renamed.call(t, http.MethodGet, "/agents/desk/jo", ""); strings.Count(log, "once") != 1 || strings.Count(log, "again") != 2 {
		t.Errorf("applied %q, want every firing once", log)
	}
}
