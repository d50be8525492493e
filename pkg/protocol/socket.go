package protocol

import (
	"encoding/json"
	"fmt"
)

// Limits of sockets.
const (
	// MaxFrame is the most bytes that a frame of a client or for one may have: it travels in one message.
	MaxFrame = 512 << 10
	// MaxConnections is how many sockets to one agent a host holds.
	MaxConnections = 5000
	// ConnectionsPerRow is how many of them are in one row.
	ConnectionsPerRow = 64
	// MaxConnectionID is how many bytes the id of a connection may have, MaxTag a tag of one, MaxTags how many those are.
	MaxConnectionID = 128
	MaxTag          = 256
	MaxTags         = 9
	// MaxConnectionState is the most bytes that the state of a connection may have as JSON.
	MaxConnectionState = 2 << 10
)

// SocketsSubject is where a host takes frames for the clients whose sockets it holds: that host is their gateway.
func SocketsSubject(project, gateway string) string { return "sockets." + project + "." + gateway }

// Gateway is what the record of an agent says of a host that holds sockets of its clients.
type Gateway struct {
	// Since is the turn from which on the gateway is known: what it was sent before counts no more.
	Since uint64
	// Connected is the number of the last connection that was opened.
	Connected uint64
	// Sent counts the batches of frames that it was sent: who misses one knows it.
	Sent uint64
	Open OpenSockets
}

// SocketPlace is how far a gateway has been sent the frames of an agent. Later ones are greater.
type SocketPlace struct {
	Life   uint64 `json:"life"`
	Since  uint64 `json:"since"`
	Number uint64 `json:"number"`
}

// SocketBatch is what one turn sends to clients, as an entry of its outbox.
type SocketBatch struct {
	Frames []SocketFrame `json:"frames"`
	// Places are those of the batch, by gateways.
	Places map[string]SocketPlace `json:"places"`
}

// SocketFrame is one thing for clients of an agent. One of Text, Data, State, Set and Close is set.
type SocketFrame struct {
	// Gateway and Conn name the connection that the frame is for; without them it is for all. Not makes it one for all but
	// that.
	Gateway string `json:"gateway,omitempty"`
	Conn    uint64 `json:"conn,omitempty"`
	Not     bool   `json:"not,omitempty"`
	// Except are ids of connections that do not get it. Tag is what a connection needs to get it.
	Except []string   `json:"except,omitempty"`
	Tag    string     `json:"tag,omitempty"`
	Text   *FrameText `json:"text,omitempty"`
	// Answers is the id of the call that Text answers for good.
	Answers string  `json:"answers,omitempty"`
	Data    *[]byte `json:"data,omitempty"`
	// Protocol says that the frame is one of the protocol, which some connections do without.
	Protocol bool `json:"protocol,omitempty"`
	// State stands for the state of the agent, which comes beside the batch.
	State bool `json:"state,omitempty"`
	// Set is how the connection is from now on; the first one opens it.
	Set   *SocketConnection `json:"set,omitempty"`
	Close *SocketClose      `json:"close,omitempty"`
}

// SocketConnection is an open connection, as its gateway knows it.
type SocketConnection struct {
	Conn uint64 `json:"conn"`
	// ID is what the client calls itself.
	ID    string          `json:"id"`
	Tags  []string        `json:"tags,omitempty"`
	State json.RawMessage `json:"state,omitempty"`
	// Readonly connections change no state, Silent ones get no frames of the protocol.
	Readonly bool            `json:"readonly,omitempty"`
	Silent   bool            `json:"silent,omitempty"`
	Identity json.RawMessage `json:"identity,omitempty"`
}

// SocketClose says how a socket ends, or has ended.
type SocketClose struct {
	Code   int    `json:"code"`
	Reason string `json:"reason,omitempty"`
	// Clean says that both sides have said so.
	Clean bool `json:"clean,omitempty"`
}

// SocketDown is a batch on its way to one gateway.
type SocketDown struct {
	V      int           `json:"v"`
	Class  string        `json:"class"`
	Name   string        `json:"name"`
	Place  SocketPlace   `json:"place"`
	Frames []SocketFrame `json:"frames"`
	// State is that of the agent if a frame stands for it, or StateObject if it is large; Revision tells which is newer.
	State       json.RawMessage `json:"state,omitempty"`
	StateObject *Object         `json:"state_object,omitempty"`
	Revision    uint64          `json:"revision,omitempty"`
}

// SocketKind says what a frame of a client is.
type SocketKind string

