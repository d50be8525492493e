package scheduler

import (
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// What people are told of a schedule is what they can give to the commands.
func TestAddress(t *testing.T) {
	t.Parallel()
	for want, k := range map[string]key{
		"Desk/jo@example.com/wake":  {protocol.Agent{Project: "p", Class: "Desk", Name: "jo@example.com"}, "wake"},
		"EMAIL_WORKFLOW/cron-3a9d1": {protocol.Agent{Project: "p", Class: protocol.ClassCron, Name: "EMAIL_WORKFLOW"}, "cron-3a9d1"},
	} {
		if got := k.address(); got != want {
			t.Errorf("address is %q, want %q", got, want)
		}
	}
}
