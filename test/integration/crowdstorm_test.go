package integration

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

// crowdStorm is many sockets at two gates to some agents, which talk all the time, while hosts are killed, frozen and stopped.
type crowdStorm struct {
	*world
	agents    []string
	tickEvery time.Duration
	sayEvery  time.Duration
	leaveOnce int // in how many frames

	members []*member
	quiet   atomic.Bool // nobody talks any more
	running sync.WaitGroup
	stop    context.CancelFunc
	calm    context.CancelFunc // ends the ticks
	ticking sync.WaitGroup

	mu         sync.Mutex // guards what follows
	gates      []*socketHost
	labels     int
	next       int
	attendance map[string]attendance
	ticks      map[string]int
	longest    time.Duration // tick
	codes      map[string]int
	ended      int // that no client has left
	faults     []string
}

// crowd prepares a storm at a pace: in which time everybody says something, and every agent ticks ten times.
func (w *world) crowd(agents int, pace time.Duration) *crowdStorm {
	s := &crowdStorm{
		world: w, tickEvery: pace / 10, sayEvery: pace, leaveOnce: 20,
		attendance: map[string]attendance{}, ticks: map[string]int{}, codes: map[string]int{},
	}
	for i := range agents {
		s.agents = append(s.agents, fmt.Sprint("c", i))
		s.attendance[s.agents[i]] = newAttendance()
	}
	return s
}

// fault notes what must not be. The first ones tell most.
func (s *crowdStorm) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults = append(s.faults, fmt.Sprintf(format, args...)); len(s.faults) <= 20 {
		s.t.Errorf(format, args...)
	}
}

func (s *crowdStorm) note(do func(*attendance), name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.attendance[name]
	do(&a)
}

func (s *crowdStorm) count(code websocket.StatusCode, isSaid, left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !left {
		s.ended++
	}
	if isSaid {
		s.codes[fmt.Sprint(int(code))]++
	} else {
		s.codes["broken"]++
	}
}

// gate is one that stands, by turns; nil if none does.
func (s *crowdStorm) gate() *socketHost {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.gates {
		s.next++
		if g := s.gates[s.next%len(s.gates)]; g.fate.Load() == gateStands || g.fate.Load() == gateThawed {
			return g
		}
	}
	return nil
}

// open adds a gate.
func (s *crowdStorm) open(h *agentHost) *socketHost {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.labels++
	g := &socketHost{agentHost: h, label: fmt.Sprint("g", s.labels)}
	s.gates = append(s.gates, g)
	return g
}

// shut takes a gate out that is to end.
func (s *crowdStorm) shut(g *socketHost, fate int32) {
	g.fate.Store(fate)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates = slices.DeleteFunc(slices.Clone(s.gates), func(one *socketHost) bool { return one == g })
}

// begin opens the sockets, and lets the agents tick.
func (s *crowdStorm) begin(sockets int) {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	s.stop = stop
	ticks, calm := context.WithCancel(ctx)
	s.calm = calm
	s.t.Cleanup(func() { stop(); s.ticking.Wait(); s.running.Wait() })
	for i := range sockets {
		s.members = append(s.members, &member{crowd: s, name: s.agents[i%len(s.agents)], id: i, keeps: i/len(s.agents)%2 == 0, watch: i/len(s.agents)%20 == 1})
	}
	for i, m := range s.members {
		s.running.Go(func() {
			pause(ctx, time.Duration(i)*2*time.Millisecond) // not all in one moment
			m.run(ctx)
		})
	}
	for _, name := range s.agents {
		s.ticking.Go(func() { s.tick(ticks, name) })
	}
	s.all("all are there")
}

// tick lets an agent tick until ctx ends. None may fail.
func (s *crowdStorm) tick(ctx context.Context, name string) {
	for ctx.Err() == nil {
		began := time.Now()
		n, err := agent.Call(s.t.Context(), crowdClass.In(s.project).Agent(name), (*crowd).Tick, false, agent.Timeout(patience))
		s.mu.Lock()
		before := s.ticks[name]
		s.longest = max(s.longest, time.Since(began))
		s.ticks[name] = n
		s.mu.Unlock()
		if err != nil || n != before+1 {
			s.fault("tick %d of %s = %d, %v", before+1, name, n, err)
			return
		}
		pause(ctx, s.tickEvery)
	}
}

