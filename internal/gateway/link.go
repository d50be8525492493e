package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/wire"
	"github.com/skein-run/skein/pkg/protocol"
)

// link is what binds the connections here to one agent: the order of what it sends to them.
type link struct {
	gateway *Gateway
	agent   protocol.Agent
	log     *slog.Logger
	users   int // guarded by the gateway
	// connecting takes one: connections are opened in the order of their numbers.
	connecting chan struct{}

	// late are batches that wait for a large state to be read, or to be given to many connections, and those behind them. reading counts
	// those with a large state, and filling has one for each of the others that is not behind such a one.
	late    *queue[late]
	reading atomic.Int64
	filling chan struct{}

	mu    sync.Mutex // guards what follows, and what connections say is guarded by it
	conns map[uint64]*conn
	rows  []*row // in the order of their numbers
	place protocol.SocketPlace
	moved chan struct{} // closed when place moves on
	// here is how far what has come reaches, of which some may wait in late, dropped how far what came and found no room there.
	here, dropped protocol.SocketPlace
}

func newLink(g *Gateway, agent protocol.Agent) *link {
	l := &link{
		gateway: g, agent: agent, conns: map[uint64]*conn{}, connecting: make(chan struct{}, 1), moved: make(chan struct{}),
		filling: make(chan struct{}, ahead),
		log:     g.log.With(slog.String(logkey.Class, agent.Class), slog.String(logkey.Agent, agent.Name)),
	}
	l.late = newQueue(g.limits.Waiting, g.limits.Waiting, l.startLate, l.takeLate)
	return l
}

// row is some of the connections, which are stored together.
type row struct {
	number int
	ids    map[uint64]string
}

// seat finds a row for a connection. The link is locked.
func (l *link) seat(c *conn) *row {
	for i := 0; ; i++ {
		if i == len(l.rows) || l.rows[i].number > i {
			l.rows = slices.Insert(l.rows, i, &row{number: i, ids: map[uint64]string{}})
		}
		if r := l.rows[i]; len(r.ids) < l.gateway.limits.PerRow {
			r.ids[c.set.Conn] = c.client.ID
			return r
		}
	}
}

// remove takes a connection out that has ended. The last one of a row stores that there are none; else whoever comes next does.
func (l *link) remove(ctx context.Context, c *conn) {
	l.mu.Lock()
	delete(l.conns, c.set.Conn)
	r := c.row
	if r != nil {
		delete(r.ids, c.set.Conn)
	}
	last := r != nil && len(r.ids) == 0
	l.mu.Unlock()
	if !last {
		return
	}
	for wait := firstTry; ; wait = min(2*wait, lastTry) { // a row that is left behind stays when this host has ended
		l.connecting <- struct{}{}
		err := l.enlist(ctx, r)
		<-l.connecting
		if err == nil {
			return
		}
		l.log.DebugContext(ctx, "cannot store that no sockets are held any more, trying on", slog.Any(logkey.Error, err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// Between two tries to store that a row is empty.
const (
	firstTry = 100 * time.Millisecond
	lastTry  = 30 * time.Second
)

// enlist stores which connections of a row there are. One at a time does, and nobody takes a seat meanwhile. An empty row is taken away;
// if it was before, another one may have its number.
func (l *link) enlist(ctx context.Context, r *row) error {
	l.mu.Lock()
	ids, known := maps.Clone(r.ids), slices.Contains(l.rows, r)
	l.mu.Unlock()
	if !known {
		return nil
	}
	err := l.gateway.host.Enlist(ctx, l.agent, r.number, ids)
	if err == nil && len(ids) == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.rows = slices.DeleteFunc(l.rows, func(one *row) bool { return one == r })
	}
	return err
}

func (l *link) all() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*conn
	for _, c := range l.conns {
		all = append(all, c)
	}
	return all
}

// late is a batch that waits.
type late struct {
	ctx     context.Context // of who has brought it
	down    protocol.SocketDown
	filling bool // it is one of those
}

// ahead is how many batches may wait to be given to many connections. Then who brings the next waits: many at once would not fit into the
// queues of clients who are not slow.
const ahead = 16

// startLate has batches given out, from one on.
func (l *link) startLate(first late, run func()) {
	if first.down.StateObject != nil {
		l.gateway.running.Go(run)
		return
	}
	l.gateway.running.Add(1)
	l.gateway.fan.fill(func() {
		defer l.gateway.running.Done()
		run()
	})
}

func (l *link) takeLate(b late) {
	l.takeNow(b.ctx, b.down)
	if b.down.StateObject != nil {
		l.reading.Add(-1)
	}
	if b.filling {
		<-l.filling
	}
}

// take gives the frames of a batch out. If they are for many connections, they are given to those after the turn that has sent them: its
// answer need not wait for that. If it has a large state, which must be read, that keeps up only later batches of this agent. With
// too many of those, one is dropped, and the sockets that miss it end: those that are open now at once, the rest when their turn comes.
func (l *link) take(ctx context.Context, down protocol.SocketDown) {
	if down.StateObject == nil && !l.isForMany(down.Frames) && l.late.isIdle() {
		l.takeNow(ctx, down)
		return
	}
	there := l.putOff(ctx, down)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !there {
		l.dropped = down.Place
		l.lose(ctx, down.Place)
		l.passDropped(ctx)
		return
	}
	if l.here.Compare(down.Place) < 0 {
		l.here = down.Place
	}
}

// putOff puts a batch behind those that wait. While too many do, it waits itself, unless it is for a large state to be read: then it
// returns false.
func (l *link) putOff(ctx context.Context, down protocol.SocketDown) bool {
	b := late{ctx: context.WithoutCancel(ctx), down: down}
	if down.StateObject == nil && l.reading.Load() == 0 {
		l.filling <- struct{}{}
		b.filling = true
		return l.late.wait(b.ctx, b, 1) == nil
	}
	if down.StateObject != nil {
		l.reading.Add(1)
	}
	there := l.late.add(b, 1, nil)
	if !there && down.StateObject != nil {
		l.reading.Add(-1)
	}
	return there
}

// isForMany reports whether one of the frames is for many connections.
func (l *link) isForMany(frames []protocol.SocketFrame) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns) > together && slices.ContainsFunc(frames, func(f protocol.SocketFrame) bool { return !isForOne(f) })
}

