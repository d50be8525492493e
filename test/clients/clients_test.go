//go:build npm

package clients

import (
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/test/browser"
)

// bundle makes one script of a page and of the packages that it imports.
func bundle(t *testing.T, page string) string {
	t.Helper()
	esbuild := filepath.Join("node_modules", ".bin", "esbuild")
	if _, err := os.Stat(esbuild); err != nil {
		t.Fatalf("%v: these tests need npm's packages: npm ci --prefix test/clients", err)
	}
	c := exec.CommandContext(t.Context(), esbuild, page, "--bundle", "--format=esm", "--log-level=warning",
		`--define:process.env.NODE_ENV="production"`)
	c.Stderr = os.Stderr
	script, err := c.Output()
	if err != nil {
		t.Fatalf("bundle %s: %v", page, err)
	}
	return string(script)
}

// rig is what hosts and pages need.
type rig struct {
	browser *browser.Browser
	server  *natstest.Server
	script  string
}

// host runs a host that serves the page, too.
func (r *rig) host(t *testing.T, release <-chan struct{}) *browser.Host {
	t.Helper()
	page := browser.HTML(`<!doctype html><meta charset="utf-8"><body><script type="module">` + strings.ReplaceAll(r.script, "</script", `<\/script`) + `</script>`)
	return browser.Serve(t, r.server, agent.Host(rooms(release)).Handle("/{$}", page), nil)
}

// door is an address that leads to one host after the other, as a load balancer has it.
type door struct {
	url     string
	current atomic.Pointer[browser.Host]
}

func newDoor(t *testing.T, first *browser.Host) *door {
	t.Helper()
	d := &door{}
	d.current.Store(first)
	server := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		target, _ := url.Parse(d.current.Load().URL)
		r.SetURL(target)
		r.Out.Host = r.In.Host // what the page's origin is compared with
	}})
	t.Cleanup(server.Close)
	d.url = server.URL
	return d
}

// TestExistingClients: the clients of the package agents do what they do, before a host of Skein.
func TestExistingClients(t *testing.T) {
	t.Parallel()
	r := &rig{browser: browser.Start(t), server: natstest.Start(t), script: bundle(t, filepath.Join("src", "page.js"))}
	release := make(chan struct{})
	host := r.host(t, release)
	t.Cleanup(func() { close(release) }) // before the host ends
	t.Run("client", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *rig, *browser.Host){
			"state": state, "calls": calls, "chunks": chunks, "final closes": finalCloses, "reconnect": reconnect, "hook": hook, "hook reconnects": hookReconnects,
			"requests": requests,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, r, host)
			})
		}
	})
}

