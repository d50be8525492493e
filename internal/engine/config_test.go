package engine_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestConfigIsRecordedOnce looks at which entry says how a step is tried: the first that is stored, if it must.
func TestConfigIsRecordedOnce(t *testing.T) {
	t.Parallel()
	other := protocol.DefaultStep()
	other.Retries = 7
	boom := &protocol.Failure{Name: "Boom"}
	tests := []struct {
		name   string
		config protocol.StepConfig
		cut    bool // an append between the start and the outcome
		fails  int
		want   []bool // which entries say it
	}{
		{"default", protocol.DefaultStep(), false, 1, []bool{false, false}},
		{"default, start stored", protocol.DefaultStep(), true, 0, []bool{false, false}},
		{"completed at once", other, false, 0, []bool{true}},
		{"completed later", other, true, 0, []bool{true, false}},
		{"failed at once, completed at once", other, false, 1, []bool{true, false}},
		{"failed later", other, true, 1, []bool{true, false, false, false}},
		{"failed twice", other, false, 2, []bool{true, false, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			m := l.machine()
			var got []bool
			take := func() {
				entries, _ := m.Take()
				l.add(entries...)
				for _, e := range entries {
					got = append(got, e.Config != nil)
					if e.Config != nil && *e.Config != tt.config {
						t.Errorf("%s says %+v, want %+v", e.Kind, *e.Config, tt.config)
					}
				}
			}
			s := must[*engine.Step](t)(m.Do(m.Root(), "x", tt.config))
			for n := range tt.fails + 1 {
				m.Begin(s, noon)
				if tt.cut {
					take()
				}
				if n == tt.fails {
					m.Complete(s, nil, noon)
				} else {
					failAttempt(m, s, boom, noon)
					m.Due(noon.Add(time.Hour))
				}
				take()
			}
			if jsonOf(t, got) != jsonOf(t, tt.want) {
				t.Errorf("config on entries: %v, want %v", got, tt.want)
			}
			m = l.machine() // code with other options takes over
			if s := must[*engine.Step](t)(m.Do(m.Root(), "x", protocol.StepConfig{Retries: 99})); *s.Config != tt.config {
				t.Errorf("replayed with %+v, want what was recorded", *s.Config)
			}
		})
	}
}

// TestOtherCodeGoesByTheRecord: an attempt under way was begun with the options of its time, whatever they say now.
func TestOtherCodeGoesByTheRecord(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	m.Begin(must[*engine.Step](t)(m.Do(m.Root(), "x", protocol.DefaultStep())), noon)
	l.take(m)
	m = l.lost()
	s := must[*engine.Step](t)(m.Do(m.Root(), "x", protocol.StepConfig{Retries: 0, Sensitive: true}))
	if *s.Config != protocol.DefaultStep() {
		t.Errorf("goes on with %+v, want the default, which is what a step without a config has", *s.Config)
	}
	m.Begin(s, noon)
	m.Complete(s, json.RawMessage(`1`), noon)
	entries, _ := m.Take()
	for _, e := range entries {
		if e.Config != nil {
			t.Errorf("%s says %+v", e.Kind, *e.Config)
		}
	}
}

func TestSensitiveResultsAreNotShown(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	config := protocol.DefaultStep()
	config.Sensitive = true
	for _, name := range []string{"secret", "open"} {
		s := must[*engine.Step](t)(m.Do(m.Root(), name, config))
		m.Begin(s, noon)
		m.Heartbeat(s, json.RawMessage(`"half of it"`), noon)
		l.take(m)
		m.Complete(s, json.RawMessage(`"all of it"`), noon)
		config.Sensitive = false
	}
	l.take(m)
	steps := l.history().Status().Steps
	if string(steps[0].Output) != protocol.Redacted || string(steps[0].Heartbeat) != protocol.Redacted {
		t.Errorf("shown is %s, and before %s", steps[0].Output, steps[0].Heartbeat)
	}
	if string(steps[1].Output) != `"all of it"` || string(steps[1].Heartbeat) != `"half of it"` {
		t.Errorf("of a step that is not sensitive %s is shown, and before %s", steps[1].Output, steps[1].Heartbeat)
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	second := protocol.Duration(time.Second)
	tests := []struct {
		name           string
		config         protocol.StepConfig
		shortest, most time.Duration
	}{
		{"none", protocol.StepConfig{Delay: second}, time.Second, time.Second},
		{"a fifth", protocol.StepConfig{Delay: second, Jitter: 0.2}, 800 * time.Millisecond, 1200 * time.Millisecond},
		{"all of it", protocol.StepConfig{Delay: second, Jitter: 1}, 0, 2 * time.Second},
		{"at the cap", protocol.StepConfig{Delay: second, Jitter: 0.5, MaxDelay: second}, 500 * time.Millisecond, time.Second},
		{"of the longest wait", protocol.StepConfig{Delay: protocol.Duration(engine.MaxWait), Jitter: 0.5}, engine.MaxWait / 2, engine.MaxWait},
		{"of nothing", protocol.StepConfig{Jitter: 1}, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(1, 2))
			low, high := engine.MaxWait, time.Duration(0)
			for range 2000 {
				d := engine.Delay(tt.config, 1, r.Float64())
				low, high = min(low, d), max(high, d)
			}
			span := tt.most - tt.shortest
			if low < tt.shortest || high > tt.most {
				t.Errorf("delays from %v to %v, want %v to %v", low, high, tt.shortest, tt.most)
			}
			if low > tt.shortest+span/20 || high < tt.most-span/20 {
				t.Errorf("delays from %v to %v, want all of %v to %v", low, high, tt.shortest, tt.most)
			}
		})
	}
}