// all waits until every member is there and has heard all that was told when this was called.
func (s *crowdStorm) all(what string) {
	s.t.Helper()
	s.mu.Lock()
	ticks := maps.Clone(s.ticks)
	s.mu.Unlock()
	began := time.Now()
	var before []said
	for _, m := range s.members {
		before = append(before, m.said())
	}
	missing := func() (missing []string) {
		for i, m := range s.members {
			if !m.hears(ticks[m.name], before[i]) {
				missing = append(missing, m.describe())
			}
		}
		return missing
	}
	// While members leave, somebody may be away: hardly anybody misses anything.
	enough := 0
	if !s.quiet.Load() {
		enough = len(s.members) / 20
	}
	for deadline := began.Add(patience); len(missing()) > enough; pause(s.t.Context(), 50*time.Millisecond) {
		if left := missing(); time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s; %d are not: %s", patience, what, len(left), strings.Join(left[:min(5, len(left))], "; "))
		}
		if s.t.Failed() {
			s.t.FailNow() // it will not get better
		}
	}
	s.t.Logf("%s: after %v", what, time.Since(began).Round(time.Millisecond))
}

// owned are the agents that a host owns by their records, with their epochs.
func (s *crowdStorm) owned(h *agentHost) map[string]uint64 {
	s.t.Helper()
	epochs := map[string]uint64{}
	for _, name := range s.agents {
		if r, _ := s.crowdRecord(name); r.Owner == h.hostID() {
			epochs[name] = r.Epoch
		}
	}
	return epochs
}

// hostID is the id of a host, from its log.
func (h *agentHost) hostID() string {
	_, rest, _ := strings.Cut(h.log.String(), `msg="taking requests"`)
	_, rest, _ = strings.Cut(rest, "host=")
	id, _, _ := strings.Cut(rest, " ")
	return strings.TrimSpace(id)
}

// moved waits until agents have another owner than they had.
func (s *crowdStorm) moved(before map[string]uint64) {
	s.t.Helper()
	if len(before) == 0 {
		s.t.Fatal("the host owns no agent: to take it away is no fault")
	}
	eventually(s.t, patience, fmt.Sprintf("agents %v have another owner", before), func() bool {
		for name, epoch := range before {
			if r, _ := s.crowdRecord(name); r.Epoch == epoch {
				return false
			}
		}
		return true
	})
}

// told waits until all agents know that a gate holds no socket of theirs any more.
func (s *crowdStorm) told(g *socketHost) {
	s.t.Helper()
	eventually(s.t, patience, "all agents know that no socket is at "+g.label, func() bool {
		for _, name := range s.agents {
			if r, _ := s.crowdRecord(name); len(r.Gateways[g.hostID()].Open) > 0 {
				return false
			}
		}
		return true
	})
}

// held is how many sockets are at a gate by the records of the agents.
func (s *crowdStorm) held(g *socketHost) (held int) {
	s.t.Helper()
	for _, name := range s.agents {
		r, _ := s.crowdRecord(name)
		held += len(r.Gateways[g.hostID()].Open)
	}
	return held
}

// killOwner kills a host that owns agents and holds no socket: no socket may end.
func (s *crowdStorm) killOwner(h *agentHost) {
	s.t.Helper()
	s.takeAway(h)
	s.all("the agents of a killed host go on (SIGKILL of " + h.name + ")")
}

// takeAway kills a host that owns agents, and waits until others have them.
func (s *crowdStorm) takeAway(h *agentHost) {
	s.t.Helper()
	before := s.owned(h)
	h.kill(s.t)
	s.moved(before)
}

