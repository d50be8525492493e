package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// transcripts are conversations as they go over the wire, byte by byte: "open NAME query" opens a socket, "NAME> " is a text frame of the
// client and "NAME# " a binary one, "NAME< " is what comes to it next, and "NAME close CODE" ends it.
var transcripts = map[string]string{
	"connect: identity, state, then OnConnect's; no other frame of the protocol": `
		open a hello
		a< {"type":"cf_agent_identity","name":"jo","agent":"chat-room"}
		a< hello a
		a> {"type":"rpc","id":"1","method":"addTo","args":[1,"x"]}
		a< {"type":"cf_agent_state","state":{"n":1,"log":["x"]}}
		a< {"type":"rpc","id":"1","success":true,"result":1,"done":true}
		open b hello
		b< {"type":"cf_agent_identity","name":"jo","agent":"chat-room","stateFollows":true}
		b< {"type":"cf_agent_state","state":{"n":1,"log":["x"]}}
		b< hello b
		b> {"type":"rpc","id":"1","method":"count","args":[]}
		b< {"type":"rpc","id":"1","success":true,"result":1,"done":true}`,
	"state: to all but its sender; a refused one with the true one after it": `
		open a
		a< {"type":"cf_agent_identity","name":"jo","agent":"chat-room"}
		open b
		b< {"type":"cf_agent_identity","name":"jo","agent":"chat-room"}
		a> {"type":"cf_agent_state","state":{"n":2}}
		b< {"type":"cf_agent_state","state":{"n":2}}
		b> {"type":"cf_agent_state","state":{"n":-1}}
		b< {"type":"cf_agent_state_error","error":"State update rejected","reason":"state of agent \"jo\": is refused: n is below 0"}
		b< {"type":"cf_agent_state","state":{"n":2}}
		b> {"type":"cf_agent_state","state":{"n":3}}
		a< {"type":"cf_agent_state","state":{"n":3}}`,
	"calls: a result, none, and what goes wrong": `
		open a
		a< {"type":"cf_agent_identity","name":"jo","agent":"chat-room"}
		a> {"type":"rpc","id":"1","method":"say","args":["<hi>"]}
		a< <hi>
		a< {"type":"rpc","id":"1","success":true,"result":"said","done":true}
		a> {"type":"rpc","id":"2","method":"nope","args":[]}
		a< {"type":"rpc","id":"2","success":false,"error":"Method nope does not exist"}
		a> {"type":"rpc","id":"3","method":"hidden","args":[]}
		a< {"type":"rpc","id":"3","success":false,"error":"Method hidden is not callable"}
		a> {"type":"rpc","id":"4","method":"fail","args":["no <luck>"]}
		a< {"type":"rpc","id":"4","success":false,"error":"no <luck>"}
		a> {"type":"rpc","id":"5","method":"pour","args":["a"]}
		a< {"type":"rpc","id":"5","success":true,"result":"a","done":false}
		a< {"type":"rpc","id":"5","success":false,"error":"encode chunk of type func(): json: unsupported type: func()"}
		a> {"type":"rpc","id":"6","method":"nothing","args":[]}
		a< {"type":"rpc","id":"6","success":true,"done":true}`,
	"readonly: no state of its own, nor by a call; other calls go on": `
		open a readonly
		a< {"type":"cf_agent_identity","name":"jo","agent":"chat-room"}
		a> {"type":"cf_agent_state","state":{"n":2}}
		a< {"type":"cf_agent_state_error","error":"Connection is readonly"}
		a> {"type":"rpc","id":"1","method":"addTo","args":[1,""]}
		a< {"type":"rpc","id":"1","success":false,"error":"Connection is readonly"}
		a> {"type":"rpc","id":"2","method":"count","args":[]}
		a< {"type":"rpc","id":"2","success":true,"result":0,"done":true}`,
	"silent: no identity and no state, but messages, and answers to calls": `
		open a silent hello
		a< hello a
		a> {"type":"rpc","id":"1","method":"addTo","args":[1,""]}
		a< {"type":"rpc","id":"1","success":true,"result":1,"done":true}
		open b
		b< {"type":"cf_agent_identity","name":"jo","agent":"chat-room","stateFollows":true}
		b< {"type":"cf_agent_state","state":{"n":1}}
		b> {"type":"cf_agent_state","state":{"n":2}}
		b> all
		a< all`,
	"messages: what is no frame of the protocol, binary ones, exclusions and tags": `
		open a tagged
		a< {"type":"cf_agent_identity","name":"jo","agent":"chat-room"}
		open b
		b< {"type":"cf_agent_identity","name":"jo","agent":"chat-room"}
		b> not JSON
		a< not JSON
		b> {"type":"cf_agent_use_chat_request","id":"1"}
		a< {"type":"cf_agent_use_chat_request","id":"1"}
		b> {"type":"cf_agent_mcp_servers"}
		a< {"type":"cf_agent_mcp_servers"}
		b> [{"type":"rpc"}]
		a< [{"type":"rpc"}]
		b> {"Type":"rpc"}
		a< {"Type":"rpc"}
		b# bytes
		a< binary bytes
		b> tagged hi
		a< tagged hi
		b> {"type":"rpc","id":"1","method":"say","args":["both"]}
		b< both
		b< {"type":"rpc","id":"1","success":true,"result":"said","done":true}
		a< both
		b> close
		b close 4001`,
}

// TestTranscripts plays the conversations with real hosts.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	prepare := func(r *room) {
		r.connect = func(ctx context.Context, _ *room, c *Connection, q *http.Request) error {
			query := q.URL.Query()
			var err error
			if query.Has("tagged") {
				err = c.SetTags(ctx, "tagged")
			}
			if query.Has("hello") {
				err = firstOf(err, c.Send(ctx, Text("hello "+c.ID())))
			}
			return firstOf(err, c.SetReadonly(ctx, query.Has("readonly")), c.SetSilent(ctx, query.Has("silent")))
		}
		r.message = func(ctx context.Context, _ *room, c *Connection, m Message) error {
			switch {
			case m.Text == "close":
				return c.Close(ctx, 4001, "enough")
			case strings.HasPrefix(m.Text, "tagged"):
				return Broadcast(ctx, m, Tagged("tagged"))
			}
			return Broadcast(ctx, m, Except(c.ID()))
		}
	}
	for name, transcript := range transcripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothRooms(t, prepare, func(t *testing.T, _ *rig, gate *testHost) { play(t, gate, transcript) })
		})
	}
}

func play(t *testing.T, gate *testHost, transcript string) {
	t.Helper()
	clients := map[string]*socketClient{}
	for line := range strings.Lines(strings.TrimSpace(transcript)) {
		line = strings.TrimSpace(line)
		who, rest, _ := strings.Cut(line, " ")
		name := strings.TrimRight(who, "<>#")
		switch c := clients[name]; {
		case who == "open":
			id, query, _ := strings.Cut(rest, " ")
			clients[id] = gate.dial(t, fmt.Sprintf("%s?_pk=%s&%s", roomPath, id, strings.ReplaceAll(query, " ", "&")))
		case strings.HasSuffix(who, ">"):
			c.send(rest)
		case strings.HasSuffix(who, "#"):
			if err := c.ws.Write(t.Context(), websocket.MessageBinary, []byte(rest)); err != nil {
				t.Fatal(err)
			}
		case strings.HasSuffix(who, "<"):
			if got, err := c.next(); err != nil || got != rest {
				t.Fatalf("%s\n got %s, %v", line, got, err)
			}
		default:
			c.expectClose(4001, "enough")
		}
	}
}
