package gateway

import (
	"testing"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestStateSet: who asks for it is told when its state was set, among the states that others have set.
func TestStateSet(t *testing.T) {
	t.Parallel()
	const theirs, refusal = `{"type":"cf_agent_state","state":7}`, `{"type":"cf_agent_state_error","error":"no"}`
	r := newRig(t, nil)
	ws := r.open("a")
	what := make(chan func(protocol.SocketUp) protocol.SocketAck, 1)
	r.bring = func(up protocol.SocketUp, _ Underway) (protocol.SocketAck, error) { return (<-what)(up), nil }
	others := func() { r.take(r.next(), protocol.SocketFrame{State: true}) }
	own := func(up protocol.SocketUp) protocol.SocketAck {
		place := r.next()
		r.take(place, protocol.SocketFrame{State: true, Not: true, Gateway: "here", Conn: up.Conn})
		return protocol.SocketAck{Place: place}
	}
	after := func(up protocol.SocketUp) protocol.SocketAck {
		others()
		return own(up)
	}
	before := func(up protocol.SocketUp) protocol.SocketAck {
		defer others()
		return own(up)
	}
	same := func(protocol.SocketUp) protocol.SocketAck { return protocol.SocketAck{Place: r.place} }
	refuse := func(protocol.SocketUp) protocol.SocketAck {
		return protocol.SocketAck{Place: r.place, Answers: []protocol.FrameText{refusal}}
	}
	for _, step := range []struct {
		state string
		bring func(protocol.SocketUp) protocol.SocketAck
		want  []string
	}{
		{`{"type":"cf_agent_state","state":1,"id":"one"}`, after, []string{theirs, `{"type":"skein_state_set","id":"one"}`}},
		{`{"type":"cf_agent_state","state":1,"id":"same"}`, same, []string{`{"type":"skein_state_set","id":"same"}`}},
		{`{"type":"cf_agent_state","state":2,"id":"wrong"}`, refuse, []string{refusal}},
		{`{"type":"cf_agent_state","state":3}`, after, []string{theirs}},
		{`{"type":"cf_agent_state","state":4,"id":"last"}`, before, []string{`{"type":"skein_state_set","id":"last"}`, theirs}},
	} {
		what <- step.bring
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(step.state)); err != nil {
			t.Fatal(err)
		}
		expect(t, ws, step.want...)
	}
}
