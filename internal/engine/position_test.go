package engine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// busy does random things to a machine and counts what must be durable before an effect.
type busy struct {
	t        *testing.T
	r        *rand.Rand
	m        *engine.Machine
	root     *engine.Branch
	running  []*engine.Step
	now      time.Time
	calls    int
	outcomes int
}

func (b *busy) name() string {
	b.calls++
	return fmt.Sprint("n", b.calls)
}

func (b *busy) act() {
	switch k := b.r.IntN(7); {
	case k == 0:
		s := must[*engine.Step](b.t)(b.m.Do(b.root, b.name(), protocol.StepConfig{Retries: 9}))
		b.m.Begin(s, b.now)
		b.running = append(b.running, s)
	case k == 1 && len(b.running) > 0:
		b.m.Complete(b.pick(), nil, b.now)
		b.outcomes++
	case k == 2 && len(b.running) > 0:
		failAttempt(b.m, b.pick(), &protocol.Failure{}, b.now)
		b.outcomes++
	case k == 3:
		must[*engine.Step](b.t)(b.m.Sleep(b.root, b.name(), b.now.Add(time.Duration(b.r.IntN(9))*time.Second)))
	case k == 4:
		s := must[*engine.Step](b.t)(b.m.WaitForEvent(b.root, b.name(), "t", nil))
		if s.Done { // by an event that was there
			b.outcomes++
		}
	case k == 5:
		b.calls++
		b.outcomes += len(b.m.Deliver([]engine.Input{{Sequence: 100 + uint64(b.calls), ID: b.name(), Type: []string{"t", "u"}[b.r.IntN(2)]}}))
	case k == 6:
		b.now = b.now.Add(time.Second)
		for _, key := range b.m.Due(b.now) {
			if key.Op != protocol.OpDo { // that a step may try again is no outcome
				b.outcomes++
			}
		}
	}
}

func (b *busy) pick() *engine.Step {
	i := b.r.IntN(len(b.running))
	s := b.running[i]
	b.running = slices.Delete(b.running, i, i+1)
	return s
}

// TestPositions does random things and watches what whoever appends relies on: positions never go back, an outcome is
// taken once, and nothing hard is left when the appender thinks so.
func TestPositions(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		m := newLog(t).machine()
		b := &busy{t: t, r: rand.New(rand.NewPCG(seed, 5)), m: m, root: m.Root(), now: noon}
		var position, hard, durable uint64
		taken := 0
		for range 80 {
			outcomes := b.outcomes
			if b.r.IntN(5) > 0 {
				b.act()
			} else {
				entries, upTo := m.Take()
				if upTo != m.Position() || m.Buffered() {
					t.Fatalf("seed %d: Take went up to %d of %d, something left: %v", seed, upTo, m.Position(), m.Buffered())
				}
				for _, e := range entries {
					if e.Kind != protocol.EntryStarted && e.Kind != protocol.EntryWaiting {
						taken++
					}
				}
				durable = upTo
			}
			if m.Position() < position || m.Hard() < hard || m.Hard() > m.Position() {
				t.Fatalf("seed %d: position %d after %d, hard %d after %d", seed, m.Position(), position, m.Hard(), hard)
			}
			if b.outcomes > outcomes && m.Hard() == hard {
				t.Fatalf("seed %d: an outcome has the position %d of another", seed, hard)
			}
			position, hard = m.Position(), m.Hard()
			if all := taken == b.outcomes; all != (durable >= hard) {
				t.Fatalf("seed %d: %d of %d outcomes taken, but durable up to %d and hard up to %d", seed, taken, b.outcomes, durable, hard)
			}
		}
	}
}