// expectSeen waits until the page has noted as much as wanted, which must be this, in this order.
func expectSeen(t *testing.T, p *browser.Page, want ...string) {
	t.Helper()
	p.Await(fmt.Sprintf("seen.length >= %d", len(want)), "true")
	if got := browser.Eval[[]string](p, "seen.splice(0)"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the page has seen\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func state(t *testing.T, r *rig, host *browser.Host) {
	ada, bob := r.browser.Open(t, host.URL), r.browser.Open(t, host.URL)
	ada.Run(`connect({name: "lobby"}), agent.ready`)
	expectSeen(t, ada, "identity lobby http-room")
	ada.Run("agent.setState({n: 1})")
	expectSeen(t, ada, `state {"n":1} client`)
	ada.Expect(`agent.call("add", [1])`, "2")
	expectSeen(t, ada, `state {"n":2} server`)
	bob.Run(`connect({name: "lobby"}), agent.ready.then(() => { seen.push("ready " + agent.state.n) })`)
	expectSeen(t, bob, `state {"n":2} server`, "identity lobby http-room", "ready 2")
	bob.Run("agent.setState({n: 3})")
	expectSeen(t, ada, `state {"n":3} server`)
	expectSeen(t, bob, `state {"n":3} client`)
	bob.Run("agent.setState({n: -1})")
	expectSeen(t, bob, `state {"n":-1} client`, "refused State update rejected", `state {"n":3} server`)
	bob.Run("agent.send('hello')")
	expectSeen(t, ada, "message hello")
	reader := r.browser.Open(t, host.URL)
	reader.Run(`connect({name: "lobby", query: {as: "reader"}}), agent.ready`)
	expectSeen(t, reader, `state {"n":3} server`, "identity lobby http-room")
	reader.Run(`agent.setState({n: 4})`)
	expectSeen(t, reader, `state {"n":4} client`, "refused Connection is readonly", `state {"n":3} server`)
	reader.Expect(`agent.call("add", [1]).catch((e) => e.message)`, `"Connection is readonly"`)
	reader.Expect(`agent.call("people")`, "3")
}

func calls(t *testing.T, r *rig, host *browser.Host) {
	p := r.browser.Open(t, host.URL)
	p.Run(`connect({name: "calls"}), follow("early", agent.call("add", [40])), agent.ready`)
	p.Await(`seen.includes("early = 40")`, "true")
	p.Expect("agent.stub.add(2)", "42")
	for call, want := range map[string]string{
		`call("fail")`:                     "the room is taken",
		`call("nothing")`:                  "Method nothing does not exist",
		`call("hidden")`:                   "Method hidden is not callable",
		`call("add", ["1"])`:               `Method add: argument 1 is \"1\"; allowed is a whole number of 64 bits`,
		`call("wait", [], {timeout: 100})`: "RPC call to wait timed out after 100ms",
	} {
		p.Expect(`agent.`+call+`.catch((e) => e.message)`, `"`+want+`"`)
	}
}

// chunks: answers in parts, for both clients.
func chunks(t *testing.T, r *rig, host *browser.Host) {
	const stream = `{stream: {onChunk: (n) => seen.push("chunk " + n), onDone: (r) => seen.push("done " + r), onError: (e) => seen.push("error " + e)}}`
	p := r.browser.Open(t, host.URL)
	p.Run(`connect({name: "chunks"}), mount({name: "chunks"}), agent.ready`)
	p.Await("hook.identified", "true")
	for _, client := range []string{"agent", "hook"} {
		p.Run("seen.splice(0)")
		p.Expect(client+`.call("count", [2], `+stream+`)`, `"done"`)
		expectSeen(t, p, "chunk 1", "chunk 2", "done done")
		p.Expect(client+`.call("count", [9], `+stream+`).catch((e) => e.message)`, `"it goes no further"`)
		expectSeen(t, p, "chunk 1", "chunk 2", "chunk 3", "error it goes no further")
	}
}

func finalCloses(t *testing.T, r *rig, host *browser.Host) {
	p := r.browser.Open(t, host.URL)
	for _, code := range []int{1008, 4001} {
		p.Run(`connect({name: "final"}), agent.ready`)
		p.Run(fmt.Sprintf(`follow("leave", agent.call("leave", [%d])), 0`, code))
		p.Await("agent.connectionError?.code", fmt.Sprint(code))
		p.Expect(`agent.call("add", [1]).catch((e) => e.message)`, `"Connection closed"`)
		p.Expect("agent.shouldReconnect", "false")
	}
	p.Run(`seen.splice(0), connect({name: "final", query: {as: "stranger"}})`)
	p.Await("agent.connectionError?.message", `"Agent connection closed: strangers are not let in"`)
}

// reconnect: the client loses its host, and comes back at another as the same connection.
func reconnect(t *testing.T, r *rig, next *browser.Host) {
	release := make(chan struct{})
	first := r.host(t, release)
	d := newDoor(t, first)
	p := r.browser.Open(t, d.url)
	p.Run(`connect({name: "door"}), agent.ready`)
	p.Expect(`agent.call("add", [7])`, "7")
	p.Run(`seen.splice(0), follow("wait", agent.call("wait", [], {timeout: 0})), 0`)
	p.Expect(`agent.call("people")`, "1") // so the other call has begun
	d.current.Store(next)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		first.Stop()
	}()
	p.Await("seen.find((s) => s.startsWith('close 1001')) !== undefined", "true")
	p.Await("seen.includes('wait ! Connection closed')", "true")
	close(release)
	<-stopped
	p.Await("agent.identified && agent.state.n", "7")
	p.Expect(`agent.call("people")`, "1")
}

func hook(t *testing.T, r *rig, host *browser.Host) {
	p, other := r.browser.Open(t, host.URL), r.browser.Open(t, host.URL)
	p.Run(`mount({name: "hooked"})`)
	p.Await(`document.querySelector("#room")?.textContent`, `"hooked: none"`)
	other.Run(`connect({name: "hooked"}), agent.ready`)
	other.Expect(`agent.call("add", [5])`, "5")
	p.Await(`document.querySelector("#room").textContent`, `"hooked: 5"`)
	p.Run("hook.setState({n: 6})")
	p.Await(`document.querySelector("#room").textContent`, `"hooked: 6"`)
	other.Await("agent.state.n", "6")
	p.Run("hook.setState({n: -6})")
	p.Await(`seen.includes("refused State update rejected")`, "true")
	p.Await(`document.querySelector("#room").textContent`, `"hooked: 6"`)
	p.Expect("hook.stub.add(1)", "7")
	p.Expect(`hook.call("fail").catch((e) => e.message)`, `"the room is taken"`)
	p.Run("seen.splice(0)")
	p.Run(`follow("leave", hook.call("leave", [4002])), 0`)
	p.Await(`seen.includes("final 4002 Agent connection closed: you wanted to")`, "true")
	p.Run("root.unmount()")
	other.Await(`agent.call("people")`, "1")
}

func hookReconnects(t *testing.T, r *rig, next *browser.Host) {
	first := r.host(t, nil)
	d := newDoor(t, first)
	p := r.browser.Open(t, d.url)
	p.Run(`mount({name: "hooked at a door"})`)
	p.Await(`document.querySelector("#room")?.textContent`, `"hooked at a door: none"`)
	p.Expect(`hook.call("add", [9])`, "9")
	d.current.Store(next)
	first.Stop()
	p.Await("seen.find((s) => s.startsWith('close 1001')) !== undefined", "true")
	p.Await("hook.identified", "true")
	p.Expect(`hook.call("add", [1])`, "10")
	p.Await(`document.querySelector("#room").textContent`, `"hooked at a door: 10"`)
}

func requests(t *testing.T, r *rig, host *browser.Host) {
	p := r.browser.Open(t, host.URL)
	p.Expect(`agentFetch({agent: "HTTPRoom", name: "asked", host: location.host}).then((r) => r.text())`, `"room /agents/h-t-t-p-room/asked"`)
}
