package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestNoSpace: while NATS stores nothing, requests are refused with 507, mail waits with what its callback has done, and all goes
// on by itself when there is room.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var rung atomic.Int32
	ringing, goOn := make(chan struct{}, 8), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.ring = func(ctx context.Context, d *desk, _ string) error {
			rung.Add(1)
			ringing <- struct{}{}
			<-goOn
			return d.Update(ctx, func(s *deskState) error { s.Count += 10; return nil })
		}
	}, Callable((*desk).Add)), timings(func(t *timing) { t.leaseFor = soon })) // no renewal is stored, too
	if status, body := h.call(t, http.MethodPost, "/agents/desk/ada", ""); status != http.StatusOK || body != "1" {
		t.Fatalf("POST = %d %q", status, body)
	}
	r.mail(t, "ada", testProject, protocol.Mail{V: protocol.Version, Source: "a", Number: 1, Callback: "Ring", Payload: json.RawMessage(`"x"`)})
	<-ringing
	free := r.server.Fill(t)
	close(goOn)
	natstest.Eventually(t, soon, "requests are refused with 507", func() bool {
		status, body := h.call(t, http.MethodPost, "/agents/desk/bob", "")
		return status == http.StatusInsufficientStorage && strings.Contains(body, `"NoSpaceError"`)
	})
	response, err := httpClient.Post(h.url+"/agents/desk/bob", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusInsufficientStorage || response.Header.Get("Retry-After") == "" {
		t.Errorf("POST = %d with Retry-After %q", response.StatusCode, response.Header.Get("Retry-After"))
	}
	began := time.Now()
	_, err = Call(t.Context(), deskClass.In(r.program(t, project.Config{Name: testProject})).Agent("bob"), (*desk).Add, 1)
	if failed, ok := errors.AsType[*CallError](err); !ok || failed.Name != "NoSpaceError" || time.Since(began) > defaultCallTimeout {
		t.Errorf("call while there is no room: %v, after %s", err, time.Since(began))
	}
	free()
	natstest.Eventually(t, soon, "requests are served", func() bool {
		status, body := h.call(t, http.MethodPost, "/agents/desk/ada", "")
		return status == http.StatusOK && body == "12"
	})
	if n := rung.Load(); n != 1 {
		t.Errorf("the callback ran %d times", n)
	}
	r.inboxEmpty(t)
}
