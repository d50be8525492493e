package history

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// Rules about sockets.
const (
	// Heard: what is sent to a client comes to it once and in order, until its socket ends.
	Heard Rule = "no frame to a client is lost, doubled or out of order without a close"
	// Taken: a frame of a client that was acknowledged was taken, each once and in order.
	Taken Rule = "no acknowledged frame of a client is lost or doubled"
	// Left: each connection that began has ended once all clients have left.
	Left Rule = "each connection ends once"
)

// room is the state of a hall, with what its guests have noted.
type room struct {
	work.Attendance
	where  string
	closed []notes.Note
	ticks  []asked
}

// halls holds the states of halls against what their guests have heard.
func (c *court) halls() {
	rooms := map[string]*room{}
	of := func(project, name string) *room {
		where := project + "/" + work.ClassHall + "/" + name
		if rooms[where] == nil {
			rooms[where] = &room{where: where}
		}
		return rooms[where]
	}
	for _, project := range c.rec.Projects {
		bucket := protocol.AgentsBucket(project)
		for _, m := range c.rec.Streams[protocol.KVStream(bucket)] {
			class, name, err := protocol.ParseAgentKey(strings.TrimPrefix(m.Subject, protocol.KVSubject(bucket, "")))
			if err != nil || class != work.ClassHall || len(m.Data) == 0 {
				continue
			}
			raw, err := state(c.rec, &m)
			if err == nil && raw != nil {
				err = json.Unmarshal(raw, &of(project, name).Attendance)
			}
			if err != nil {
				c.find(Readable, m.Subject, fmt.Sprintf("state: %v", err))
			}
		}
	}
	for _, n := range c.rec.Notes {
		if n.Kind == notes.Closed {
			r := of(n.Project, n.ID)
			r.closed = append(r.closed, n)
		}
	}
	for _, a := range pair(c.rec.Notes) {
		if a.Workflow == work.ClassHall {
			r := of(a.Project, a.ID)
			r.ticks = append(r.ticks, a)
		}
	}
	for _, where := range slices.Sorted(maps.Keys(rooms)) {
		c.room(rooms[where])
	}
}

func (c *court) room(r *room) {
	for _, fault := range r.Faults {
		c.find(Taken, r.where, fault)
	}
	if r.Begun != r.Ended {
		c.find(Left, r.where, fmt.Sprintf("%d connections have begun, %d have ended", r.Begun, r.Ended))
	}
	c.count("sockets", r.Begun)
	for _, n := range r.closed {
		var h work.Heard
		if err := json.Unmarshal(n.Value, &h); err != nil {
			c.find(Readable, r.where, fmt.Sprintf("note of %s: %v", n.Lane, err))
			continue
		}
		c.heard(r, n, h)
	}
	c.ticked(r)
}

// heard: the ticks begin behind the greeting and have no gap, the acknowledgements begin with 1 and have none, and what was acknowledged
// was taken.
func (c *court) heard(r *room, n notes.Note, h work.Heard) {
	seat := work.Seat(n.Lane, n.Number)
	around := fmt.Sprintf("closed %s: %s %s", n.At.Format(clock), n.Value, n.Detail)
	ticks, echoes := 0, 0
	if len(h.Ticks) > 0 {
		ticks = h.Ticks[0][1] - h.Ticks[0][0] + 1
	}
	if len(h.Echoes) > 0 {
		echoes = h.Echoes[0][1]
	}
	c.count("frames to clients", ticks+echoes)
	c.count("frames of clients", r.Taken[seat])
	if len(h.Ticks) > 1 || ticks > 0 && h.Ticks[0][0] != h.Hello+1 {
		c.find(Heard, r.where+" "+seat, fmt.Sprintf("after greeted at %d came the ticks %v", h.Hello, h.Ticks), around)
	}
	if len(h.Echoes) > 1 || echoes > 0 && h.Echoes[0][0] != 1 {
		c.find(Heard, r.where+" "+seat, fmt.Sprintf("its frames were acknowledged as %v", h.Echoes), around)
	}
	for _, frame := range h.Other {
		if !strings.Contains(frame, `"cf_agent_identity"`) && !strings.Contains(frame, `"cf_agent_state"`) {
			c.find(Heard, r.where+" "+seat, "was sent "+frame, around)
		}
	}
	if taken := r.Taken[seat]; taken < echoes || taken > h.Sent {
		c.find(Taken, r.where+" "+seat, fmt.Sprintf("sent %d frames, acknowledged are %d, taken %d", h.Sent, echoes, taken), around)
	}
}

// ticked: each tick that was acknowledged was one of the hall's, and no other call had its number.
func (c *court) ticked(r *room) {
	numbers := map[string]string{}
	calls := map[int]bool{}
	for _, a := range r.ticks {
		calls[a.Number] = true
		c.count("ticks "+string(a.Outcome), 1)
		if a.Outcome != notes.OK {
			continue
		}
		if other, twice := numbers[string(a.Value)]; twice {
			c.find(Answered, r.where, fmt.Sprintf("%s and %s were both answered with tick %s", a.Request, other, a.Value))
		}
		numbers[string(a.Value)] = a.Request
	}
	if r.Ticks < len(numbers) || r.Ticks > len(calls) {
		c.find(Applied, r.where, fmt.Sprintf("%d ticks are applied, %d were acknowledged, %d asked for", r.Ticks, len(numbers), len(calls)))
	}
}
