package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
)

// rawSocket is a client that keeps to no protocol.
type rawSocket struct {
	net.Conn
	r *bufio.Reader
}

func (h *testHost) rawDial(path string) (*rawSocket, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		return nil, err
	}
	s := &rawSocket{conn, bufio.NewReader(conn)}
	err = conn.SetDeadline(time.Now().Add(soon))
	if err == nil {
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", path, strings.TrimPrefix(h.url, "http://"))
	}
	var response *http.Response
	if err == nil {
		response, err = http.ReadResponse(s.r, nil)
	}
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(response.Status)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// First bytes of frames: whether it is the last one of a message, and what it is.
const (
	last     = 0x80
	again    = 0x0
	text     = 0x1
	binaries = 0x2
	ping     = 0x9
	closing  = 0x8
)

// frameOf is a frame as clients send it, under a mask of zeros.
func frameOf(first byte, payload string) string {
	head := []byte{first}
	switch n := len(payload); {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(n))
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

// closed reads until the socket is closed.
func (s *rawSocket) closed() (code int, reason string, err error) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(s.r, head[:]); err != nil {
			return 0, "", err
		}
		n := int64(head[1])
		if extra := map[int64]int{126: 2, 127: 8}[n]; extra > 0 {
			long := make([]byte, 8)
			if _, err := io.ReadFull(s.r, long[8-extra:]); err != nil {
				return 0, "", err
			}
			n = int64(binary.BigEndian.Uint64(long))
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(s.r, payload); err != nil {
			return 0, "", err
		}
		if head[0] == last|closing {
			return int(binary.BigEndian.Uint16(payload)), string(payload[2:]), nil
		}
	}
}

// broken are frames that end a connection.
var broken = map[string]struct {
	frames string
	code   int
	reason string
}{
	"not UTF-8":             {frameOf(last|text, "secret \xff"), 1007, "not UTF-8"},
	"too large":             {frameOf(last|text, strings.Repeat("secret ", 80<<10)), 1009, "more than 524288 bytes"},
	"too large in parts":    {frameOf(text, "secret ") + strings.Repeat(frameOf(again, strings.Repeat("x", 64<<10)), 9), 1009, "more than 524288 bytes"},
	"unknown kind":          {frameOf(last|0x3, "secret"), 1002, "unknown opcode"},
	"reserved bit":          {frameOf(last|0x40|text, "secret"), 1002, "rsv bits"},
	"nothing to go on with": {frameOf(last|again, "secret"), 1002, "continuation frame without"},
	"message in a message":  {frameOf(text, "secret") + frameOf(last|text, "secret"), 1002, "without finishing"},
	"ping in parts":         {frameOf(ping, "secret"), 1002, "fragmented control frame"},
	"long ping":             {frameOf(last|ping, strings.Repeat("secret ", 20)), 1002, "invalid length"},
	"close with no code":    {frameOf(last|closing, "\x03\xed"), 1002, "invalid close payload"},
	"without a mask":        {"\x81\x06secret", 1002, "broke the protocol"},
	"call without an id":    {frameOf(last|text, `{"type":"rpc","method":"secret","args":[]}`), 1007, "the field id is missing"},
	"call with a number":    {frameOf(last|text, `{"type":"rpc","id":["secret"],"method":"count","args":[]}`), 1007, "the field id is"},
}

// TestBrokenFrames: each ends its connection with a code and a reason, the log has one line with both and nothing of the frame, and
// others at the agent notice nothing.
func TestBrokenFrames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	owner := r.host(t, rooms(func(r *room) { r.closed = func(context.Context, *room, *Connection, Closed) error { return nil } }))
	owner.call(t, http.MethodGet, roomPath, "")
	gate := r.host(t, rooms(nil))
	good := gate.dial(t, roomPath+"?_pk=good")
	good.expect(identity("jo"))
	n := 0
	for name, b := range broken {
		n++
		id := fmt.Sprintf("bad-%d", n)
		s, err := gate.rawDial(roomPath + "?_pk=" + id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(s, b.frames); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		code, reason, err := s.closed()
		if code != b.code || !strings.Contains(reason, b.reason) {
			t.Errorf("%s: closed with %d %q, %v; want %d %q", name, code, reason, err, b.code, b.reason)
		}
		_ = s.Close()
		natstest.Eventually(t, soon, name+" is logged", func() bool { return gate.log.has("connection=" + id + " cause=") })
		line := gate.log.line("connection=" + id + " cause=")
		if !strings.Contains(line, "level=WARN") || !strings.Contains(line, `msg="frame of a client is refused"`) || strings.Contains(line, "secret") {
			t.Errorf("%s: log line %s", name, line)
		}
		good.send(rpc(fmt.Sprint(n), "count", `[]`))
		good.expect(rpcDone(fmt.Sprint(n), "0"))
	}
}

