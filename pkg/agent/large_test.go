package agent

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestLargeValuesOfATurn: they are in the store of the instance's project before the commit, which refers to them.
func TestLargeValuesOfATurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	params, payload := strings.Repeat("x", 600<<10), strings.Repeat("y", 600<<10)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			instance, err := email.Create(q.Context(), params, workflow.ID("u7"))
			if err != nil {
				return err
			}
			return instance.SendEvent(q.Context(), "confirmed", payload)
		}
	}, Uses(email)), withEmail)
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 {
		t.Fatalf("POST = %d %s", status, body)
	}
	natstest.Eventually(t, soon, "the create is published", func() bool { return r.createOf(t, "u7") != nil })
	create := r.createOf(t, "u7")
	i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: "u7"}
	owner := protocol.OwnerOf(i, create.Input)
	if create.Params != nil || create.ParamsObject == nil || !owner.Owns(i.Project, *create.ParamsObject) {
		t.Fatalf("create %+v", create)
	}
	got, err := objects.New(r.store).Get(t.Context(), i.Project, *create.ParamsObject)
	if err != nil || string(got) != `"`+params+`"` {
		t.Errorf("the params have %d bytes, %v", len(got), err)
	}
	var event protocol.Event
	natstest.Eventually(t, soon, "the event is published", func() bool {
		m, err := r.store.Last(t.Context(), i.Stream(), i.EventSubject())
		return err == nil && json.Unmarshal(m.Data, &event) == nil
	})
	if event.Payload != nil || event.PayloadObject == nil || !owner.Owns(i.Project, *event.PayloadObject) {
		t.Fatalf("event %+v", event)
	}
	if got, err = objects.New(r.store).Get(t.Context(), i.Project, *event.PayloadObject); err != nil || string(got) != `"`+payload+`"` {
		t.Errorf("the payload has %d bytes, %v", len(got), err)
	}
}
