package browser_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/test/browser"
)

func moduleAt(url string) string { return strings.Replace(clientPage, "MODULE", url, 1) }

// expectSeen waits until the page has noted as much as wanted, which must be this, in this order.
func expectSeen(t *testing.T, p *browser.Page, want ...string) {
	t.Helper()
	p.Await(fmt.Sprintf("seen.length >= %d", len(want)), "true")
	if got := browser.Eval[[]string](p, "take()"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the page has seen\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// client: what the client does on its own, before a server that the test plays.
func client(t *testing.T, b *browser.Browser) {
	for name, test := range map[string]func(*testing.T, *script, *browser.Page){
		"address":     addresses,
		"greeting":    greeting,
		"reconnect":   reconnects,
		"final":       finalCloses,
		"offline":     offline,
		"queue":       queueBound,
		"timeout":     timeouts,
		"stream":      streams,
		"state":       states,
		"silence":     silence,
		"query":       queries,
		"close":       closes,
		"code throws": throwing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			test(t, s, b.Open(t, s.url))
		})
	}
}

func addresses(t *testing.T, s *script, p *browser.Page) {
	for options, want := range map[string]string{
		`{}`:                "/agents/chat-room/jo",
		`{name: undefined}`: "/agents/chat-room/default",
		`{agent: "HTTPDesk2Go", name: "a/b c", path: "x/y"}`: "/agents/http-desk2-go/a%2Fb%20c/x/y",
		`{agent: "flight_desk"}`:                             "/agents/flight-desk/jo",
		`{basePath: "agents/of/mine"}`:                       "/agents/of/mine",
		`{host: "` + s.url + `/"}`:                           "/agents/chat-room/jo",
	} {
		p.Run("connect(" + options + ")")
		peer := s.accept()
		if peer.path != want {
			t.Errorf("%s connects to %s, want %s", options, peer.path, want)
		}
		p.Run("agent.close()")
	}
	p.Expect(`new Set([1,2,3].map(() => { connect(); agent.close(); return agent.id })).size`, "3")
}

// greeting: nothing is sent before the agent has taken the connection, and ready means that the state is there.
func greeting(t *testing.T, s *script, p *browser.Page) {
	p.Run(`window.real = setTimeout, window.setTimeout = (fn, ms) => real(fn, ms === 1000 ? 2 ** 30 : ms), 0`) // or a late greeting is none
	p.Run(`connect(), agent.send("early"), follow("call", agent.call("add", [1])), follow("ready", agent.ready.then(() => agent.state)), 0`)
	peer := s.accept()
	peer.write(`{"type":"cf_agent_identity","name":"jo","agent":"chat-room","stateFollows":true}`)
	p.Await("agent.identity", "null")
	peer.quiet()
	peer.write(`{"type":"cf_agent_state","state":{"n":1}}`)
	ids := peer.expect("early", "add[1]")
	peer.answer(ids[0], "2")
	expectSeen(t, p, "open", `state {"n":1} server`, "identity jo chat-room", `ready = {"n":1}`, "call = 2")
	p.Expect("[agent.state, agent.identity, agent.identified, agent.readyState]", `[{"n":1},{"name":"jo","agent":"chat-room"},true,1]`)
	// A connection that was made silent gets no greeting.
	p.Run(`window.setTimeout = real, agent.close(), connect(), agent.send("silent"), take(), 0`)
	s.accept().expect("silent")
}