// Kinds of frames of clients. A connection begins with SocketConnect and ends with SocketClosed.
const (
	SocketConnect SocketKind = "connect"
	SocketText    SocketKind = "text"
	SocketData    SocketKind = "data"
	SocketState   SocketKind = "state"
	SocketCall    SocketKind = "call"
	SocketClosed  SocketKind = "closed"
	// SocketLost is no frame of a client, but of who has seen that the gateway is gone: all its connections have ended. Its number tells one loss
	// from the next, Conn the parts in which the ends are told.
	SocketLost SocketKind = "lost"
)

// SocketRow says which connections a gateway holds to an agent, and may hold more that are not open yet. It is there before
// they are opened, so that their ends can be told if the gateway dies. There are several rows if the connections are many: each is
// written as a whole.
type SocketRow struct {
	V     int    `json:"v"`
	Class string `json:"class"`
	Name  string `json:"name"`
	// IDs are those of the connections, by their numbers.
	IDs map[uint64]string `json:"ids"`
}

// SocketUp is a frame of a client on its way to the agent.
type SocketUp struct {
	Kind    SocketKind `json:"kind"`
	Gateway string     `json:"gateway"`
	Conn    uint64     `json:"conn"`
	// Number counts the frames of the connection from 1.
	Number uint64 `json:"number"`
	// Connection and HTTP, the request that it began with, come with SocketConnect.
	Connection *SocketConnection `json:"connection,omitempty"`
	HTTP       *HTTPRequest      `json:"http,omitempty"`
	// Text is that of SocketText, unless it is in Data because it is shorter so.
	Text  string          `json:"text,omitempty"`
	Data  []byte          `json:"data,omitempty"`
	State json.RawMessage `json:"state,omitempty"`
	Call  *SocketCalled   `json:"call,omitempty"`
	Close *SocketClose    `json:"close,omitempty"`
}

// SocketCalled is a method that a client calls.
type SocketCalled struct {
	ID     string            `json:"id"`
	Method string            `json:"method"`
	Args   []json.RawMessage `json:"args,omitempty"`
}

// SocketAck says what became of a frame of a client.
type SocketAck struct {
	// Outside says that the turn has gone outside: later frames may come, the answer follows.
	Outside bool `json:"outside,omitempty"`
	// Applied says that the frame was applied before, or in part by an early commit of its turn. Unknown, that the agent has no such connection.
	Applied bool `json:"applied,omitempty"`
	Unknown bool `json:"unknown,omitempty"`
	// Place is what was sent before the answer.
	Place SocketPlace `json:"place"`
	// Answers are text frames for the client, which are in no batch: nothing was stored.
	Answers []FrameText `json:"answers,omitempty"`
	// Close ends the connection. With SocketConnect, it was never opened, unless that was applied.
	Close *SocketClose `json:"close,omitempty"`
	// More says that not all ends at a lost gateway are told yet, and that it is to be brought again.
	More bool `json:"more,omitempty"`
	// Refused says what the client has done wrong, with nothing of its frame in it: for the log of who holds the socket.
	Refused string `json:"refused,omitempty"`
}

// SocketAttach asks a gateway for the connections to an agent whose numbers are higher than After.
type SocketAttach struct {
	Class string `json:"class"`
	Name  string `json:"name"`
	After uint64 `json:"after,omitempty"`
}

// SocketSent says how far a gateway was sent what an agent had to say to clients there.
type SocketSent struct {
	Class string      `json:"class"`
	Name  string      `json:"name"`
	Place SocketPlace `json:"place"`
}

// Agent is the agent of a project that it is about.
func (s SocketSent) Agent(project string) Agent {
	return Agent{Project: project, Class: s.Class, Name: s.Name}
}

// SocketAttached answers it, in the order of the numbers.
type SocketAttached struct {
	// Place is how far the gateway has got.
	Place       SocketPlace        `json:"place"`
	Connections []SocketConnection `json:"connections,omitempty"`
	More        bool               `json:"more,omitempty"`
	// None says that the gateway has no connection to the agent, nor is one being opened or closed.
	None bool `json:"none,omitempty"`
}

// Compare tells whether what was sent up to p is less than, as much as, or more than up to other.
func (p SocketPlace) Compare(other SocketPlace) int {
	switch {
	case p == other:
		return 0
	case p.Life < other.Life, p.Life == other.Life && p.Since < other.Since,
		p.Life == other.Life && p.Since == other.Since && p.Number < other.Number:
		return -1
	}
	return 1
}

// SameRow reports whether the numbers of both are of one row.
func (p SocketPlace) SameRow(other SocketPlace) bool {
	return p.Life == other.Life && p.Since == other.Since
}

// FrameID is the ID of words about the answer to a frame of a client.
func FrameID(agent Agent, gateway string, conn, number uint64) string {
	return fmt.Sprintf("%s %s/%d/%d", agent, gateway, conn, number)
}
