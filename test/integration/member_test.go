package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// socketHost is a host that takes the sockets of members, and what the test has done to it.
type socketHost struct {
	*agentHost
	label string
	fate  atomic.Int32
}

// Fates of gates. One that has been frozen may close sockets with 1012.
const (
	gateStands int32 = iota
	gateFrozen
	gateThawed
	gateDraining
	gateKilled
)

// member is a client of a crowd, which comes back whenever its socket ends.
type member struct {
	crowd *crowdStorm
	name  string // of its agent
	id    int
	// keeps is whether it has the same id whenever it comes back, watch whether it sees the state.
	keeps, watch bool

	mu      sync.Mutex // guards what follows
	gen     int
	ear     ear
	at      *socketHost // where it is; nil if it is nowhere
	leaving bool
	ws      *websocket.Conn
}

// run keeps a socket open until ctx ends.
func (m *member) run(ctx context.Context) {
	for ctx.Err() == nil {
		g := m.crowd.gate()
		if g == nil {
			pause(ctx, 50*time.Millisecond)
			continue
		}
		ws, err := m.dial(ctx, g)
		if err != nil {
			if ctx.Err() == nil && g.fate.Load() == gateStands {
				m.crowd.fault("member %d cannot open a socket at %s, which stands: %v", m.id, g.label, err)
			}
			pause(ctx, 50*time.Millisecond+rand.N(100*time.Millisecond))
			continue
		}
		m.stay(ctx, g, ws)
	}
}

// dialWithin bounds a dial: a gate may be frozen meanwhile.
const dialWithin = patience

func (m *member) dial(ctx context.Context, g *socketHost) (*websocket.Conn, error) {
	m.mu.Lock()
	m.gen++
	m.ear, m.leaving = ear{}, false
	id, watch := fmt.Sprint(m.id), ""
	if !m.keeps {
		id = fmt.Sprintf("%d.%d@%s", m.id, m.gen, g.label)
	}
	if m.watch {
		watch = "&watch"
	}
	url := fmt.Sprintf("ws://%s/agents/crowd/%s?_pk=%s&gen=%d%s", g.address, m.name, id, m.gen, watch)
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, nil)
	return ws, err
}

// place is where its connection is counted.
func (m *member) place(g *socketHost) string {
	if m.keeps {
		return placeOfID("")
	}
	return g.label
}

// stay listens and talks until the socket ends.
func (m *member) stay(ctx context.Context, g *socketHost, ws *websocket.Conn) {
	ws.SetReadLimit(-1)
	m.mu.Lock()
	m.ws = ws
	m.mu.Unlock()
	talk, stop := context.WithCancel(ctx)
	var talking sync.WaitGroup
	defer talking.Wait()
	defer stop()
	for {
		_, data, err := ws.Read(ctx)
		if err != nil {
			m.ended(ctx, g, err)
			return
		}
		m.mu.Lock()
		before := m.ear.welcomed
		if !m.leaving {
			if wrong := m.ear.hear(string(data)); wrong != nil {
				m.crowd.fault("member %d, socket %d at %s: %v", m.id, m.gen, g.label, wrong)
			}
		}
		if m.ear.welcomed && !before {
			m.at = g
			m.crowd.note(func(a *attendance) { a.opened[m.place(g)]++; a.live[m.place(g)]++ }, m.name)
			talking.Go(func() { m.talk(talk, ws) })
		}
		m.mu.Unlock()
	}
}

// ended notes the end of a socket, which only what the test has done may bring about.
func (m *member) ended(ctx context.Context, g *socketHost, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return // the test is over
	}
	fate := g.fate.Load()
	var said websocket.CloseError
	isSaid := errors.As(err, &said)
	if m.at != nil {
		m.at = nil
		m.crowd.note(func(a *attendance) {
			a.live[m.place(g)]--
			switch {
			case m.leaving || m.keeps:
			case fate == gateKilled && !isSaid:
				a.broken[m.place(g)]++
			case said.Code == websocket.StatusGoingAway:
				a.drained[m.place(g)]++
			}
		}, m.name)
	}
	m.crowd.count(said.Code, isSaid, m.leaving)
	switch {
	case m.leaving, !isSaid && fate == gateKilled:
	case isSaid && said.Code == websocket.StatusGoingAway && fate == gateDraining:
	case isSaid && said.Code == websocket.StatusServiceRestart && (fate == gateFrozen || fate == gateThawed):
	default:
		m.crowd.fault("member %d: socket %d at %s, whose fate is %d, ended with %v", m.id, m.gen, g.label, fate, err)
	}
}

// talk sends numbered frames, text, binary and calls by turns, and leaves now and then.
func (m *member) talk(ctx context.Context, ws *websocket.Conn) {
	for {
		pause(ctx, rand.N(2*m.crowd.sayEvery))
		if ctx.Err() != nil || m.crowd.quiet.Load() {
			return
		}
		if rand.IntN(m.crowd.leaveOnce) == 0 {
			m.leave(ws)
			return
		}
		m.mu.Lock()
		if m.ear.sent-m.ear.echo > 1 { // an agent that is slow gets no slower by those who wait for it
			m.mu.Unlock()
			continue
		}
		m.ear.sent++
		gen, n := m.gen, m.ear.sent
		m.mu.Unlock()
		kind, text := websocket.MessageText, fmt.Sprint(gen, " ", n)
		switch n % 3 {
		case 1:
			kind = websocket.MessageBinary
		case 2:
			text = fmt.Sprintf(`{"type":"rpc","id":"%d","method":"say","args":[%d,%d]}`, n, gen, n)
		}
		if ws.Write(ctx, kind, []byte(text)) != nil {
			return // who listens sees it
		}
	}
}

// leave closes the socket in order and says what was sent, or goes away without a word.
func (m *member) leave(ws *websocket.Conn) {
	m.mu.Lock()
	m.leaving = true
	reason := fmt.Sprint("sent ", m.ear.sent)
	m.mu.Unlock()
	if rand.IntN(3) == 0 {
		_ = ws.CloseNow()
		return
	}
	_ = ws.Close(websocket.StatusNormalClosure, reason) // who listens sees it
}

// said is how many frames a socket of a member has sent.
type said struct{ gen, sent int }

func (m *member) said() said {
	m.mu.Lock()
	defer m.mu.Unlock()
	return said{m.gen, m.ear.sent}
}

// hears reports whether it is there, has heard the tick, and knows that its frames were applied: those that it had sent before, or all
// once it talks no more.
func (m *member) hears(tick int, before said) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at == nil || m.leaving || m.ear.tick < tick {
		return false
	}
	if m.crowd.quiet.Load() {
		return m.ear.echo == m.ear.sent
	}
	return m.gen != before.gen || m.ear.echo >= before.sent
}

// describe says how it stands with it.
func (m *member) describe() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	where := "nowhere"
	if m.at != nil {
		where = fmt.Sprintf("at %s (%d)", m.at.label, m.at.fate.Load())
	}
	return strings.Join([]string{fmt.Sprint("member ", m.id, " of ", m.name), where, fmt.Sprintf("socket %d, %+v", m.gen, m.ear)}, ", ")
}