// killGate kills a host that holds sockets. Their clients go elsewhere.
func (s *crowdStorm) killGate(g *socketHost) {
	s.t.Helper()
	if s.held(g) == 0 {
		s.t.Fatalf("%s holds no socket: to kill it is no fault", g.name)
	}
	s.shut(g, gateKilled)
	g.kill(s.t)
	s.all("those are back whose host was killed (SIGKILL of " + g.name + ")")
}

// drainGate stops a host that holds sockets (SIGTERM). It tells all agents before it ends, with nobody's help.
func (s *crowdStorm) drainGate(g *socketHost) {
	s.t.Helper()
	if s.held(g) == 0 {
		s.t.Fatalf("%s holds no socket: to stop it is no fault", g.name)
	}
	s.shut(g, gateDraining)
	took := g.terminate(s.t)
	if held := s.held(g); held > 0 {
		s.t.Errorf("%s has ended, and %d sockets are still noted as open", g.name, held)
	}
	s.all(fmt.Sprintf("those are back whose host was stopped (SIGTERM of %s, which took %v)", g.name, took.Round(time.Millisecond)))
}

// freezeBoth freezes a gate and another host for longer than their leases.
func (s *crowdStorm) freezeBoth(g *socketHost, h *agentHost) {
	s.t.Helper()
	if s.held(g) == 0 {
		s.t.Fatalf("%s holds no socket: to freeze it is no fault", g.name)
	}
	before := s.owned(h)
	g.fate.Store(gateFrozen)
	g.freeze(s.t)
	h.freeze(s.t)
	s.moved(before)
	s.told(g)
	g.fate.Store(gateThawed)
	g.thaw(s.t)
	h.thaw(s.t)
	s.all(fmt.Sprintf("all are back (SIGSTOP of %s and %s for longer than their leases)", g.name, h.name))
}

// end lets all come to rest, and decides.
func (s *crowdStorm) end() {
	s.t.Helper()
	s.quiet.Store(true)
	s.calm()
	s.ticking.Wait()
	s.all("all know that their frames were applied")
	for _, name := range s.agents {
		n, err := agent.Call(s.t.Context(), crowdClass.In(s.project).Agent(name), (*crowd).Tick, true, agent.Timeout(patience))
		if err != nil {
			s.t.Fatal(err)
		}
		s.ticks[name] = n
	}
	s.all("all have heard the last tick")
	eventually(s.t, patience, "all see the newest state", func() bool {
		return !slices.ContainsFunc(s.members, func(m *member) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.ear.state != s.ticks[m.name]
		})
	})
	for _, name := range s.agents {
		s.audit(name)
	}
	total := attendance{opened: map[string]int{}}
	for _, a := range s.attendance {
		for place, n := range a.opened {
			total.opened[place] += n
		}
	}
	s.t.Logf("%d sockets, opened in all %v, ended %v, ticks %v, the longest took %v", len(s.members), total.opened, s.codes, s.ticks, s.longest.Round(time.Millisecond))
}

// audit holds the books of an agent against what its members have seen, once the last ends are told.
func (s *crowdStorm) audit(name string) {
	s.t.Helper()
	var wrong []string
	for deadline := time.Now().Add(patience); ; pause(s.t.Context(), 100*time.Millisecond) {
		_, state := s.crowdRecord(name)
		s.mu.Lock()
		wrong = s.attendance[name].check(state)
		s.mu.Unlock()
		if len(wrong) == 0 || len(state.Faults) > 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, text := range wrong {
		s.t.Errorf("%s: %s", name, text)
	}
}

// TestCrowdOfOwnerKilledInItsTurn: an agent whose clients are at two hosts is at a third, which is killed with SIGKILL where its turn is
// about to be stored, where it is stored and nothing was sent, and where all was sent. No socket ends; numbers decide.
func TestCrowdOfOwnerKilledInItsTurn(t *testing.T) {
	t.Parallel()
	for _, point := range []string{testsignal.AgentBeforeCommit, testsignal.AgentAfterCommit, testsignal.AgentProjected} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, singleServer(t), "owner")
			s := w.crowd(1, time.Second)
			first := w.host("")
			s.settle(first)
			s.open(w.hostAs(roleGate, w.url, ""))
			s.open(w.hostAs(roleGate, w.url, ""))
			s.begin(20)
			victim := w.host(point)
			s.takeAway(first)
			victim.awaitSignal(t, point)
			heir := w.host("")
			s.killOwner(victim)
			s.end()
			if len(s.owned(heir)) == 0 {
				t.Errorf("%s does not own the agent", heir.name)
			}
			s.onlyLeft()
		})
	}
}

