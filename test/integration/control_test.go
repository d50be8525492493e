package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// controlTests are about instances that somebody steers.
func controlTests() []protocolTest {
	return []protocolTest{
		{"killed when controls are obeyed", killedWhenControlsAreObeyed},
		{"paused in a body of a runner that dies", pausedInABodyOfARunnerThatDies},
		{"steered in a body", steeredInABody},
		{"terminated around the end", terminatedAroundTheEnd},
		{"deleted under a zombie", deletedUnderAZombie},
	}
}

type handle = workflow.Instance[[]string]

// steer sends a control to an instance.
func (w *world) steer(id string, how func(i *handle, ctx context.Context) error) {
	w.t.Helper()
	i, err := w.scripts().Get(w.t.Context(), id)
	if err == nil {
		err = how(i, w.t.Context())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func pauseIt(i *handle, ctx context.Context) error     { return i.Pause(ctx) }
func resumeIt(i *handle, ctx context.Context) error    { return i.Resume(ctx) }
func terminateIt(i *handle, ctx context.Context) error { return i.Terminate(ctx) }
func restartIt(i *handle, ctx context.Context) error   { return i.Restart(ctx) }
func deleteIt(i *handle, ctx context.Context) error    { return i.Delete(ctx) }

func (w *world) awaitState(id string, want protocol.State) protocol.Status {
	w.t.Helper()
	return w.reaches(id, "is "+string(want), func(s protocol.Status) bool { return s.State == want })
}

// awaitGone waits until there is no instance of an id.
func (w *world) awaitGone(id string) {
	w.t.Helper()
	eventually(w.t, patience, id+" is gone", func() bool {
		_, err := w.reader().Status(w.t.Context(), w.workflow, id)
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			w.t.Fatal(err)
		}
		return err != nil
	})
}

// killedWhenControlsAreObeyed: SIGKILL of a runner that has stored what the controls of parked instances change, and
// done nothing of what follows from it. Another one does.
func killedWhenControlsAreObeyed(w *world) {
	s := ops(do("before"), wait("answer", "answer"), do("after"))
	first := w.runner(setup{})
	all := []string{"paused", "resumed", "terminated", "restarted", "deleted"}
	for _, id := range all {
		w.create(id, s)
	}
	for _, id := range all {
		w.awaitParked(id)
	}
	w.steer("resumed", pauseIt)
	w.awaitState("resumed", protocol.StatePaused)
	w.quiesce()
	first.terminate(w.t)
	victim := w.runner(setup{stopAt: testsignal.RunnerObeyed})
	for id, how := range map[string]func(*handle, context.Context) error{
		"paused": pauseIt, "resumed": resumeIt, "terminated": terminateIt, "restarted": restartIt, "deleted": deleteIt,
	} {
		w.steer(id, how)
	}
	eventually(w.t, patience, "all are obeyed", func() bool {
		return strings.Count(victim.log.String(), "testsignal: "+testsignal.RunnerObeyed+"\n") == len(all)
	})
	victim.kill(w.t)
	w.disturb()
	w.runner(setup{})
	w.awaitGone("deleted")
	w.create("deleted", s)
	w.awaitState("paused", protocol.StatePaused)
	w.steer("paused", resumeIt)
	w.awaitState("terminated", protocol.StateTerminated)
	w.reaches("restarted", "waits again", func(s protocol.Status) bool { return s.State == protocol.StateWaiting && s.Epoch == 1 })
	for _, id := range []string{"paused", "resumed", "restarted", "deleted"} {
		w.send(id, "answer", "yes")
		if tr := w.finish(id, s); tr.lost() != 0 {
			w.t.Errorf("%s: %d runs were lost, although no body was running", id, tr.lost())
		}
	}
	w.quiesce()
	w.trail("terminated").audit(w.t)
}

// pausedInABodyOfARunnerThatDies: whoever was to finish its bodies first is killed. Then there is nothing to wait for.
func pausedInABodyOfARunnerThatDies(w *world) {
	w.redeliverAfter(aliveFor)
	s := ops(do("before"), gated("middle"), do("after"))
	gate := w.gate("a", "middle")
	victim := w.runner(setup{})
	w.create("a", s)
	gate.await()
	w.runner(setup{})
	w.steer("a", pauseIt)
	w.reaches("a", "is to pause", func(s protocol.Status) bool {
		return s.State == protocol.StateWaitingForPause || s.State == protocol.StatePaused
	})
	victim.kill(w.t)
	w.disturb()
	w.awaitState("a", protocol.StatePaused)
	gate.none("the instance is paused")
	w.steer("a", resumeIt)
	gate.await().open(w.t)
	w.finish("a", s)
	w.quiesce()
}

// steeredInABody terminates, restarts and deletes instances in mid-step, whichever runner gets the control. The restart is
// stored twice and delivered again and again, also to others than who executes under it. It counts once.
func steeredInABody(w *world) {
	s := ops(do("before"), gated("middle"), do("after"))
	w.runner(setup{})
	w.runner(setup{})
	gates, bodies := map[string]*gate{}, map[string]arrival{}
	for _, id := range []string{"terminated", "restarted", "deleted"} {
		gates[id] = w.gate(id, "middle")
		w.create(id, s)
	}
	for id, g := range gates {
		bodies[id] = g.await()
	}
	for shard, stream := range w.streams() {
		w.ackWait(stream, protocol.ConsumerControls(shard), 300*time.Millisecond)
	}
	w.disturb()
	w.steer("terminated", terminateIt)
	w.steer("deleted", deleteIt)
	restart := protocol.Control{V: protocol.Version, Input: uuid.NewString(), Action: protocol.ActionRestart, Sent: time.Now().UTC()}
	w.control("restarted", restart)
	w.control("restarted", restart)
	w.awaitState("terminated", protocol.StateTerminated)
	w.awaitGone("deleted")
	gates["terminated"].drain()
	gates["deleted"].drain()
	again := gates["restarted"].await()
	for again.Key == bodies["restarted"].Key { // taken from a healthy runner before the restart came
		again = gates["restarted"].await()
	}
	if again.Fence <= bodies["restarted"].Fence {
		w.t.Errorf("the body was told %+v, then %+v", bodies["restarted"].call, again.call)
	}
	for _, body := range bodies {
		body.open(w.t) // what they return counts for nothing
	}
	before := w.count(protocol.ConsumerControls, delivered)
	eventually(w.t, patience, "the restart is delivered several times more", func() bool {
		return w.count(protocol.ConsumerControls, delivered) >= before+4
	})
	again.open(w.t)
	for w.status("restarted").State != protocol.StateComplete {
		gates["restarted"].drain()
		pause(w.t.Context(), 25*time.Millisecond)
	}
	if tr := w.finish("restarted", s); tr.count(protocol.EntryRestarted) != 1 {
		w.t.Errorf("%d restarts are recorded", tr.count(protocol.EntryRestarted))
	}
	w.quiesce()
	w.trail("terminated").audit(w.t)
	for _, id := range []string{"terminated", "deleted"} {
		gates[id].none("the instance has ended")
	}
}

// drain lets bodies go on that arrived although a healthy runner was at it: on a busy machine it may be taken for dead.
func (g *gate) drain() {
	g.w.t.Helper()
	for {
		select {
		case m := <-g.arrivals:
			(arrival{msg: m}).open(g.w.t)
		default:
			return
		}
	}
}

// control stores a control as it is.
func (w *world) control(id string, c protocol.Control) {
	w.t.Helper()
	body, err := json.Marshal(c)
	if err == nil {
		_, err = w.store.Publish(w.t.Context(), w.instance(id).ControlSubject(), nil, body)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// terminatedAroundTheEnd terminates many instances at about the moment at which they end by themselves. Each ends once,
// and is announced as it ended.
func terminatedAroundTheEnd(w *world) {
	var s script
	for n := range 10 {
		s.Ops = append(s.Ops, do(fmt.Sprint("step ", n)))
	}
	w.runner(setup{})
	w.runner(setup{})
	const instances = 80
	var group errgroup.Group
	group.SetLimit(20)
	for n := range instances {
		group.Go(func() error {
			i, err := w.scripts().Create(w.t.Context(), s, workflow.ID(fmt.Sprint(n)))
			if err != nil {
				return err
			}
			pause(w.t.Context(), rand.N(6*time.Millisecond)) // the moment is what varies
			err = i.Terminate(w.t.Context())
			if _, finished := errors.AsType[*workflow.FinishedError](err); finished {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, patience, "all have ended", func() bool { return w.ended() >= instances })
	w.quiesce()
	n := 0
	for _, tr := range w.trails() {
		tr.audit(w.t)
		if tr.done[0].State == protocol.StateTerminated {
			n++
		} else {
			tr.checkOutput(w.t, s, tr.output(w.t))
		}
	}
	w.t.Logf("%d of %d were terminated", n, instances)
}

// deletedUnderAZombie: a runner is stopped in mid-step. Its instance is deleted, and another gets the id. When the runner
// goes on, nothing of what it does reaches the new one.
func deletedUnderAZombie(w *world) {
	s := ops(gated("first"), gated("second"))
	first, second := w.gate("a", "first"), w.gate("a", "second")
	frozen := w.runner(setup{})
	w.create("a", s)
	stale := first.await()
	frozen.freeze(w.t)
	heir := w.runner(setup{})
	w.steer("a", deleteIt)
	w.awaitGone("a")
	tombstone := w.tombstone("a")
	w.create("a", s)
	for body := first.await(); ; body = first.await() {
		body.open(w.t)
		if body.Fence > tombstone { // else one of the old instance that the heir took over before the delete came
			break
		}
	}
	fresh := second.await()
	stale.open(w.t)
	frozen.thaw(w.t)
	eventually(w.t, patience, "the frozen runner has let go of it", func() bool {
		return bytes.Contains([]byte(frozen.log.String()), []byte("an execution was overtaken"))
	})
	if fresh.PID != heir.pid() || fresh.Fence <= tombstone {
		w.t.Errorf("the second step runs in process %d with fence %d, want %d and more than %d", fresh.PID, fresh.Fence, heir.pid(), tombstone)
	}
	fresh.open(w.t)
	w.reaches("a", "has ended", func(s protocol.Status) bool {
		second.drain() // the new instance may have been given to the frozen runner first, which asks whether the heir is at it
		return s.State.Finished()
	})
	tr := w.finish("a", s)
	second.none("its step is done")
	old := slices.IndexFunc(tr.log, func(l logged) bool { return l.Incarnation == tr.created })
	for _, l := range tr.log[old:] {
		if l.Incarnation != tr.created {
			w.t.Errorf("entry %d of the deleted instance is in the log of the new one", l.sequence)
		}
	}
	w.quiesce()
}

// tombstone is the sequence of the entry that says that an instance was deleted.
func (w *world) tombstone(id string) uint64 {
	w.t.Helper()
	m, err := w.store.Last(w.t.Context(), w.instance(id).Stream(), w.instance(id).LogSubject())
	if err != nil {
		w.t.Fatal(err)
	}
	var a protocol.Append
	if err := json.Unmarshal(m.Data, &a); err != nil {
		w.t.Fatal(err)
	}
	if a.Entries[0].Kind != protocol.EntryDeleted {
		w.t.Fatalf("the log ends with %+v", a.Entries)
	}
	return m.Sequence
}
