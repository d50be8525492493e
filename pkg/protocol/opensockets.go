package protocol

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
)

// OpenSockets says which connections to an agent are open at a gateway. It is a value: who changes it gets another one. With thousands of
// sockets it is most of a record, which is written with every turn: so many are written in short.
type OpenSockets []OpenSocket

// OpenSocket is one of them.
type OpenSocket struct {
	// Conn is its number, Applied that of its last frame that is known to be applied.
	Conn, Applied uint64
}

// find returns where a connection stands, or is to stand.
func (o OpenSockets) find(conn uint64) (int, bool) {
	return slices.BinarySearchFunc(o, conn, func(s OpenSocket, conn uint64) int { return cmp.Compare(s.Conn, conn) })
}

// Applied is the number of the last frame of a connection that is known to be applied; false if it is not open.
func (o OpenSockets) Applied(conn uint64) (number uint64, open bool) {
	i, open := o.find(conn)
	if !open {
		return 0, false
	}
	return o[i].Applied, true
}

// With notes the last frame of a connection, which is open then.
func (o OpenSockets) With(conn, applied uint64) OpenSockets {
	i, open := o.find(conn)
	others := o[i:]
	if open {
		others = o[i+1:]
	}
	return slices.Concat(o[:i], OpenSockets{{conn, applied}}, others)
}

// Without leaves out a connection.
func (o OpenSockets) Without(conn uint64) OpenSockets {
	i, open := o.find(conn)
	if !open {
		return o
	}
	return slices.Concat(o[:i], o[i+1:])
}

// All are the connections in the order of their numbers, with their last frames.
func (o OpenSockets) All() iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		for _, s := range o {
			if !yield(s.Conn, s.Applied) {
				return
			}
		}
	}
}

// plainSockets is how many are written for people to read.
const plainSockets = 16

// gatewayJSON is how a Gateway is read.
type gatewayJSON struct {
	Since     uint64            `json:"since"`
	Connected uint64            `json:"connected"`
	Sent      uint64            `json:"sent"`
	Open      map[uint64]uint64 `json:"open"`
	// Many stands beside Open or for it. It has, for each connection, by how much its number is higher than that of the one before, and
	// its last frame, as varints.
	Many []byte `json:"many"`
}

// MarshalJSON implements json.Marshaler.
func (g Gateway) MarshalJSON() ([]byte, error) { return g.appendTo(nil), nil }

// appendTo writes the gateway: few connections as open, more as many.
func (g Gateway) appendTo(body []byte) []byte {
	body = strconv.AppendUint(append(body, `{"since":`...), g.Since, 10)
	body = strconv.AppendUint(append(body, `,"connected":`...), g.Connected, 10)
	if g.Sent > 0 {
		body = strconv.AppendUint(append(body, `,"sent":`...), g.Sent, 10)
	}
	switch {
	case len(g.Open) > plainSockets:
		body = base64.StdEncoding.AppendEncode(append(body, `,"many":"`...), g.Open.many())
		body = append(body, '"')
	case len(g.Open) > 0:
		body = append(body, `,"open":{`...)
		for conn, applied := range g.Open.All() {
			body = strconv.AppendUint(append(body, '"'), conn, 10)
			body = strconv.AppendUint(append(body, `":`...), applied, 10)
			body = append(body, ',')
		}
		body[len(body)-1] = '}'
	}
	return append(body, '}')
}

func (o OpenSockets) many() []byte {
	data, before := make([]byte, 0, 3*len(o)), uint64(0)
	for _, s := range o {
		data = binary.AppendUvarint(binary.AppendUvarint(data, s.Conn-before), s.Applied)
		before = s.Conn
	}
	return data
}

// UnmarshalJSON implements json.Unmarshaler.
func (g *Gateway) UnmarshalJSON(data []byte) error {
	var read gatewayJSON
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	*g = Gateway{Since: read.Since, Connected: read.Connected, Sent: read.Sent}
	for _, conn := range slices.Sorted(maps.Keys(read.Open)) {
		g.Open = append(g.Open, OpenSocket{conn, read.Open[conn]})
	}
	return g.readMany(read.Many)
}

func (g *Gateway) readMany(data []byte) error {
	conn := uint64(0)
	for len(data) > 0 {
		step, n := binary.Uvarint(data)
		applied, m := binary.Uvarint(data[max(n, 0):])
		if n <= 0 || m <= 0 || step == 0 || conn+step < conn {
			return fmt.Errorf("open sockets of a gateway: %w", errMalformedSockets)
		}
		conn, data = conn+step, data[n+m:]
		g.Open = g.Open.add(conn, applied)
	}
	return nil
}

// add is With for who reads: it changes what is there.
func (o OpenSockets) add(conn, applied uint64) OpenSockets {
	if len(o) == 0 || o[len(o)-1].Conn < conn {
		return append(o, OpenSocket{conn, applied})
	}
	return o.With(conn, applied)
}

var errMalformedSockets = errors.New("malformed numbers")