// TestCrowdOnThreeServers moves the leaders of the records and of the leases while clients at two hosts talk with agents at others. No
// socket ends.
func TestCrowdOnThreeServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, threeServers(t), "leaders")
	s := w.crowd(2, 2*time.Second)
	owner := w.host("")
	s.settle(owner, w.host(""))
	s.open(w.hostAs(roleGate, w.url, ""))
	s.open(w.hostAs(roleGate, w.url, ""))
	s.begin(40)
	w.cluster.MoveLeader(t, protocol.KVStream(protocol.AgentsBucket(w.name)))
	s.all("all go on (the leader of the records was moved)")
	w.cluster.MoveLeader(t, protocol.KVStream(protocol.HostsBucket(w.name)))
	s.all("all go on (the leader of the leases was moved)")
	s.killOwner(owner)
	s.onlyLeft()
	s.killGate(s.gates[0])
	s.end()
}

// onlyLeft sees that no socket has ended but those that their clients have closed.
func (s *crowdStorm) onlyLeft() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended > 0 {
		s.t.Errorf("%d sockets have ended, want none but those that clients have left: %v", s.ended, s.codes)
	}
}

// TestCrowd holds many sockets at two hosts to agents at others; every agent tells all of them something all the time, and they talk
// back, while hosts of both kinds are killed, frozen for longer than their leases, and stopped. Numbers decide: nothing is lost,
// doubled or out of order without the end of that socket, and no socket ends but by what was done to its own host. Not parallel: it takes the machine.
//
//	go test ./test/integration -run TestCrowd -sockets 5000 -soak 3m -timeout 30m
func TestCrowd(t *testing.T) {
	agents := max(4, *crowdSize/500)
	w := newWorld(t, singleServer(t), "crowd")
	s := w.crowd(agents, max(2*time.Second, time.Duration(*crowdSize)*2*time.Millisecond))
	owners := []*agentHost{w.host(""), w.host("")}
	s.settle(owners...)
	s.open(w.host(""))
	s.open(w.host(""))
	s.begin(*crowdSize)
	kills := 0
	for began, round := time.Now(), 0; ; round++ {
		if i := s.busiest(owners); i >= 0 {
			s.killOwner(owners[i])
			owners[i] = w.host("")
			kills++
		}
		first, second := s.killGate, s.drainGate
		if round%2 == 1 { // one that was held for lost may be lost again
			first, second = second, first
		}
		first(s.gates[0])
		s.open(w.host(""))
		g := s.gates[0]
		if i := s.busiest(owners); i >= 0 {
			s.freezeBoth(g, owners[i])
		}
		second(g)
		if time.Since(began) > *soak {
			break
		}
		s.open(w.host(""))
	}
	s.end()
	if kills == 0 {
		t.Error("no owner was killed")
	}
}

// settle has hosts take the agents: who is asked for one that nobody has takes it.
func (s *crowdStorm) settle(hosts ...*agentHost) {
	s.t.Helper()
	for i, name := range s.agents {
		r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+hosts[i%len(hosts)].address+"/agents/crowd/"+name, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		response, err := agentClient.Do(r)
		if err != nil {
			s.t.Fatal(err)
		}
		_ = response.Body.Close() // nothing is in it
		if response.StatusCode != http.StatusOK {
			s.t.Fatalf("GET of %s: %s", name, response.Status)
		}
	}
}

// busiest is the host that owns most agents; -1 if none owns any.
func (s *crowdStorm) busiest(hosts []*agentHost) int {
	s.t.Helper()
	found, most := -1, 0
	for i, h := range hosts {
		if n := len(s.owned(h)); n > most {
			found, most = i, n
		}
	}
	return found
}