// reconnects: the client comes back under its id, and what could not be sent meanwhile is sent then, in order.
func reconnects(t *testing.T, s *script, p *browser.Page) {
	p.Run("connect()")
	peer := s.greet("")
	id := peer.query.Get("_pk")
	arrival := []string{"open", "identity jo chat-room"}
	for _, code := range []int{1001, 1012, 1011, 1013, 1006} {
		expectSeen(t, p, arrival...)
		p.Run(`follow("sent", agent.call("slow")), 0`)
		peer.expect("slow[]")
		if code == 1006 {
			_ = peer.ws.CloseNow()
		} else {
			peer.close(code, "away")
		}
		p.Await("seen.length >= 2", "true") // it may be open again, and is not greeted yet
		p.Run(`follow("kept", agent.call("add", [1, "a"])), agent.send("text"), agent.send(new Uint8Array([65, 66])), 0`)
		reason := " away"
		if code == 1006 {
			reason = " "
		}
		peer = s.greet("")
		if got := peer.query.Get("_pk"); got != id || id == "" {
			t.Errorf("the client came back as %q, it was %q", got, id)
		}
		ids := peer.expect(`add[1,"a"]`, "text", "binary AB")
		peer.answer(ids[0], "3")
		p.Await("seen.length", "5")
		got := browser.Eval[[]string](p, "take()")
		want := []string{fmt.Sprintf("close %d%s", code, reason), "sent ! AgentCallError: Connection closed (unknown)", "open", "identity jo chat-room", "kept = 3"}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("after %d the page has seen %q, want %q", code, got, want)
		}
		p.Run(`agent.reconnect()`)
		if _, ok := <-peer.frames; ok {
			t.Error("the client has sent something else")
		}
		peer = s.greet("")
		arrival = []string{"close 1000 the client connects anew", "open", "identity jo chat-room"}
	}
	expectSeen(t, p, arrival...)
	peer.write(`{"type":"cf_agent_identity","name":"al","agent":"chat-room"}`)
	expectSeen(t, p, "other jo al chat-room chat-room", "identity al chat-room")
}

// finalCloses: after some codes nobody comes back, and all that waits is told.
func finalCloses(t *testing.T, s *script, p *browser.Page) {
	for _, code := range []int{1008, 4000, 4321, 4999} {
		p.Run("connect()")
		peer := s.greet("")
		expectSeen(t, p, "open", "identity jo chat-room")
		p.Run(`follow("call", agent.call("add")), 0`)
		peer.expect("add[]")
		peer.close(code, "no more")
		expectSeen(t, p, fmt.Sprintf("close %d no more", code), fmt.Sprintf("final %d Agent connection closed: no more", code),
			"call ! AgentCallError: Connection closed (unknown)")
		p.Run(`follow("ready", agent.ready), follow("later", agent.call("add")), 0`)
		expectSeen(t, p, "ready ! AgentConnectionError: Agent connection closed: no more", "later ! AgentCallError: Connection closed (unsent)")
		p.Expect(`[agent.readyState, agent.connectionError.code]`, fmt.Sprintf("[3,%d]", code))
		p.Expect(`(() => { try { agent.send("x") } catch (e) { return e.message } })()`, `"Agent connection closed: no more"`)
		p.Run(`agent.reconnect()`) // by hand
		s.greet("").expect()
		expectSeen(t, p, "open", "identity jo chat-room")
		p.Expect("agent.connectionError", "null")
		p.Run("agent.close(), take(), 0")
	}
	p.Run(`connect({host: "127.0.0.1:1", maxRetries: 1, minReconnectionDelay: 1})`)
	p.Await("seen.filter((s) => s.startsWith('close')).length", "2")
	p.Await(`seen.at(-1).startsWith("final 1006")`, "true")
}

// offline: without a connection, calls that run out of time are never sent, and of states only the newest is.
func offline(t *testing.T, s *script, p *browser.Page) {
	p.Run(`connect({minReconnectionDelay: 600000, maxReconnectionDelay: 600000}), 0`)
	s.greet(`{"n":1}`).close(1012, "")
	p.Await("seen.at(-1)", `"close 1012 "`)
	p.Run(`take(), agent.setState({n: 2}), follow("late", agent.call("late", [], {timeout: 1})), agent.send("between"), agent.setState({n: 3}), 0`)
	p.Await("seen.at(-1)", `"late ! AgentCallError: RPC call to late timed out after 1ms (unsent)"`)
	p.Run(`window.dispatchEvent(new Event("online"))`) // else it would take minutes
	peer := s.greet(`{"n":9}`)                         // what the page has set meanwhile is newer
	peer.expect("between", `{"type":"cf_agent_state","state":{"n":3},"id":"2"}`)
	p.Await("agent.identified", "true")
	p.Expect("agent.state", `{"n":3}`)
	peer.write(`{"type":"cf_agent_state_error","error":"State update rejected","reason":"n is 3"}`)
	peer.write(`{"type":"cf_agent_state","state":{"n":9}}`)
	p.Await("agent.state.n", "9")
	expectSeen(t, p, `state {"n":2} client`, `state {"n":3} client`, "late ! AgentCallError: RPC call to late timed out after 1ms (unsent)",
		"open", "identity jo chat-room", "refused State update rejected n is 3", `state {"n":9} server`)
	peer.quiet()
}

