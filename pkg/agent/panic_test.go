package agent

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestPanicsAreLoggedOnce with the agent, the turn and the stack, whatever the turn was for, and the agent goes on.
func TestPanicsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodPut {
				panic("at a request")
			}
			return count(d, w, q)
		}
		d.ring = func(context.Context, *desk, string) error { panic("at mail") }
	}, Retry{MaxAttempts: 1}))
	if status, body := h.call(t, http.MethodPut, "/agents/desk/jo", ""); status != 500 || strings.Contains(body, "at a request") {
		t.Errorf("answer %d %s", status, body)
	}
	r.mail(t, "jo", testProject, protocol.Mail{Source: "tell", Number: 1, Callback: "Ring", Payload: []byte(`""`)})
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "0")
	for text, turn := range map[string]string{"panic: at a request": "turn=1 ", "panic: at mail": "turn=1 "} {
		line := h.log.line(text)
		if n := h.log.count(text + "\""); n != 1 || !strings.Contains(line, "agent=jo ") || !strings.Contains(line, turn) || !strings.Contains(line, "stack=") {
			t.Errorf("%q is logged %d times, want once with agent, turn and stack: %s", text, n, line)
		}
	}
}
