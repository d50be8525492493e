package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// absence is a way in which a host cannot be reached for a while, without being dead.
type absence struct {
	name       string
	begin, end func(victim *agentHost, to []*proxy)
	cuts       bool // the host runs on meanwhile
}

func absences(t *testing.T) []absence {
	cut := func(refuse bool) func(*agentHost, []*proxy) {
		return func(_ *agentHost, to []*proxy) {
			for _, p := range to {
				p.cut(refuse)
			}
		}
	}
	mend := func(_ *agentHost, to []*proxy) {
		for _, p := range to {
			p.mend()
		}
	}
	return []absence{
		{"frozen", func(victim *agentHost, _ []*proxy) { victim.freeze(t) }, func(victim *agentHost, _ []*proxy) { victim.thaw(t) }, false},
		{"cut off in silence", cut(false), mend, true},
		{"cut off with closed connections", cut(true), mend, true},
	}
}

// TestHostComesBackTooLate freezes a host in its turns (SIGSTOP, SIGCONT), or cuts it off from NATS while all others are
// not, for longer than its lease. Another host takes its agents. What the zombie does when it comes back is refused: the
// writes of its turns, and their answers. It says so, and goes on as a guest that passes requests on.
func TestHostComesBackTooLate(t *testing.T) {
	t.Parallel()
	for name, start := range rigs {
		for i, a := range absences(t) {
			t.Run(a.name+" on "+name, func(t *testing.T) {
				t.Parallel()
				(&comeback{world: newWorld(t, start(t), "late"), absence: absences(t)[i], door: newDoor(t)}).run()
			})
		}
	}
}

// comeback is a host that comes back too late.
type comeback struct {
	*world
	absence
	door         *door
	proxies      []*proxy
	victim, heir *agentHost
}

// comebackAgents have a turn under way each: a call, a request and mail that write, and a request that only reads.
const comebackAgents = "writes posts mailed reads"

func (c *comeback) run() {
	c.t.Helper()
	var url string
	c.proxies, url = c.rig.proxies(c.t)
	c.victim = c.hostAt(url, "")
	if got := c.call("reads", order{Note: "before"}); got.n != 1 {
		c.t.Fatalf("call = %+v", got)
	}
	ctx := c.t.Context()
	call := aside(func() called { return c.call("writes", order{Note: "call", Gate: c.door.address}) })
	posting := aside(func() answer { return c.victim.post(ctx, "posts", order{Note: "zombie", Gate: c.door.address}) })
	reading := aside(func() answer { return c.victim.get(ctx, "reads", c.door.address) })
	c.tell("mailed", order{Note: "mail", Gate: c.door.address})
	var stuck []visitor
	for range 4 {
		stuck = append(stuck, c.door.await(c.victim))
	}
	c.heir = c.host("")
	c.begin(c.victim, c.proxies)
	c.takeOver(call)
	late := aside(func() answer { return c.victim.get(ctx, "reads", "") })
	for _, v := range stuck {
		close(v.open)
	}
	c.end(c.victim, c.proxies)
	if got := within(c.t, "GET at the zombie", reading); !got.isLost() {
		c.t.Errorf("GET whose turn the zombie had begun = %+v, want 503 OwnershipLost", got)
	}
	// The write may have been tried while the host was cut off. Then it cannot know what became of it.
	if got := within(c.t, "POST at the zombie", posting); !got.isLost() && !(c.cuts && got.isUnknown()) {
		c.t.Errorf("POST whose turn the zombie had begun = %+v, want 503 OwnershipLost, or 502 FateUnknown if it was cut off", got)
	}
	if got := within(c.t, "request to the absent host", late); got.status != http.StatusOK || got.body != "2" {
		c.t.Errorf("GET that came to the absent host = %+v, want it passed on", got)
	}
	c.checkGuest()
}

func (a answer) isLost() bool {
	return a.status == http.StatusServiceUnavailable && strings.Contains(a.body, "OwnershipLost")
}

func (a answer) isUnknown() bool {
	return a.status == http.StatusBadGateway && strings.Contains(a.body, "FateUnknown")
}

// takeOver has the heir do everything again that is in the hands of the victim.
func (c *comeback) takeOver(call <-chan called) {
	c.t.Helper()
	for name, want := range map[string]int{"reads": 2, "posts": 1} {
		if got := c.call(name, order{Note: "heir"}); got.n != want || got.err != nil {
			c.t.Errorf("call while the host is absent = %+v, want %d notes", got, want)
		}
	}
	close(c.door.await(c.heir).open)
	close(c.door.await(c.heir).open)
	if got := within(c.t, "the call is answered", call); got.n != 1 || got.err != nil {
		c.t.Errorf("call whose host is absent = %+v, want 1 note", got)
	}
	eventually(c.t, patience, "the mail is applied", func() bool { return len(c.notes("mailed")) == 1 })
}

// checkGuest sees that nothing of the zombie has come to anything, and that it is of use again.
func (c *comeback) checkGuest() {
	c.t.Helper()
	c.victim.awaitLog(c.t, "lost the lease: another host holds this one for gone")
	agents := len(strings.Fields(comebackAgents))
	eventually(c.t, patience, "the zombie drops its agents", func() bool {
		return strings.Count(c.victim.log.String(), "dropped the agent") == agents
	})
	epochs := c.epochs(comebackAgents)
	for name, want := range map[string][]string{"writes": {"call"}, "posts": {"heir"}, "mailed": {"mail"}, "reads": {"before", "heir"}} {
		if notes := c.notes(name); !slices.Equal(notes, want) {
			c.t.Errorf("%q has notes %q, want %q", name, notes, want)
		}
		got := c.victim.post(c.t.Context(), name, order{Note: "guest"})
		if got.status != http.StatusOK || got.body != fmt.Sprint(len(want)+1) {
			c.t.Errorf("POST to %q at the guest = %+v, want it passed on", name, got)
		}
	}
	if now := c.epochs(comebackAgents); !slices.Equal(epochs, now) {
		c.t.Errorf("epochs were %d, are %d: the zombie has taken an agent", epochs, now)
	}
	c.inboxEmpty()
}

// epochs of agents whose names are in a list.
func (w *world) epochs(names string) (epochs []uint64) {
	w.t.Helper()
	for name := range strings.FieldsSeq(names) {
		r, _ := w.recordOf(name)
		epochs = append(epochs, r.Epoch)
	}
	return epochs
}