// queueBound: more than may wait is refused at once, with nothing lost of what waits.
func queueBound(_ *testing.T, _ *script, p *browser.Page) {
	p.Run(`connect({host: "127.0.0.1:1", maxEnqueuedMessages: 2}), 0`)
	p.Run(`follow("one", agent.call("one")), agent.setState(1), agent.setState(2), follow("two", agent.call("two")), 0`)
	p.Await("seen.includes(`two ! AgentQueueFullError: Too much waits to be sent: 2 frames`)", "true")
	p.Expect(`(() => { try { agent.send("x") } catch (e) { return e.name } })()`, `"AgentQueueFullError"`)
	p.Run(`agent.close(), follow("after", agent.call("after")), 0`)
	p.Await("['one', 'after'].every((call) => seen.includes(`${call} ! AgentCallError: Connection closed (unsent)`))", "true")
	p.Run(`connect({host: "127.0.0.1:1", maxEnqueuedBytes: 110}), agent.send("x".repeat(60)), 0`)
	p.Expect(`(() => { try { agent.send("y".repeat(60)) } catch (e) { return e.message } })()`, `"Too much waits to be sent: 60 bytes"`)
	p.Expect(`(() => { agent.setState("z"); try { agent.setState("z".repeat(60)) } catch { return [agent.state, agent.bufferedAmount] } })()`, `["z",106]`)
	p.Run(`agent.close()`)
}

func timeouts(t *testing.T, s *script, p *browser.Page) {
	p.Run("connect({defaultCallTimeout: 20})")
	peer := s.greet("")
	expectSeen(t, p, "open", "identity jo chat-room")
	p.Run(`follow("default", agent.call("a")), 0`)
	peer.expect("a[]")
	expectSeen(t, p, "default ! AgentCallError: RPC call to a timed out after 20ms (unknown)")
	p.Run(`follow("own", agent.call("b", [], {timeout: 30})), 0`)
	peer.expect("b[]")
	expectSeen(t, p, "own ! AgentCallError: RPC call to b timed out after 30ms (unknown)")
	p.Run(`follow("none", agent.call("c", [], {timeout: 0})), follow("stub", agent.stub.addItem(1, "x", null)), 0`)
	ids := peer.expect("c[]", `addItem[1,"x",null]`)
	expectSeen(t, p, "stub ! AgentCallError: RPC call to addItem timed out after 20ms (unknown)")
	peer.answer(ids[1], "1") // too late for anybody
	peer.answer(ids[0], "null")
	expectSeen(t, p, "none = null")
	p.Expect("skein.DEFAULT_CALL_TIMEOUT_MS", "30000")
	p.Run(`follow("cycle", (() => { const a = []; a.push(a); return agent.call("d", a) })()), 0`)
	p.Await(`seen.at(-1).startsWith("cycle ! TypeError")`, "true")
	p.Expect("[typeof agent.stub.then, typeof agent.stub.toJSON, JSON.stringify({a: agent.stub})]", `["undefined","undefined","{\"a\":{}}"]`)
}

