package flightdesk

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/agent/agenttest"
	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// TestBookingOnATestClock books on a clock that the test has in its hands, with hosts that die on the way: this is how the
// users of agents test them.
func TestBookingOnATestClock(t *testing.T) {
	t.Parallel()
	env := workflowtest.Load(t, "skein.jsonc", workflow.Define("OnboardingWorkflow", untilConfirmed))
	kit := agenttest.In(t, env, Classes()...)
	desk := func() Desk { return agenttest.State[Desk](kit, "FlightDesk", "ada") }

	book := httptest.NewRequest(http.MethodPost, "/agents/flight-desk/ada", nil)
	book.Header.Set("user-id", "ada")
	if response := kit.Do(book); response.StatusCode != http.StatusAccepted {
		t.Fatalf("answer %d", response.StatusCode)
	}
	kit.Advance(2 * time.Second)
	if d := desk(); d.Instance != "" {
		t.Errorf("the workflow has started before its time: %+v", d)
	}
	kit.KillHost()
	kit.Advance(2 * time.Second)
	if d := desk(); d.Instance != "ada-DL264" {
		t.Errorf("the workflow has not started: %+v", d)
	}
	kit.Advance(time.Minute) // a look every two seconds
	if d := desk(); d.State != workflow.Waiting || d.Looks < 29 {
		t.Errorf("nobody has looked: %+v", d)
	}
	kit.Sleep()
	if status, answer := kit.Request(http.MethodPost, "/agents/flight-desk/ada/confirm", ""); status != http.StatusOK {
		t.Fatalf("answer %d: %s", status, answer)
	}
	kit.Advance(time.Hour)
	if d := desk(); d.State != workflow.Complete || d.Looks > 40 {
		t.Errorf("it is not over: %+v", d)
	}
	report, err := workflowtest.Find[any](env, "EMAIL_WORKFLOW", "ada-DL264").Result()
	if err != nil {
		t.Errorf("the workflow ended with %v, %v", report, err)
	}
}
