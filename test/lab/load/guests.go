package load

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// halls is how many agents with sockets each project has, guests how many sockets are kept open to each.
const (
	halls  = 2
	guests = 6
	pace   = 1500 * ms // between two ticks of a hall, and two frames of a guest, on average
	// silence is how long a guest hears nothing until it gives its socket up.
	silence = 30 * time.Second
)

func hall(n int) string { return fmt.Sprint("h", n) }

// crowds has guests come to halls, which tick, until ctx ends.
func (l *Load) crowds(ctx context.Context, group *errgroup.Group) {
	for _, project := range work.Projects() {
		for n := range halls {
			group.Go(func() error { return l.tick(ctx, project, hall(n)) })
			for k := range guests {
				g := &guest{
					Load: l, project: project, hall: hall(n), id: fmt.Sprintf("g%d-%d", n, k),
					rng: rand.New(rand.NewPCG(l.Seed, uint64(1<<40+n*guests+k))),
				}
				group.Go(func() error { return g.come(ctx) })
			}
		}
	}
}

// tick has a hall tick. An answer that got lost is asked for again.
func (l *Load) tick(ctx context.Context, project, name string) error {
	for n := 1; pause(ctx, pace) == nil; n++ {
		r := request{Note: notes.Note{Action: "tick", Project: project, Workflow: work.ClassHall, ID: name, Number: n}}
		for range 2 {
			outcome, err := l.ask(ctx, r, func(ctx context.Context) (any, error) {
				return agent.Call(ctx, work.Halls.In(l.projects[project]).Agent(name), (*work.Hall).Tick, struct{}{},
					agent.ID(fmt.Sprintf("%s-%s-%d", project, name, n)), agent.Timeout(l.Patience))
			})
			if err != nil {
				return err
			}
			if outcome == notes.OK {
				break
			}
		}
	}
	return nil
}

// guest is a client that comes back whenever its socket ends.
type guest struct {
	*Load
	rng     *rand.Rand
	project string
	hall    string
	id      string
	gen     int

	mu    sync.Mutex // guards heard
	heard work.Heard
}

func (g *guest) come(ctx context.Context) error {
	for ctx.Err() == nil {
		g.gen++
		if err := g.stay(ctx); err != nil {
			return err
		}
		_ = pause(ctx, between(g.rng, 100*ms, 500*ms)) // the loop sees its end
	}
	return nil
}

// stay opens a socket, listens and talks until it ends, and notes what it has heard.
func (g *guest) stay(ctx context.Context) error {
	hosts := g.Hosts(g.project)
	address := strings.Replace(hosts[g.rng.IntN(len(hosts))], "http://", "ws://", 1)
	target := fmt.Sprintf("%s/agents/hall/%s?_pk=%s&gen=%d", address, g.hall, g.id, g.gen)
	dial, cancel := context.WithTimeout(ctx, silence)
	ws, _, err := websocket.Dial(dial, target, nil)
	cancel()
	if err != nil {
		return nil // it comes again
	}
	ws.SetReadLimit(-1)
	g.heard = work.Heard{Hello: -1}
	// A socket whose read was cut off is gone: so the guest leaves while it still listens.
	listen, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	leave := context.AfterFunc(ctx, func() { g.leave(ws) })
	defer leave()
	var talking sync.WaitGroup
	talking.Go(func() { g.talk(ctx, listen, ws) })
	reason := g.listen(listen, ws)
	stop()
	talking.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	raw, err := json.Marshal(g.heard)
	if err != nil {
		return err
	}
	return g.notes.Add(notes.Note{
		Kind: notes.Closed, Project: g.project, Workflow: work.ClassHall, ID: g.hall, Lane: g.id, Number: g.gen, Value: raw, Detail: reason,
	})
}

// listen notes what comes until the socket ends, or nothing comes any more, and returns how it ended.
func (g *guest) listen(ctx context.Context, ws *websocket.Conn) string {
	for {
		patience, cancel := context.WithTimeout(ctx, silence)
		_, data, err := ws.Read(patience)
		cancel()
		if err != nil {
			_ = ws.CloseNow() // it has ended
			return err.Error()
		}
		g.hear(string(data))
	}
}

func (g *guest) hear(frame string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var n int
	var rpc struct {
		Type    string `json:"type"`
		Success bool   `json:"success"`
		Result  int    `json:"result"`
	}
	scan := func(form string) bool { k, err := fmt.Sscanf(frame, form, &n); return k == 1 && err == nil }
	switch {
	case scan("hello %d") && g.heard.Hello < 0:
		g.heard.Hello = n
	case scan("tick %d"):
		g.heard.Ticks = work.Follow(g.heard.Ticks, n)
	case scan("echo %d"):
		g.heard.Echoes = work.Follow(g.heard.Echoes, n)
	case json.Unmarshal([]byte(frame), &rpc) == nil && rpc.Type == "rpc" && rpc.Success:
		g.heard.Echoes = work.Follow(g.heard.Echoes, rpc.Result)
	default:
		g.heard.Other = append(g.heard.Other, frame)
	}
}

// talk sends numbered frames, texts and calls by turns, until the guest is to leave or the socket ends.
func (g *guest) talk(ctx, listen context.Context, ws *websocket.Conn) {
	for pause(listen, between(g.rng, 0, 2*pace)) == nil && ctx.Err() == nil {
		g.mu.Lock()
		if g.heard.Hello < 0 {
			g.mu.Unlock()
			continue
		}
		g.heard.Sent++
		n := g.heard.Sent
		g.mu.Unlock()
		text := fmt.Sprint(g.gen, " ", n)
		if n%2 == 0 {
			text = fmt.Sprintf(`{"type":"rpc","id":"%d","method":"say","args":[%d,%d]}`, n, g.gen, n)
		}
		if ws.Write(listen, websocket.MessageText, []byte(text)) != nil {
			return // who listens sees it
		}
	}
}

// leave closes the socket in order and says what was sent.
func (g *guest) leave(ws *websocket.Conn) {
	g.mu.Lock()
	reason := fmt.Sprint(work.Sent, g.heard.Sent)
	g.mu.Unlock()
	_ = ws.Close(websocket.StatusNormalClosure, reason) // who listens sees it
}
