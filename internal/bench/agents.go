package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/agent"
)

// meter is the measured agent.
type meter struct{ agent.Base[meterState] }

type meterState struct {
	N   int    `json:"n"`
	Pad string `json:"pad,omitempty"`
}

// Classes of the measured agents. Nappers leave memory soon.
const (
	meterClass  = "Meter"
	napperClass = "Napper"
	napAfter    = 100 * time.Millisecond
)

var (
	meters  = agent.Bind[*meter](meterClass)
	nappers = agent.Bind[*meter](napperClass)
)

func agentHost() *agent.HostService {
	factory := func() *meter { return &meter{} }
	look := agent.Reads((*meter).Look)
	return agent.Host(agent.Define(meterClass, factory, look, agent.IdleAfter(time.Hour)), agent.Define(napperClass, factory, look, agent.IdleAfter(napAfter)),
		hallOf(hallClass, time.Hour), hallOf(quietClass, napAfter), alarmsClass())
}

// Set stores another state of a size and returns how many there were.
func (m *meter) Set(ctx context.Context, size int) (int, error) {
	n := m.State().N + 1
	return n, m.SetState(ctx, meterState{N: n, Pad: strings.Repeat("x", size)})
}

// Count is mail. It may take some milliseconds.
func (m *meter) Count(ctx context.Context, millis int) error {
	select {
	case <-time.After(time.Duration(millis) * time.Millisecond):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return m.Update(ctx, func(s *meterState) error { s.N++; return nil })
}

// Look tells how many there were.
func (m *meter) Look(context.Context, struct{}) (int, error) { return m.State().N, nil }

// probe says whom to call how often, to have it store a state of a size.
type probe struct {
	To    string
	Times int
	Size  int
}

// Probe calls another agent and returns how long each call took.
func (m *meter) Probe(ctx context.Context, p probe) ([]time.Duration, error) {
	took := make([]time.Duration, 0, p.Times)
	for range p.Times {
		began := time.Now()
		if _, err := agent.Call(ctx, meters.Agent(p.To), (*meter).Set, p.Size); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// AgentReport is what users of agents feel.
type AgentReport struct {
	Benchmark string `json:"benchmark"`
	Setup     string `json:"setup"`
	// Notes say what one has to know to read the figures.
	Notes   string   `json:"notes,omitempty"`
	Go      string   `json:"go"`
	CPUs    int      `json:"cpus"`
	Procs   int      `json:"gomaxprocs"`
	Figures []Figure `json:"figures"`
}

// Figure is one measured value.
type Figure struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Samples int     `json:"samples"`
	// Limit is what the value should not be over; 0 if there is none.
	Limit float64 `json:"limit,omitempty"`
}

func (r *AgentReport) add(name string, value float64, unit string, samples int) {
	r.Figures = append(r.Figures, Figure{Name: name, Value: math.Round(value*1000) / 1000, Unit: unit, Samples: samples})
}

// limit sets that of the figure that was added last.
func (r *AgentReport) limit(value float64) { r.Figures[len(r.Figures)-1].Limit = value }

// times adds quantiles of durations.
func (r *AgentReport) times(name string, took []time.Duration, quantiles ...float64) {
	slices.Sort(took)
	for _, q := range quantiles {
		r.add(fmt.Sprintf("%s, p%g", name, 100*q), quantile(took, q), "ms", len(took))
	}
}

func (r AgentReport) print(w io.Writer, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "benchmark\t%s\n", r.Benchmark)
	fmt.Fprintf(t, "setup\t%s\n", r.Setup)
	if r.Notes != "" {
		fmt.Fprintf(t, "note\t%s\n", r.Notes)
	}
	fmt.Fprintf(t, "machine\t%d CPUs, GOMAXPROCS %d for each process, %s\n", r.CPUs, r.Procs, r.Go)
	for _, f := range r.Figures {
		limit := ""
		if f.Limit > 0 {
			limit = fmt.Sprintf("\tlimit %g %s", f.Limit, f.Unit)
		}
		fmt.Fprintf(t, "%s\t%.2f %s\t(%d)%s\n", f.Name, f.Value, f.Unit, f.Samples, limit)
	}
	return t.Flush()
}

// agentLoad says how much is measured.
type agentLoad struct {
	calls, active, sleeping, mail, rounds, absences, procs int
	settle                                                 time.Duration
}

func agentsCommand() *cobra.Command {
	var l agentLoad
	return measured{
		use: "agents", short: "Calls, mail, memory and take-overs of agents",
		procs: &l.procs, procsOf: "server, hosts and client",
		counts: []count{
			{"calls", &l.calls, 2000, 1, 1_000_000, "calls of each kind"},
			{"active", &l.active, 10_000, 1, 1_000_000, "agents that are in memory at a time"},
			{"sleeping", &l.sleeping, 100_000, 1, 10_000_000, "agents that are stored only"},
			{"mail", &l.mail, 5000, 1, 10_000, "messages to one agent"},
			{"rounds", &l.rounds, 10, 0, 1000, "hosts that are killed, and whose agents are called"},
			{"absences", &l.absences, 3, 0, 1000, "hosts that are killed with mail in their hands; as many are frozen, and cut off from the server"},
		},
		spans: []span{{"settle", &l.settle, 5 * time.Second, 0, time.Minute, "how long a process rests before its memory is measured"}},
		run:   func(ctx context.Context, p *processes) (AgentReport, error) { return l.run(ctx, p) },
	}.command()
}