// isForOne reports whether a frame is for one connection.
func isForOne(f protocol.SocketFrame) bool { return f.Conn != 0 && !f.Not }

// takeNow gives the frames of a batch out. One that was taken before is left; if one is missing, the connections that were open then
// end: nobody can tell what they have missed. So do all if its state cannot be read.
func (l *link) takeNow(ctx context.Context, down protocol.SocketDown) {
	state, err := l.stateOf(ctx, down)
	l.mu.Lock()
	defer l.mu.Unlock()
	if down.Place.Compare(l.place) <= 0 {
		return
	}
	if isGap(l.place, down.Place) {
		l.lose(ctx, down.Place)
	}
	for _, f := range down.Frames {
		l.give(f, state)
	}
	if err != nil {
		l.log.WarnContext(ctx, "cannot read a large state for clients", slog.Any(logkey.Error, err))
		l.lose(ctx, down.Place)
	}
	l.reached(down.Place)
	l.passDropped(ctx)
}

// passDropped ends what misses a batch that was dropped, when nothing is left that came before it. What came after it shows that by itself.
// The link is locked.
func (l *link) passDropped(ctx context.Context) {
	if l.place.Compare(l.here) >= 0 && l.dropped.Compare(l.place) > 0 {
		l.lose(ctx, l.dropped)
		l.reached(l.dropped)
	}
}

// isGap reports whether a batch is missing between two places, for those who are open by the first. Where nothing has come yet, nothing
// is. A row begins anew only when the agent knows of no connection here: then whoever is open has missed its end.
func isGap(before, after protocol.SocketPlace) bool {
	if before == (protocol.SocketPlace{}) {
		return false
	}
	return !before.SameRow(after) || after.Number != before.Number+1
}

// lose ends what was open when something was lost. The link is locked.
func (l *link) lose(ctx context.Context, place protocol.SocketPlace) {
	open := 0
	for _, c := range l.conns {
		if c.open && c.ending.Load() == nil {
			open++
			c.dead.Store(true) // the agent would find it as it was before what it misses
			c.close(missed)
		}
	}
	if open > 0 {
		l.gateway.complain(ctx, l.log, "frames for clients were lost on their way here, their sockets are closed",
			slog.Int(logkey.Sockets, open), slog.Uint64(logkey.Number, place.Number))
	}
}

