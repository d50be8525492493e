package engine_test

import (
	"math"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestDelay(t *testing.T) {
	t.Parallel()
	s := protocol.Duration(time.Second)
	tests := []struct {
		name   string
		config protocol.StepConfig
		n      int
		want   time.Duration
	}{
		{"none given", protocol.StepConfig{}, 1, 0},
		{"no kind is constant", protocol.StepConfig{Delay: s}, 3, time.Second},
		{"constant", protocol.StepConfig{Delay: s, Backoff: engine.BackoffConstant}, 3, time.Second},
		{"linear, first", protocol.StepConfig{Delay: s, Backoff: engine.BackoffLinear}, 1, time.Second},
		{"linear, third", protocol.StepConfig{Delay: s, Backoff: engine.BackoffLinear}, 3, 3 * time.Second},
		{"exponential, first", protocol.StepConfig{Delay: s, Backoff: engine.BackoffExponential}, 1, time.Second},
		{"exponential, fourth", protocol.StepConfig{Delay: s, Backoff: engine.BackoffExponential}, 4, 8 * time.Second},
		{"below the cap", protocol.StepConfig{Delay: s, MaxDelay: 9 * s, Backoff: engine.BackoffExponential}, 4, 8 * time.Second},
		{"capped", protocol.StepConfig{Delay: s, MaxDelay: 9 * s, Backoff: engine.BackoffExponential}, 5, 9 * time.Second},
		{"cap below the base", protocol.StepConfig{Delay: 9 * s, MaxDelay: s, Backoff: engine.BackoffConstant}, 1, time.Second},
		{"never longer than anything waits", protocol.StepConfig{Delay: s, Backoff: engine.BackoffExponential}, 40, engine.MaxWait},
		{"beyond what a float holds", protocol.StepConfig{Delay: s, Backoff: engine.BackoffExponential}, 5000, engine.MaxWait},
		{"a cap above that", protocol.StepConfig{Delay: s, MaxDelay: math.MaxInt64, Backoff: engine.BackoffExponential}, 5000, engine.MaxWait},
		{"nothing, doubled often", protocol.StepConfig{Backoff: engine.BackoffExponential}, 5000, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := engine.Delay(tt.config, tt.n, 0.5); got != tt.want {
				t.Errorf("delay is %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	boom, terminal := &protocol.Failure{Name: "Boom"}, &protocol.Failure{Name: "Boom", Terminal: true}
	tests := []struct {
		name     string
		retries  int
		failures []*protocol.Failure
		want     []protocol.EntryKind
	}{
		{"none allowed", 0, []*protocol.Failure{boom}, []protocol.EntryKind{protocol.EntryStepFailed}},
		{"the first of two", 2, []*protocol.Failure{boom}, []protocol.EntryKind{protocol.EntryAttemptFailed}},
		{"all used", 2, []*protocol.Failure{boom, boom, boom}, []protocol.EntryKind{protocol.EntryAttemptFailed, protocol.EntryAttemptFailed, protocol.EntryStepFailed}},
		{"terminal", 2, []*protocol.Failure{terminal}, []protocol.EntryKind{protocol.EntryStepFailed}},
		{"terminal later", 2, []*protocol.Failure{boom, terminal}, []protocol.EntryKind{protocol.EntryAttemptFailed, protocol.EntryStepFailed}},
		{"without limit", -1, []*protocol.Failure{boom, boom}, []protocol.EntryKind{protocol.EntryAttemptFailed, protocol.EntryAttemptFailed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, replayed := range []bool{false, true} {
				l := newLog(t)
				m := l.machine()
				config := protocol.StepConfig{Retries: tt.retries, Delay: protocol.Duration(time.Minute), Backoff: engine.BackoffLinear}
				s := must[*engine.Step](t)(m.Do(m.Root(), "x", config))
				now := noon
				var entries []protocol.Entry
				for i, f := range tt.failures {
					if n := m.Begin(s, now); n != i+1 {
						t.Fatalf("attempt %d has number %d", i+1, n)
					}
					until, again := failAttempt(m, s, f, now)
					last := i == len(tt.want)-1 && tt.want[i] == protocol.EntryStepFailed
					if again == last || s.Done != last {
						t.Fatalf("attempt %d: again %v, done %v", i+1, again, s.Done)
					}
					e, _ := m.Take()
					l.add(e...)
					entries = append(entries, e...)
					if last {
						break
					}
					if want := now.Add(time.Duration(i+1) * time.Minute); !until.Equal(want) {
						t.Fatalf("attempt %d: next at %v, want %v", i+1, until, want)
					}
					now = until
					if replayed { // by another config: the recorded one counts
						m = l.machine()
						s = must[*engine.Step](t)(m.Do(m.Root(), "x", protocol.StepConfig{Retries: 77}))
					}
					if s.Until == nil || m.Due(until.Add(-1)) != nil || m.Due(until) == nil || s.Until != nil {
						t.Fatalf("attempt %d: the next one may not begin at %v", i+1, until)
					}
				}
				wantKinds(t, entries, tt.want...)
				if m.Hard() != m.Position() {
					t.Error("the outcome of an attempt must be durable before the next one")
				}
			}
		})
	}
}

func TestFailureOfAStepIsReplayed(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	s := must[*engine.Step](t)(m.Do(m.Root(), "x", protocol.StepConfig{}))
	m.Begin(s, noon)
	failAttempt(m, s, &protocol.Failure{Name: "Boom", Message: "no"}, noon)
	l.take(m)
	m = l.machine()
	s = must[*engine.Step](t)(m.Do(m.Root(), "x", protocol.StepConfig{Retries: 5}))
	if !s.Done || s.Error == nil || s.Error.Name != "Boom" || s.Error.Message != "no" {
		t.Errorf("done %v with %v, want the recorded failure", s.Done, s.Error)
	}
}