func streams(t *testing.T, s *script, p *browser.Page) {
	p.Run(`connect({defaultCallTimeout: 20}), window.stream = (name) => ({onChunk: (c) => seen.push(name + " chunk " + c),
		onDone: (r) => seen.push(name + " done " + r), onError: (e) => seen.push(name + " error " + e)}), 0`)
	peer := s.greet("")
	expectSeen(t, p, "open", "identity jo chat-room")
	p.Run(`follow("a", agent.call("count", [2], {stream: stream("a")})), 0`)
	id := peer.expect("count[2]")[0]
	for _, chunk := range []string{"1", "2"} {
		peer.write(`{"type":"rpc","id":"` + id + `","success":true,"result":` + chunk + `,"done":false}`)
	}
	expectSeen(t, p, "a chunk 1", "a chunk 2")
	p.Run("new Promise((done) => setTimeout(done, 50))") // a timeout of the call would have come before
	peer.answer(id, `"end"`)
	expectSeen(t, p, "a done end", `a = "end"`)
	p.Run(`follow("b", agent.call("count", [2], stream("b"))), 0`) // as older code has it
	id = peer.expect("count[2]")[0]
	peer.write(`{"type":"rpc","id":"` + id + `","success":false,"error":"no more"}`)
	expectSeen(t, p, "b error no more", "b ! AgentCallError: no more (answered)")
	p.Run(`follow("c", agent.call("count", [2], {stream: stream("c")})), 0`)
	id = peer.expect("count[2]")[0]
	peer.write(`{"type":"rpc","id":"` + id + `","success":true,"result":1,"done":false}`)
	expectSeen(t, p, "c chunk 1")
	peer.close(1012, "")
	p.Await("seen.length >= 3", "true")
	p.Expect("take().slice(0, 3)", `["c error Connection closed","close 1012 ","c ! AgentCallError: Connection closed (unknown)"]`)
}

// states: a state that nobody ever took is gone with its refusal; one that others have set in between is not taken for the newer one.
func states(t *testing.T, s *script, p *browser.Page) {
	p.Run(`connect(), agent.addEventListener("state", (e) => seen.push("event " + e.detail.source)), 0`)
	peer := s.greet("")
	expectSeen(t, p, "open", "identity jo chat-room")
	p.Run(`agent.setState({n: -1})`)
	peer.expect(`{"type":"cf_agent_state","state":{"n":-1},"id":"1"}`)
	p.Expect("agent.state", `{"n":-1}`)
	peer.write(`{"type":"cf_agent_state_error","error":"Connection is readonly"}`)
	expectSeen(t, p, `state {"n":-1} client`, "event client", "state undefined server", "event server", "refused Connection is readonly ")
	p.Expect("[agent.state]", "[null]")
	p.Run(`agent.setState("mine"), agent.setState("newest"), 0`)
	peer.expect(`{"type":"cf_agent_state","state":"mine","id":"2"}`, `{"type":"cf_agent_state","state":"newest","id":"3"}`)
	for _, frame := range []string{
		`{"type":"cf_agent_state","state":"theirs"}`, `{"type":"skein_state_set","id":"2"}`, `{"type":"cf_agent_state","state":"theirs, too"}`,
		`{"type":"skein_state_set","id":"3"}`, `{"type":"cf_agent_state","state":"later"}`,
	} {
		peer.write(frame)
	}
	expectSeen(t, p, `state "mine" client`, "event client", `state "newest" client`, "event client", `state "theirs" server`, "event server",
		`state "theirs, too" server`, "event server", `state "newest" client`, "event client", `state "later" server`, "event server")
	p.Run(`agent.setState("alone")`)
	peer.expect(`{"type":"cf_agent_state","state":"alone","id":"4"}`)
	peer.write(`{"type":"skein_state_set","id":"4"}`)
	expectSeen(t, p, `state "alone" client`, "event client")
	for _, message := range []string{"plain", `{"type":"mine"}`, `{"type"`, `[1]`, `"rpc"`} {
		peer.write(message)
		expectSeen(t, p, "message "+message)
	}
	peer.write(`{"type":"rpc","id":"nobody","success":true,"result":1,"done":true}`)
	peer.write("last")
	expectSeen(t, p, "message last")
}

