package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

// crowd is the agent of the tests with many sockets: it tells all of them numbered ticks, takes numbered frames, and keeps books of
// who came and went.
type crowd struct{ agent.Base[crowdState] }

type crowdState struct {
	Ticks int `json:"ticks"`
	// Begun and Ended count, by place, what OnConnect and OnClose have seen; Ended by codes, too.
	Begun map[string]int            `json:"begun"`
	Ended map[string]map[string]int `json:"ended"`
	// Open counts the connections of an id: two for a moment, if a client comes back before its last end is known.
	Open   map[string]int `json:"open"`
	Faults []string       `json:"faults"`
}

// seat is what is kept with a connection.
type seat struct {
	Gen  int `json:"gen"`
	Last int `json:"last"` // frame that was applied
}

var crowdClass = agent.Bind[*crowd]("Crowd")

func crowds() agent.Class {
	return agent.Define("Crowd", func() *crowd { return &crowd{} }, agent.Clients((*crowd).Say))
}

// placeOfID is where a connection is counted. Clients that keep their id have none in it.
func placeOfID(id string) string {
	if _, gate, ok := strings.Cut(id, "@"); ok {
		return gate
	}
	return "any"
}

func (c *crowd) OnConnect(ctx context.Context, conn *agent.Connection, r *http.Request) error {
	gen, err := strconv.Atoi(r.URL.Query().Get("gen"))
	if err != nil {
		return err
	}
	if err := c.Update(ctx, func(s *crowdState) error {
		if s.Begun == nil {
			s.Begun, s.Ended, s.Open = map[string]int{}, map[string]map[string]int{}, map[string]int{}
		}
		s.Begun[placeOfID(conn.ID())]++
		s.Open[conn.ID()]++
		return nil
	}); err != nil {
		return err
	}
	if err := conn.SetState(ctx, seat{Gen: gen}); err != nil {
		return err
	}
	if err := conn.SetSilent(ctx, !r.URL.Query().Has("watch")); err != nil {
		return err
	}
	return conn.Send(ctx, agent.Text(fmt.Sprint("hello ", c.State().Ticks)))
}

// OnRequest does nothing: who is asked is there.
func (c *crowd) OnRequest(http.ResponseWriter, *http.Request) error { return nil }

// OnMessage takes a frame, text or binary, and answers with one of the same kind.
func (c *crowd) OnMessage(ctx context.Context, conn *agent.Connection, m agent.Message) error {
	text := m.Text
	if m.Binary {
		text = string(m.Data)
	}
	var gen, n int
	if _, err := fmt.Sscan(text, &gen, &n); err != nil {
		return err
	}
	if err := c.take(ctx, conn, seat{gen, n}); err != nil {
		return err
	}
	answer := agent.Text(fmt.Sprint("echo ", n))
	if m.Binary {
		answer = agent.Binary([]byte(answer.Text))
	}
	return conn.Send(ctx, answer)
}

// Say takes a frame that is a call.
func (c *crowd) Say(ctx context.Context, gen, n int) (int, error) {
	conn, _ := agent.CurrentConnection(ctx)
	return n, c.take(ctx, conn, seat{gen, n})
}

// take notes a frame with its connection: it must be the next one.
func (c *crowd) take(ctx context.Context, conn *agent.Connection, frame seat) error {
	last, err := agent.ConnectionState[seat](conn)
	if err != nil {
		return err
	}
	if frame.Gen != last.Gen || frame.Last != last.Last+1 {
		return c.fault(ctx, fmt.Sprintf("%s: frame %+v after %+v", conn.ID(), frame, last))
	}
	return conn.SetState(ctx, frame)
}

func (c *crowd) fault(ctx context.Context, text string) error {
	return c.Update(ctx, func(s *crowdState) error { s.Faults = append(s.Faults, text); return nil })
}

// OnClose notes an end. Clients that leave in order say how many frames they have sent: all of them must have been applied before.
func (c *crowd) OnClose(ctx context.Context, conn *agent.Connection, how agent.Closed) error {
	last, err := agent.ConnectionState[seat](conn)
	if err != nil {
		return err
	}
	id := conn.ID()
	return c.Update(ctx, func(s *crowdState) error {
		place, code := placeOfID(id), strconv.Itoa(how.Code)
		if s.Ended[place] == nil {
			s.Ended[place] = map[string]int{}
		}
		s.Ended[place][code]++
		if s.Open[id]--; s.Open[id] < 0 {
			s.Faults = append(s.Faults, fmt.Sprintf("%s: closed (%s) but not open", id, code))
		}
		if s.Open[id] == 0 {
			delete(s.Open, id)
		}
		if sent, ok := strings.CutPrefix(how.Reason, "sent "); ok && sent != strconv.Itoa(last.Last) {
			s.Faults = append(s.Faults, fmt.Sprintf("%s: left after %s frames, applied are %d", id, sent, last.Last))
		}
		return nil
	})
}

// OnError notes whatever a hook has returned.
func (c *crowd) OnError(ctx context.Context, err error) error { return c.fault(ctx, err.Error()) }

// Tick tells all the next number. The last time, it lets all see the state from then on.
func (c *crowd) Tick(ctx context.Context, last bool) (int, error) {
	if last {
		if err := c.reveal(ctx); err != nil {
			return 0, err
		}
	}
	if err := c.Update(ctx, func(s *crowdState) error { s.Ticks++; return nil }); err != nil {
		return 0, err
	}
	return c.State().Ticks, agent.Broadcast(ctx, agent.Text(fmt.Sprint("tick ", c.State().Ticks)))
}

func (c *crowd) reveal(ctx context.Context) error {
	all, err := agent.Connections(ctx)
	for _, conn := range all {
		if err := conn.SetSilent(ctx, false); err != nil {
			return err
		}
	}
	return err
}

// crowdRecord reads the record of a crowd, and its state.
func (w *world) crowdRecord(name string) (r protocol.Record, s crowdState) {
	w.t.Helper()
	r, _ = w.recordIn("Crowd", name)
	raw := r.State
	if r.StateObject != nil {
		var err error
		if raw, err = w.project.Objects().Get(w.t.Context(), w.name, *r.StateObject); err != nil {
			w.t.Fatal(err)
		}
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &s); err != nil {
			w.t.Fatal(err)
		}
	}
	return r, s
}
