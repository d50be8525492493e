package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestHostsKilledInTurns kills a host with SIGKILL while one turn of every kind stands at the same point: a request that
// came to it, one that came through another host, a call, mail, and a firing of a schedule. What a turn had stored stays and
// is carried out, what it had not is done by another host, if somebody asks for it again; nothing is applied twice.
func TestHostsKilledInTurns(t *testing.T) {
	t.Parallel()
	for _, point := range []string{testsignal.AgentBeforeCommit, testsignal.AgentAfterCommit, testsignal.AgentProjected} {
		for name, start := range rigs {
			t.Run(point+" on "+name, func(t *testing.T) {
				t.Parallel()
				k := &turnKill{world: newWorld(t, start(t), "killed"), point: point, stored: point != testsignal.AgentBeforeCommit}
				k.run()
			})
		}
	}
}

// turnKill is a kill of a host in its turns.
type turnKill struct {
	*world
	point  string
	stored bool // at the point, the turns are
}

// turnKinds are also the names of their agents.
const turnKinds = "asked relayed called told planned"

func (k *turnKill) run() {
	k.plan()
	victim := k.host(k.point)
	k.scheduler()
	if got := victim.get(k.t.Context(), "relayed", ""); got.status != http.StatusOK {
		k.t.Fatalf("GET = %+v", got)
	}
	asked := aside(func() answer { return victim.post(k.t.Context(), "asked", k.order("asked")) })
	call := aside(func() called { return k.call("called", k.order("called")) })
	k.tell("told", k.order("told"))
	k.awaitTurns(victim, 4)
	heir := k.host("")
	relayed := aside(func() answer { return heir.post(k.t.Context(), "relayed", k.order("relayed")) })
	k.awaitTurns(victim, 5)
	k.checkPoint()
	victim.kill(k.t)
	k.checkAnswers(within(k.t, "answer of the dead host", asked), within(k.t, "relayed answer", relayed))
	if got := within(k.t, "the call is answered", call); got.n != 1 || got.err != nil {
		k.t.Errorf("call whose host was killed: %+v, want 1 note", got)
	}
	k.checkNotes(heir)
}

// plan leaves a schedule behind that fires as soon as a scheduler runs.
func (k *turnKill) plan() {
	k.t.Helper()
	planner := k.host("")
	r := planner.request(k.t.Context(), http.MethodPut, "planned", `{"note":"planned","tell":"peer"}`)
	if r.status != http.StatusOK {
		k.t.Fatalf("PUT = %+v", r)
	}
	planner.terminate(k.t)
	if r, _ := k.recordOf("planned"); r.Turn != 1 || r.Owner != "" || len(r.Outbox) != 0 {
		k.t.Fatalf("record %+v, want it planned and let go", r)
	}
}

func (k *turnKill) order(name string) order { return order{Note: name, Tell: "peer"} }

// awaitTurns waits until so many turns stand at the point. There is one more if what they tell is projected: that of who
// is told.
func (k *turnKill) awaitTurns(victim *agentHost, n int) {
	k.t.Helper()
	if k.point == testsignal.AgentProjected {
		n++
	}
	eventually(k.t, patience, fmt.Sprintf("%d turns are at %s", n, k.point), func() bool {
		return strings.Count(victim.log.String(), "testsignal: "+k.point+"\n") == n
	})
}

// checkPoint makes sure that all turns stand where they are to end.
func (k *turnKill) checkPoint() {
	k.t.Helper()
	for name := range strings.FieldsSeq(turnKinds) {
		before := uint64(0)
		if name == "planned" {
			before = 1
		}
		r, _ := k.recordOf(name)
		if stored := r.Turn == before+1 && len(r.Outbox) == 1; stored != k.stored {
			k.t.Errorf("at %s the turn of %q is stored: %v, record %+v", k.point, name, stored, r)
		}
	}
	_, told := k.recordOf("peer")
	if projected := k.point == testsignal.AgentProjected; told != projected {
		k.t.Errorf("at %s the other agent has been told: %v", k.point, told)
	}
}

// checkAnswers: a turn answers when it is stored, before anything else comes of it. Who has no answer is not told a lie.
func (k *turnKill) checkAnswers(asked, relayed answer) {
	k.t.Helper()
	if k.point == testsignal.AgentProjected {
		if asked.status != http.StatusOK || relayed.status != http.StatusOK {
			k.t.Errorf("stored turns answered %+v and %+v, want 200", asked, relayed)
		}
		return
	}
	if asked.err == nil {
		k.t.Errorf("the host answered %+v, although it was killed before", asked)
	}
	switch {
	case k.stored && (relayed.status != http.StatusOK || relayed.body != "1"):
		k.t.Errorf("relayed request = %+v, want the answer of the turn that was stored", relayed)
	case !k.stored && (relayed.status != http.StatusServiceUnavailable || !strings.Contains(relayed.body, "NotServed")):
		k.t.Errorf("relayed request = %+v, want 503: nothing of it is stored", relayed)
	}
}

// checkNotes waits until the heir has done what is left to do, and sees that all was done once.
func (k *turnKill) checkNotes(heir *agentHost) {
	k.t.Helper()
	var all []string
	for name := range strings.FieldsSeq(turnKinds) {
		if !k.stored && (name == "asked" || name == "relayed") {
			if notes := k.notes(name); len(notes) != 0 {
				k.t.Errorf("%q has notes %q of a turn that was not stored", name, notes)
			}
			continue
		}
		all = append(all, name)
		eventually(k.t, patience, name+" is noted", func() bool { return slices.Equal(k.notes(name), []string{name}) })
	}
	slices.Sort(all)
	eventually(k.t, patience, "the other agent has all notes", func() bool { return len(k.notes("peer")) >= len(all) })
	k.inboxEmpty()
	notes := k.notes("peer")
	slices.Sort(notes)
	if !slices.Equal(notes, all) {
		k.t.Errorf("the other agent was told %q, want %q once each", notes, all)
	}
	if letters := k.deadLetters(); len(letters) != 0 {
		k.t.Errorf("dead letters %+v, want none", letters)
	}
	for name := range strings.FieldsSeq(turnKinds) {
		if got := heir.get(k.t.Context(), name, ""); got.body != fmt.Sprint(len(k.notes(name))) {
			k.t.Errorf("GET of %q at the heir = %+v", name, got)
		}
	}
}

// inboxEmpty waits until all mail is applied and acked.
func (w *world) inboxEmpty() {
	w.t.Helper()
	eventually(w.t, patience, "the inbox is empty", func() bool {
		s, err := w.js.Stream(w.t.Context(), protocol.InboxStream(w.name))
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}