// open are the numbers of the connections that the agent has opened.
func (l *link) open() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var open []uint64
	for number, c := range l.conns {
		if c.open {
			open = append(open, number)
		}
	}
	return open
}

// end ends connections that the agent does not know.
func (l *link) end(numbers []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, number := range numbers {
		if c := l.conns[number]; c != nil {
			c.close(unknown)
		}
	}
}

// missed is how sockets end that have missed something.
var missed = protocol.SocketClose{Code: int(websocket.StatusServiceRestart), Reason: "frames were lost, connect again"}

// reached moves the place on. The link is locked.
func (l *link) reached(place protocol.SocketPlace) {
	l.place = place
	close(l.moved)
	l.moved = make(chan struct{})
}

func (l *link) has(place protocol.SocketPlace) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.place.Compare(place) >= 0
}

// reach returns when everything up to a place has come. What does not come for long is lost.
func (l *link) reach(ctx context.Context, place protocol.SocketPlace) {
	timer := time.NewTimer(l.gateway.limits.Gap)
	defer timer.Stop()
	for {
		l.mu.Lock()
		there, moved := l.place.Compare(place) >= 0, l.moved
		l.mu.Unlock()
		if there {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		case <-timer.C:
			if l.miss(ctx, place) {
				return
			}
			timer.Reset(l.gateway.limits.Gap)
		}
	}
}

// miss ends what misses something that was to come up to a place. It returns false if that is here, and waits for a large state.
func (l *link) miss(ctx context.Context, place protocol.SocketPlace) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.place.Compare(place) >= 0:
	case l.here.Compare(place) >= 0:
		return false
	default:
		l.lose(ctx, place)
		l.reached(place)
	}
	return true
}

// stateOf is the frame that brings the state of a batch; nil if there is none, or if another has taken its place: that comes with a batch
// of its own.
func (l *link) stateOf(ctx context.Context, down protocol.SocketDown) (*outgoing, error) {
	raw := down.State
	if down.StateObject != nil {
		ctx, cancel := context.WithTimeout(ctx, l.gateway.limits.Read)
		defer cancel()
		var err error
		if raw, err = l.gateway.host.LargeState(ctx, *down.StateObject); err != nil {
			return nil, err
		}
	}
	if raw == nil {
		return nil, nil
	}
	return stateFrame(raw, down.Revision), nil
}

func stateFrame(raw json.RawMessage, revision uint64) *outgoing {
	return &outgoing{data: wire.State(raw), state: true, revision: revision}
}

// give gives one frame to the connections that it is for. The link is locked.
func (l *link) give(f protocol.SocketFrame, state *outgoing) {
	if isForOne(f) {
		if c := l.conns[f.Conn]; c != nil && f.Gateway == l.gateway.id {
			c.give(f, messageOf(f), state)
		}
		return
	}
	message := messageOf(f)
	message.wide = len(l.conns) > together
	for _, c := range l.conns {
		except := f.Not && f.Gateway == l.gateway.id && f.Conn == c.set.Conn
		tagged := f.Tag == "" || f.Tag == c.set.ID || slices.Contains(c.set.Tags, f.Tag)
		if except && f.State {
			c.stateSet()
		}
		if c.open && !except && tagged && !slices.Contains(f.Except, c.set.ID) {
			c.give(f, message, state)
		}
	}
}

// messageOf is the text or the data of a frame, which all share that get it.
func messageOf(f protocol.SocketFrame) outgoing {
	switch {
	case f.Text != nil:
		return outgoing{data: []byte(*f.Text)}
	case f.Data != nil:
		return outgoing{data: *f.Data, binary: true}
	}
	return outgoing{}
}

// attached lists the connections after a number, also those that the agent has opened and nobody here knows yet.
func (l *link) attached(after uint64) protocol.SocketAttached {
	l.mu.Lock()
	defer l.mu.Unlock()
	answer := protocol.SocketAttached{Place: l.place}
	var numbers []uint64
	for number := range l.conns {
		if number > after {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	size := 0
	for _, number := range numbers {
		one := l.conns[number].set
		if size += len(one.ID) + len(one.State) + len(one.Identity) + 64; size > maxAttached {
			answer.More = true
			break
		}
		for _, tag := range one.Tags {
			size += len(tag)
		}
		answer.Connections = append(answer.Connections, one)
	}
	return answer
}
