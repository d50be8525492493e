package runner

import (
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestTimerOfAnOlderPark: taking back the timer of a park that was left may be lost. Then it fires when it is due, and changes
// nothing, whatever has become of the instance.
func TestTimerOfAnOlderPark(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner()
	r.serve(runner)
	for _, tt := range []struct {
		name     string
		workflow string
		then     func(i protocol.Instance)
		state    protocol.State
	}{
		{"it waits again", "sleeps", func(i protocol.Instance) {
			r.control(i, protocol.Control{Action: protocol.ActionPause})
			r.reaches(i, protocol.StatePaused)
			r.control(i, protocol.Control{Action: protocol.ActionResume})
			r.reaches(i, protocol.StateWaiting)
		}, protocol.StateWaiting},
		{"it has ended", "waits", func(i protocol.Instance) { r.send(i, "go") }, protocol.StateComplete},
		{"another has its id", "waits", func(i protocol.Instance) {
			r.control(i, protocol.Control{Action: protocol.ActionDelete})
			r.gone(i)
			r.begun(i, protocol.StateWaiting)
		}, protocol.StateWaiting},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := r.on(t)
			i := r.begun(at(tt.workflow, "i"), protocol.StateWaiting)
			park, incarnation := r.tail(i).sequence, r.tail(i).Incarnation
			tt.then(i)
			r.reaches(i, tt.state)
			before := r.tail(i).sequence
			acked := func() uint64 {
				c, err := r.js.Consumer(t.Context(), protocol.TimersStream("p"), protocol.ConsumerDue)
				if err != nil {
					t.Fatal(err)
				}
				return c.CachedInfo().AckFloor.Consumer
			}
			known, fires := acked(), time.Now().Add(-time.Second)
			if err := runner.arm(t.Context(), i, incarnation, park, &fires); err != nil {
				t.Fatal(err)
			}
			natstest.Eventually(t, patience, "it has fired, and is acked", func() bool { return acked() > known })
			if s := r.reaches(i, tt.state); r.tail(i).sequence != before || before == park {
				t.Errorf("%s: the log ends at %d after the timer of %d, before it at %d", s.State, r.tail(i).sequence, park, before)
			}
			r.control(i, protocol.Control{Action: protocol.ActionDelete})
			r.gone(i)
		})
	}
}