// silence: who does not answer is left, and connected to anew.
func silence(t *testing.T, s *script, p *browser.Page) {
	p.Run(`window.due = new Set(), ((set, clear) => {
		window.setTimeout = (fn, ms) => { const id = set(fn, ms); if (ms === 54321) due.add(id); return id };
		window.clearTimeout = (id) => { due.delete(id); clear(id) };
	})(setTimeout, clearTimeout), connect({pingInterval: 60000, pingTimeout: 54321})`)
	peer := s.greet("")
	expectSeen(t, p, "open", "identity jo chat-room")
	for range 2 {
		p.Run(`window.dispatchEvent(new Event("pageshow"))`)
		peer.expect(`{"type":"skein_ping"}`)
		p.Expect("due.size", "1") // the end of the connection, unless there is an answer
		peer.write(`{"type":"skein_pong"}`)
		p.Await("due.size", "0")
	}
	p.Run("agent.close(), connect({pingInterval: 30, pingTimeout: 60000}), take(), 0")
	peer = s.greet("")
	for range 2 {
		peer.expect(`{"type":"skein_ping"}`)
		peer.write(`{"type":"skein_pong"}`)
	}
	peer.expect(`{"type":"skein_ping"}`)
	expectSeen(t, p, "open", "identity jo chat-room")
	p.Run("agent.close(), connect({pingInterval: 60000, pingTimeout: 50}), take(), 0")
	peer = s.greet("")
	expectSeen(t, p, "open", "identity jo chat-room")
	p.Run(`document.dispatchEvent(new Event("visibilitychange"))`) // the device was asleep
	peer.expect(`{"type":"skein_ping"}`)
	s.greet("")
	expectSeen(t, p, "close 1006 the server says nothing", "open", "identity jo chat-room")
	p.Run("agent.close(), connect({minReconnectionDelay: 600000, maxReconnectionDelay: 600000}), take(), 0")
	s.greet("").close(1001, "")
	expectSeen(t, p, "open", "identity jo chat-room", "close 1001 ")
	p.Run(`window.dispatchEvent(new Event("online"))`) // else it would take minutes
	s.greet("")
	expectSeen(t, p, "open", "identity jo chat-room")
}

// queries are asked anew for each attempt; one that fails is an attempt that has.
func queries(t *testing.T, s *script, p *browser.Page) {
	p.Run(`window.asked = 0, connect({minReconnectionDelay: 1, query: async () => {
		if (++asked === 2) throw new Error("no token");
		return {token: "t&" + asked, none: null, missing: undefined};
	}, onError: (e) => seen.push("error " + e.message)}), 0`)
	peer := s.greet("")
	if got := peer.query; got.Get("token") != "t&1" || got.Has("none") || got.Has("missing") {
		t.Errorf("the query is %v", got)
	}
	expectSeen(t, p, "open", "identity jo chat-room")
	peer.close(1012, "")
	if got := s.greet("").query.Get("token"); got != "t&3" {
		t.Errorf("the token of the third attempt is %s", got)
	}
	expectSeen(t, p, "close 1012 ", "error no token", "close 1006 the attempt has failed", "open", "identity jo chat-room")
	p.Run(`agent.close(), connect({query: () => new Promise((done) => { window.done = done })}), agent.close(), done({}), take(), 0`)
	p.Expect("[agent.readyState, agent.url]", `[3,""]`) // it was closed before it knew where to connect to
}

// closes by the page itself end all at once.
func closes(t *testing.T, s *script, p *browser.Page) {
	p.Run("connect()")
	peer := s.greet("")
	expectSeen(t, p, "open", "identity jo chat-room")
	p.Run(`follow("call", agent.call("a")), agent.send("last"), agent.close(4000, "bye"), 0`)
	peer.expect("a[]", "last")
	expectSeen(t, p, "close 4000 bye", "call ! AgentCallError: Connection closed (unknown)")
	if _, ok := <-peer.frames; ok || peer.ended.Code != 4000 || peer.ended.Reason != "bye" {
		t.Errorf("the server has heard %v", peer.ended)
	}
	p.Run("agent.close()") // again
	p.Expect("take()", "[]")
}

// throwing: what code of the page throws stops nothing else.
func throwing(t *testing.T, s *script, p *browser.Page) {
	p.Run(`connect({onStateUpdate: () => { throw new Error("in the page") }}), follow("ready", agent.ready), 0`)
	s.greet(`1`)
	expectSeen(t, p, "open", "identity jo chat-room", "ready = undefined")
	if thrown := p.Thrown(); len(thrown) != 1 || !strings.Contains(thrown[0], "in the page") {
		t.Errorf("thrown is %q", thrown)
	}
}