// hostile is a frame that no client should send, by chance. Some of them are allowed.
func hostile(random *rand.Rand) string {
	junk := func(most int) string {
		b := make([]byte, random.IntN(most))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		return string(b)
	}
	pick := func(all ...string) string { return all[random.IntN(len(all))] }
	value := func() string {
		return pick(`1`, `"a"`, `null`, `{"n":-1}`, `{"n":1e999}`, `{"n":{}}`, strings.Repeat("[", 1200)+strings.Repeat("]", 1200), `[`, `"\ud800"`,
			`{"n":0,"log":["`+strings.Repeat("<", random.IntN(3000))+`"]}`)
	}
	switch random.IntN(12) {
	case 0:
		return junk(200)
	case 1:
		return frameOf(byte(random.IntN(256)), junk(300))
	case 2:
		return frameOf(last|text, junk(50))
	case 3:
		return frameOf(last|binaries, junk(2000))
	case 4:
		return strings.Repeat(frameOf(last|ping, junk(100)), random.IntN(50))
	case 5:
		return frameOf(last|text, strings.Repeat(pick("[", `{"a":`, "x", "<", `"`), 600<<random.IntN(11)))
	case 6:
		return frameOf(text, "half a message")[:random.IntN(20)] // and nothing more
	case 7:
		return frameOf(last|text, `{"type":"cf_agent_state","state":`+value()+`}`)
	default:
		id := pick(`"1"`, `"2"`, `7`, `""`, `null`, `"`+strings.Repeat("i", random.IntN(400))+`"`)
		method := pick(`"addTo"`, `"fail"`, `"count"`, `"OnMessage"`, `"setState"`, `"nope"`, `7`, `"`+strings.Repeat("m", random.IntN(400))+`"`)
		args := pick(`[]`, `[1]`, `["`+strings.Repeat("a", random.IntN(3000))+`",2]`, `{}`, `[`+value()+`]`, `[`+strings.Repeat("1,", 300)+`1]`)
		return frameOf(last|text, `{"type":"rpc","id":`+id+`,"method":`+method+`,"args":`+args+`}`)
	}
}

// TestHostileClients: thousands of frames that no client should send, over sockets that are opened anew and with the ids of others, harm
// nobody: a client counts what it sends and gets each once and in order, at both hosts. The log does not grow with the frames, and
// no socket is left.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	const attackers, frames, numbers = 6, 500, 150
	r := newRig(t)
	classes := rooms(func(r *room) {
		r.message = func(ctx context.Context, _ *room, c *Connection, m Message) error {
			if c.ID() == "good" {
				return Broadcast(ctx, m)
			}
			return nil
		}
		r.closed = func(context.Context, *room, *Connection, Closed) error { return nil }
	})
	owner := r.host(t, classes)
	owner.call(t, http.MethodGet, roomPath, "")
	hosts := []*testHost{owner, r.host(t, classes)}
	good, listener := hosts[1].dial(t, roomPath+"?_pk=good"), hosts[0].dial(t, roomPath+"?_pk=listener")
	good.ws.SetReadLimit(-1)
	listener.ws.SetReadLimit(-1)
	heard := make(chan []string, 2)
	for _, c := range []*socketClient{good, listener} {
		c.expect(identity("jo")) // it is told from here on
		go func() { heard <- c.hear(t.Context(), numbers) }()
	}
	var attack sync.WaitGroup
	for i := range attackers {
		attack.Go(func() { hosts[i%2].attack(rand.New(rand.NewPCG(seed, uint64(i))), frames) })
	}
	var want []string
	for i := range numbers {
		want = append(want, fmt.Sprint(i))
		good.send(want[i])
	}
	attack.Wait()
	for range 2 {
		if got := awaitTurn(t, "a client has heard all", heard); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("heard %q, want each once and in order", got)
		}
	}
	for _, c := range []*socketClient{good, listener} {
		if err := c.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Error(err)
		}
	}
	natstest.Eventually(t, soon, "no socket is left", func() bool {
		for _, g := range r.roomRecord(t, "jo").Gateways {
			if len(g.Open) > 0 {
				return false
			}
		}
		return true
	})
	for i, h := range hosts {
		if n := h.log.count(`level=WARN msg="frame of a client is refused"`); n == 0 || n > 60 {
			t.Errorf("host %d has %d lines about hostile clients", i, n)
		}
		if status, _ := h.call(t, http.MethodGet, roomPath, ""); status != http.StatusOK {
			t.Errorf("GET at host %d = %d", i, status)
		}
	}
}

// attack sends so many hostile frames, over another socket whenever one has ended.
func (h *testHost) attack(random *rand.Rand, frames int) {
	var s *rawSocket
	var gone sync.WaitGroup
	defer gone.Wait()
	for range frames {
		if s == nil || random.IntN(20) == 0 {
			if s != nil {
				_ = s.Close()
			}
			var err error
			if s, err = h.rawDial(fmt.Sprintf("%s?_pk=bad-%d", roomPath, random.IntN(4))); err != nil {
				s = nil
				continue
			}
			conn := s
			gone.Go(func() { _, _ = io.Copy(io.Discard, conn.r) })
		}
		_ = s.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // it may be held up: that is no reason to wait
		if _, err := io.WriteString(s, hostile(random)); err != nil {
			_ = s.Close()
			s = nil
		}
	}
	if s != nil {
		_ = s.Close()
	}
}
