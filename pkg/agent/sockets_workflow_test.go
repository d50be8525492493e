package agent

import (
	"context"
	"net/http"
	"testing"
)

// Decide is what a page calls with the person's answer.
func (c *clerk) Decide(ctx context.Context, id, word string) error { return c.steer(ctx, id, word) }

// TestWorkflowToThePage: a page starts a workflow over its socket, sees its progress, answers what it asks, and sees its end, although the
// host of its agent is killed meanwhile.
func TestWorkflowToThePage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.emailRunner(t)
	classes := clerks(func(c *clerk) {
		c.heard = func(ctx context.Context, _ *clerk, text string) error { return Broadcast(ctx, Text(text)) }
	}, Clients((*clerk).Start, (*clerk).Decide))
	owner := r.host(t, classes, withEmail, timings(quick))
	owner.call(t, http.MethodGet, "/agents/desk/jo", "")
	gate := r.host(t, classes, withEmail, timings(quick))
	page, other := gate.dial(t, "/agents/desk/jo"), gate.dial(t, "/agents/desk/jo")
	const hello = `{"type":"cf_agent_identity","name":"jo","agent":"desk"}`
	page.expect(hello)
	other.expect(hello)
	page.send(rpc("1", "start", `["a: progress ask"]`))
	page.expect(rpcDone("1", `"a"`))
	for _, c := range []*socketClient{page, other} {
		c.expect("a progress 0", state(`{"Count":0,"Log":["a progress 0"]}`))
	}
	owner.kill(t)
	page.send(rpc("2", "decide", `["a","approve"]`))
	page.expect(`{"type":"rpc","id":"2","success":true,"done":true}`)
	for _, c := range []*socketClient{page, other} {
		c.expect("a complete 7", state(`{"Count":0,"Log":["a progress 0","a complete 7"]}`))
	}
}
