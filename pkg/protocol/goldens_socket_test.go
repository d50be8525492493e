package protocol_test

import (
	"encoding/json"

	"github.com/skein-run/skein/pkg/protocol"
)

// manySockets are so many that they are written in short.
func manySockets(n uint64) (open protocol.OpenSockets) {
	for i := range n {
		open = append(open, protocol.OpenSocket{Conn: 1000 + i + i/3, Applied: 100 * i})
	}
	return open
}

// socketGoldens are the messages between the agents of clients and the hosts that hold their sockets.
func socketGoldens() []golden {
	connection := protocol.SocketConnection{
		Conn: 7, ID: "c-1", Tags: []string{"floor"}, State: json.RawMessage(`{"seen":1}`), Readonly: true, Silent: true, Identity: json.RawMessage(`"ada"`),
	}
	place := protocol.SocketPlace{Life: 3, Since: 4, Number: 9}
	frames := []protocol.SocketFrame{
		{Gateway: "host-a", Conn: 7, Set: &connection},
		{Gateway: "host-a", Conn: 7, Protocol: true, State: true},
		{Gateway: "host-a", Conn: 7, Not: true, Protocol: true, State: true},
		{Except: []string{"c-2"}, Tag: "floor", Text: new(protocol.FrameText("hi"))},
		{Data: &[]byte{1, 2}},
		{Gateway: "host-a", Conn: 7, Text: new(protocol.FrameText("{}")), Answers: "1"},
		{Gateway: "host-a", Conn: 7, Close: &protocol.SocketClose{Code: 4001, Reason: "enough"}},
	}
	up := func(u protocol.SocketUp) protocol.Request {
		u.Gateway, u.Conn, u.Number = "host-a", 7, 2
		return protocol.Request{V: protocol.Version, Socket: &u}
	}
	return []golden{
		{"record.gateways", protocol.Record{
			V: protocol.Version, Class: "Room", Name: "jo", Life: 3, Commit: "co-1", Updated: at(7),
			Gateways: map[string]protocol.Gateway{"host-a": {Since: 4, Connected: 8, Sent: 9, Open: protocol.OpenSockets{{7, 2}, {8, 1}}}},
			Outbox: []protocol.Outgoing{{ID: protocol.OutgoingID(3, 9, 1), Kind: protocol.OutgoingFrames,
				Frames: &protocol.SocketBatch{Frames: frames, Places: map[string]protocol.SocketPlace{"host-a": place}}}},
		}},
		{"record.many-sockets", protocol.Record{
			V: protocol.Version, Class: "Room", Name: "jo", Life: 3, Commit: "co-1", Updated: at(7),
			Gateways: map[string]protocol.Gateway{"host-a": {Since: 4, Connected: 1020, Open: manySockets(17)}},
		}},
		{"socket.down", protocol.SocketDown{V: protocol.Version, Class: "Room", Name: "jo", Place: place, Frames: frames,
			State: json.RawMessage(`{"n":1}`), Revision: 5}},
		{"socket.down-large", protocol.SocketDown{V: protocol.Version, Class: "Room", Name: "jo", Place: place, Frames: frames[1:2],
			StateObject: &protocol.Object{Name: "=Room/jo/3-1/abc", Size: 70_000}, Revision: 6}},
		{"request.connect", up(protocol.SocketUp{Kind: protocol.SocketConnect, Connection: &connection, HTTP: &protocol.HTTPRequest{Method: "GET", URL: "/", Host: "h"}})},
		{"request.socket-text", up(protocol.SocketUp{Kind: protocol.SocketText, Text: "hi"})},
		{"request.socket-data", up(protocol.SocketUp{Kind: protocol.SocketData, Data: []byte{1, 2}})},
		{"request.socket-state", up(protocol.SocketUp{Kind: protocol.SocketState, State: json.RawMessage(`{"n":1}`)})},
		{"request.socket-call", up(protocol.SocketUp{Kind: protocol.SocketCall,
			Call: &protocol.SocketCalled{ID: "1", Method: "add", Args: []json.RawMessage{json.RawMessage(`1`)}}})},
		{"request.socket-closed", up(protocol.SocketUp{Kind: protocol.SocketClosed, Close: &protocol.SocketClose{Code: 1000, Reason: "bye", Clean: true}})},
		{"request.socket-lost", up(protocol.SocketUp{Kind: protocol.SocketLost})},
		{"row.connections", protocol.SocketRow{V: protocol.Version, Class: "Room", Name: "jo", IDs: map[uint64]string{7: "c-1"}}},
		{"request.attach", protocol.Request{V: protocol.Version, Attach: &protocol.SocketAttach{Class: "Room", Name: "jo", After: 7}}},
		{"reply.socket", protocol.Reply{V: protocol.Version, Socket: &protocol.SocketAck{Place: place, Answers: []protocol.FrameText{"{}"}}}},
		{"reply.socket-outside", protocol.Reply{V: protocol.Version, Accepted: true, Socket: &protocol.SocketAck{Outside: true}}},
		{"reply.chunk", protocol.Reply{V: protocol.Version, Stream: &protocol.StreamPart{Number: 1, Data: []byte("{}"), Place: place, Host: "host-a"}}},
		{"reply.chunks-accepted", protocol.Reply{V: protocol.Version, Accepted: true, Owner: "host-a", Sent: 2}},
		{"reply.chunks-end", protocol.Reply{V: protocol.Version, Socket: &protocol.SocketAck{Place: place, Answers: []protocol.FrameText{"{}"}},
			Stream: &protocol.StreamPart{Number: 2, End: true}}},
		{"request.chunk-word", protocol.Request{V: protocol.Version, ID: protocol.FrameID(protocol.Agent{Project: "p", Class: "Room", Name: "jo"}, "host-a", 7, 2),
			Word: &protocol.StreamWord{Taken: 1, Gone: true}}},
		{"reply.socket-other", protocol.Reply{V: protocol.Version, Socket: &protocol.SocketAck{
			Applied: true, Unknown: true, Place: place, Close: &protocol.SocketClose{Code: 1008, Reason: "no"}}}},
		{"request.sent", protocol.Request{V: protocol.Version, Sent: []protocol.SocketSent{{Class: "Room", Name: "jo", Place: place}}}},
		{"reply.socket-refused", protocol.Reply{V: protocol.Version, Socket: &protocol.SocketAck{Place: place, Answers: []protocol.FrameText{"{}"}, Refused: "state"}}},
		{"reply.socket-more", protocol.Reply{V: protocol.Version, Socket: &protocol.SocketAck{More: true}}},
		{"reply.attached", protocol.Reply{V: protocol.Version, Attached: &protocol.SocketAttached{
			Place: place, Connections: []protocol.SocketConnection{connection}, More: true}}},
		{"reply.attached-none", protocol.Reply{V: protocol.Version, Attached: &protocol.SocketAttached{None: true}}},
	}
}
