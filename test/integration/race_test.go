package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// hurry makes the server give a wake to another runner after d, long before a healthy runner says that it works on it.
func (w *world) hurry(d time.Duration) {
	w.t.Helper()
	for _, c := range []struct{ stream, name string }{
		{protocol.WorkflowsStream(w.name), protocol.ConsumerWakes(0)}, {protocol.TimersStream(w.name), protocol.ConsumerDue},
	} {
		w.ask("change the ack_wait of "+c.name, func(ctx context.Context) error {
			consumer, err := w.js.Consumer(ctx, c.stream, c.name)
			if err != nil {
				return err
			}
			config := consumer.CachedInfo().Config
			config.AckWait = d
			_, err = w.js.UpdateConsumer(ctx, c.stream, config)
			return err
		})
	}
}

// deliveredTwice gives the wake of an instance that is executed by a healthy runner to another one, again and again.
func deliveredTwice(w *world) {
	w.hurry(300 * time.Millisecond)
	s := ops(gated("work"), do("after"))
	gate := w.gate("a", "work")
	w.runner(setup{})
	w.create("a", s)
	body := gate.await()
	other := w.runner(setup{})
	eventually(w.t, patience, "the wake is delivered several times more", func() bool { return w.deliveries() >= 5 })
	if body.PID == other.pid() {
		w.t.Error("the other runner has it already")
	}
	body.open(w.t)
	tr := w.finish("a", s)
	gate.none("its step was running on a healthy runner")
	if tr.lost() != 0 || tr.count(protocol.EntryClaimed) != 0 {
		w.t.Errorf("%d claims and %d lost runs, want none", tr.count(protocol.EntryClaimed), tr.lost())
	}
	w.quiesce()
}

// raced lets one runner after the other stand still for a moment, all the time, so that each instance is taken by
// several of them, and those that lost it go on, too.
func raced(w *world) {
	w.hurry(300 * time.Millisecond)
	runners := []*process{w.runner(setup{}), w.runner(setup{}), w.runner(setup{})}
	const instances = 24
	s := ops(slow("one", time.Second), sleep("nap", 100*time.Millisecond),
		sideBySide(inTurn(slow("left", 300*time.Millisecond), wait("answer", "answer")), inTurn(slow("right", 700*time.Millisecond))),
		slow("last", 300*time.Millisecond))
	for i := range instances {
		w.create(fmt.Sprint(i), s)
		w.send(fmt.Sprint(i), "answer", "yes")
	}
	eventually(w.t, patience, "many of them work", func() bool { return w.unacked() >= instances/4 })
	deadline := time.Now().Add(40 * time.Second)
	for i := 0; w.ended() < instances && time.Now().Before(deadline); i++ {
		p := runners[i%len(runners)]
		p.freeze(w.t)
		pause(w.t.Context(), 700*time.Millisecond+rand.N(500*time.Millisecond))
		p.thaw(w.t)
	}
	claims := w.finishAll(instances, s)
	if claims == 0 {
		w.t.Error("no runner took an instance from another: there was no race")
	}
	w.t.Logf("%d times an instance was taken from a runner that stood still", claims)
	w.quiesce()
}
