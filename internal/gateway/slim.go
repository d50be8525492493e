package gateway

import (
	"bufio"
	"net"
	"net/http"
)

// Buffers of a connection. There are many connections, and most of them are idle: those of net/http, of 4 KiB each, would be most of
// what they cost. What does not fit goes past them.
const (
	readBuffer  = 512
	writeBuffer = 1024
)

// slim takes over a connection with small buffers.
type slim struct{ http.ResponseWriter }

// Hijack implements http.Hijacker.
func (s slim) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	connection, buffers, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err != nil || buffers.Reader.Buffered() > 0 { // what has come already is in them
		return connection, buffers, err
	}
	return connection, bufio.NewReadWriter(bufio.NewReaderSize(connection, readBuffer), bufio.NewWriterSize(connection, writeBuffer)), nil
}
