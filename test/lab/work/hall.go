package work

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/skein-run/skein/pkg/agent"
)

// Hall is the agent to whom guests of the lab keep sockets open: it tells all of them numbered ticks, takes their numbered frames, and
// keeps books of both.
type Hall struct{ agent.Base[Attendance] }

// Attendance is the state of a hall.
type Attendance struct {
	Ticks int `json:"ticks"`
	// Taken is the last frame that was taken of each connection, see Seat.
	Taken map[string]int `json:"taken,omitempty"`
	// Begun and Ended count what OnConnect and OnClose have seen.
	Begun int `json:"begun"`
	Ended int `json:"ended"`
	// Faults are what the hall itself has seen that must not be.
	Faults []string `json:"faults,omitempty"`
}

// ClassHall is the name of the class.
const ClassHall = "Hall"

// Halls is the binding to those of the own project.
var Halls = agent.Bind[*Hall](ClassHall)

// Seat names a connection: the gen-th of a guest.
func Seat(guest string, gen int) string { return guest + "/" + strconv.Itoa(gen) }

// place is what is kept with a connection.
type place struct {
	Gen  int `json:"gen"`
	Last int `json:"last"` // frame that was taken
}

// Sent is the reason with which a guest leaves that has sent so many frames.
const Sent = "sent "

// OnConnect greets a guest.
func (h *Hall) OnConnect(ctx context.Context, conn *agent.Connection, r *http.Request) error {
	gen, err := strconv.Atoi(r.URL.Query().Get("gen"))
	if err != nil {
		return err
	}
	if err := h.Update(ctx, func(a *Attendance) error { a.Begun++; return nil }); err != nil {
		return err
	}
	if err := errors.Join(conn.SetState(ctx, place{Gen: gen}), conn.SetSilent(ctx, true)); err != nil {
		return err
	}
	return conn.Send(ctx, agent.Text(fmt.Sprint("hello ", h.State().Ticks)))
}

// OnMessage takes a frame and says so.
func (h *Hall) OnMessage(ctx context.Context, conn *agent.Connection, m agent.Message) error {
	var gen, n int
	if _, err := fmt.Sscan(m.Text, &gen, &n); err != nil {
		return err
	}
	if err := h.take(ctx, conn, place{gen, n}); err != nil {
		return err
	}
	return conn.Send(ctx, agent.Text(fmt.Sprint("echo ", n)))
}

// Say takes a frame that is a call.
func (h *Hall) Say(ctx context.Context, gen, n int) (int, error) {
	conn, _ := agent.CurrentConnection(ctx)
	return n, h.take(ctx, conn, place{gen, n})
}

// take notes a frame: it must be the next one of its connection.
func (h *Hall) take(ctx context.Context, conn *agent.Connection, frame place) error {
	last, err := agent.ConnectionState[place](conn)
	if err != nil {
		return err
	}
	if frame.Gen != last.Gen || frame.Last != last.Last+1 {
		return h.fault(ctx, fmt.Sprintf("%s: frame %+v after %+v", conn.ID(), frame, last))
	}
	if err := h.Update(ctx, func(a *Attendance) error {
		if a.Taken == nil {
			a.Taken = map[string]int{}
		}
		a.Taken[Seat(conn.ID(), frame.Gen)] = frame.Last
		return nil
	}); err != nil {
		return err
	}
	return conn.SetState(ctx, frame)
}

func (h *Hall) fault(ctx context.Context, text string) error {
	return h.Update(ctx, func(a *Attendance) error { a.Faults = append(a.Faults, text); return nil })
}

// OnClose notes an end. A guest that leaves in order says how many frames it has sent: all of them were taken before.
func (h *Hall) OnClose(ctx context.Context, conn *agent.Connection, how agent.Closed) error {
	last, err := agent.ConnectionState[place](conn)
	if err != nil {
		return err
	}
	return h.Update(ctx, func(a *Attendance) error {
		a.Ended++
		if sent, ok := strings.CutPrefix(how.Reason, Sent); ok && sent != strconv.Itoa(last.Last) {
			a.Faults = append(a.Faults, fmt.Sprintf("%s: left after %s frames, taken are %d", conn.ID(), sent, last.Last))
		}
		return nil
	})
}

// OnError notes whatever a hook has returned.
func (h *Hall) OnError(ctx context.Context, err error) error { return h.fault(ctx, err.Error()) }

// Tick tells all guests the next number.
func (h *Hall) Tick(ctx context.Context, _ struct{}) (int, error) {
	if err := h.Update(ctx, func(a *Attendance) error { a.Ticks++; return nil }); err != nil {
		return 0, err
	}
	return h.State().Ticks, agent.Broadcast(ctx, agent.Text(fmt.Sprint("tick ", h.State().Ticks)))
}

// Heard is what a guest has seen of one connection. Ticks and Echoes are the numbers in the order in which they came, those that follow
// one another as first and last.
type Heard struct {
	// Hello is the number of ticks when the hall had greeted the guest; -1: it was not.
	Hello  int      `json:"hello"`
	Ticks  [][2]int `json:"ticks,omitempty"`
	Echoes [][2]int `json:"echoes,omitempty"`
	Sent   int      `json:"sent"`
	// Other are frames that are none of these.
	Other []string `json:"other,omitempty"`
}

// Follow adds a number to those that came.
func Follow(all [][2]int, n int) [][2]int {
	if last := len(all) - 1; last >= 0 && all[last][1] == n-1 {
		all[last][1] = n
		return all
	}
	return append(all, [2]int{n, n})
}
