package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// redeliverAfter makes the server give a wake to another runner when nobody has said for d that he works on it. A healthy
// runner says so every 1.5 s.
func (w *world) redeliverAfter(d time.Duration) {
	w.t.Helper()
	for shard, stream := range w.streams() {
		w.ackWait(stream, protocol.ConsumerWakes(shard), d)
	}
	w.ackWait(protocol.TimersStream(w.name), protocol.ConsumerDue, d)
}

func (w *world) ackWait(stream, name string, d time.Duration) {
	w.t.Helper()
	natstest.Ask(w.t, "change the ack_wait of "+name, func(ctx context.Context) error {
		consumer, err := w.js.Consumer(ctx, stream, name)
		if err != nil {
			return err
		}
		config := consumer.CachedInfo().Config
		config.AckWait = d
		_, err = w.js.UpdateConsumer(ctx, stream, config)
		return err
	})
}

// deliveredTwice gives the wake of an instance that is executed by a healthy runner to another one, again and again. The
// other one leaves it alone. But if the healthy one does not get a turn on a busy machine for as long as it has to answer,
// it is taken for dead: then there is another try.
func deliveredTwice(w *world) {
	w.redeliverAfter(300 * time.Millisecond)
	w.runner(setup{})
	w.runner(setup{})
	const tries = 20
	for i := range tries {
		if w.leftAlone(fmt.Sprint(i)) {
			w.quiesce()
			return
		}
	}
	w.t.Errorf("in %d tries of %[1]d the instance was taken from a healthy runner", tries)
}

// leftAlone reports whether an instance stays where it is executed although its wake is delivered to others.
func (w *world) leftAlone(id string) bool {
	w.t.Helper()
	s := ops(gated("work"), do("after"))
	gate := w.gate(id, "work")
	before := w.deliveries()
	w.create(id, s)
	bodies := []arrival{gate.await()}
	eventually(w.t, patience, "the wake is delivered several times more", func() bool { return w.deliveries() >= before+6 })
	bodies[0].open(w.t)
	w.reaches(id, "has ended", func(s protocol.Status) bool {
		for len(gate.arrivals) > 0 {
			bodies = append(bodies, gate.await())
			bodies[len(bodies)-1].open(w.t)
		}
		return s.State.Finished()
	})
	tr := w.finish(id, s)
	claims := tr.count(protocol.EntryClaimed)
	if len(bodies) == 1 && claims == 0 && tr.lost() == 0 {
		return true
	}
	w.t.Logf("%d bodies, %d claims and %d lost runs, want one and none", len(bodies), claims, tr.lost())
	return false
}

// raced lets one runner after the other stand still for a moment, all the time, so that each instance is taken by
// several of them, and those that lost it go on, too.
func raced(w *world) {
	w.redeliverAfter(300 * time.Millisecond)
	runners := []*process{w.runner(setup{}), w.runner(setup{}), w.runner(setup{})}
	const instances = 24
	s := ops(slow("one", time.Second), sleep("nap", 100*time.Millisecond),
		sideBySide(inTurn(slow("left", 300*time.Millisecond), wait("answer", "answer")), inTurn(slow("right", 700*time.Millisecond))),
		slow("last", 300*time.Millisecond))
	made, claims := 0, 0
	for round := 0; claims == 0 && round < 10; round++ { // on a busy machine all may have ended before the first stands still
		for range instances {
			w.create(fmt.Sprint(made), s)
			w.send(fmt.Sprint(made), "answer", "yes")
			made++
		}
		w.standStill(runners, made)
		claims = w.finishAll(made, s)
	}
	if claims == 0 {
		w.t.Error("no runner took an instance from another: there was no race")
	}
	w.t.Logf("%d times an instance was taken from a runner that stood still", claims)
	w.quiesce()
}

// standStill lets one runner after the other stand still for a moment, until so many instances have ended, or for a while.
func (w *world) standStill(runners []*process, instances int) {
	w.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for i := 0; w.ended() < instances && time.Now().Before(deadline); i++ {
		p := runners[i%len(runners)]
		p.freeze(w.t)
		pause(w.t.Context(), 700*time.Millisecond+rand.N(500*time.Millisecond))
		p.thaw(w.t)
	}
}
