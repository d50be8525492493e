package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// TestMain lets the measurement start this binary as its server and runner.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "bench" {
		root := &cobra.Command{Use: "skein"}
		root.AddCommand(Command())
		if root.Execute() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(t.Output())
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestMeasure(t *testing.T) {
	for _, name := range []string{"latency", "throughput"} {
		t.Run(name, func(t *testing.T) {
			var r Report
			var out string
			for _, duration := range []string{"300ms", "3s", "30s"} { // on a busy machine nothing that began in time may end
				var err error
				if out, err = execute(t, name, "--duration", duration, "--warm-up", "100ms", "--output", "json", "--procs", "2"); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal([]byte(out), &r); err != nil {
					t.Fatalf("%v in %s", err, out)
				}
				if r.Completed > 0 {
					break
				}
			}
			if r.Benchmark != name || r.Completed == 0 || r.PerSecond <= 0 || r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.Procs != 2 {
				t.Errorf("the report is %s", out)
			}
			text, err := execute(t, name, "--duration", "100ms", "--warm-up", "0s")
			if err != nil || !strings.Contains(text, "completed/s") {
				t.Errorf("as text: %q, %v", text, err)
			}
		})
	}
}

func TestMeasureLong(t *testing.T) {
	out, err := execute(t, "long", "--steps", "20", "--waits", "20", "--output", "json", "--procs", "2")
	if err != nil {
		t.Fatal(err)
	}
	var r LongReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, list := range [][]Cost{r.Steps, r.Parks, r.ResumedSteps, r.ResumedParks} {
		if len(list) != 2 || list[0].At != 10 || list[1].At != 20 || list[0].Millis <= 0 || list[1].Millis <= 0 || list[0].Ratio <= 0 || list[1].Ratio <= 0 {
			t.Errorf("the report is %s", out)
		}
	}
	if r.Steps[0].Ratio != 1 || r.ResumedParks[0].Ratio != 1 {
		t.Errorf("the first ratio is not 1: %s", out)
	}
	var text bytes.Buffer
	if err := r.print(&text, "text"); err != nil || !strings.Contains(text.String(), "resumed after 20") {
		t.Errorf("as text: %q, %v", text.String(), err)
	}
}

func TestMeasureAgents(t *testing.T) {
	args := []string{"agents", "--calls", "10", "--active", "5", "--sleeping", "10", "--mail", "10", "--rounds", "1", "--absences", "0", "--settle", "10ms", "--procs", "2"}
	out, err := execute(t, append(args, "--output", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	var r AgentReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, f := range r.Figures {
		if f.Samples == 0 || f.Value <= 0 && f.Unit != "B" {
			t.Errorf("figure %+v", f)
		}
	}
	var text bytes.Buffer
	if err := r.print(&text, "text"); err != nil || len(r.Figures) != 17 || !strings.Contains(text.String(), "call through another host, state of 1 KiB, p50") {
		t.Errorf("%d figures, as text: %q, %v", len(r.Figures), text.String(), err)
	}
}

func TestMeasureSockets(t *testing.T) {
	args := []string{"sockets", "--calls", "5", "--idle", "20", "--audience", "10", "--turns", "3", "--storm", "20", "--idle-for", "0s", "--pause", "1ms",
		"--settle", "10ms", "--procs", "2"}
	out, err := execute(t, append(args, "--output", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	var r AgentReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	limited := 0
	for _, f := range r.Figures {
		if f.Samples == 0 || f.Value <= 0 && f.Unit != "kB" {
			t.Errorf("figure %+v", f)
		}
		if f.Limit > 0 {
			limited++
		}
	}
	var text bytes.Buffer
	if err := r.print(&text, "text"); err != nil || len(r.Figures) != 40 || limited != 10 || !strings.Contains(text.String(), "limit 0.6 ms") ||
		!strings.Contains(text.String(), "--equal-clients") {
		t.Errorf("%d figures, %d of them with limits, as text: %q, %v", len(r.Figures), limited, text.String(), err)
	}
}

func TestMeasureSchedules(t *testing.T) {
	args := []string{"schedules", "--armed", "20", "--rate", "10", "--turns", "5", "--restarts", "1", "--every", "1s", "--duration", "1s", "--idle-for", "100ms",
		"--settle", "10ms", "--procs", "2"}
	var out string
	for _, lead := range []string{"2s", "10s", "60s"} { // on a busy machine schedules may be armed too late
		var err error
		if out, err = execute(t, append(args, "--lead", lead, "--output", "json")...); err == nil {
			break
		}
		if !strings.Contains(err.Error(), "too late") || lead == "60s" {
			t.Fatal(err)
		}
	}
	var r AgentReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	limited := 0
	for _, f := range r.Figures {
		if f.Samples == 0 || f.Value <= 0 && !slices.Contains([]string{"B", "messages", "% of a CPU"}, f.Unit) {
			t.Errorf("figure %+v", f)
		}
		if f.Limit > 0 {
			limited++
		}
	}
	var text bytes.Buffer
	if err := r.print(&text, "text"); err != nil || len(r.Figures) != 24 || limited != 3 || !strings.Contains(text.String(), "limit 1500 ms") {
		t.Errorf("%d figures, %d of them with limits, as text: %q, %v", len(r.Figures), limited, text.String(), err)
	}
}

func TestMeasureRunners(t *testing.T) {
	out, err := execute(t, "runners", "--instances", "6", "--rounds", "0", "--fast-rounds", "1", "--fast", "5s", "--leaders", "0", "--burners", "1", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r AgentReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, f := range r.Figures {
		if f.Samples == 0 || f.Unit == "ms" && f.Value <= 500 { // less than a mark's time and the patience of who asks: nobody had to be killed for that
			t.Errorf("figure %+v", f)
		}
	}
	if len(r.Figures) != 8 || r.Figures[2].Limit != takenWithinFast {
		t.Errorf("the report is %s", out)
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	g, err := openGate("nats://" + server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	host, err := net.Dial("tcp", strings.TrimPrefix(g.url(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	behind, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	var got [2]byte
	for _, side := range [][2]net.Conn{{host, behind}, {behind, host}} {
		if _, err := side[0].Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(side[1], got[:]); err != nil || string(got[:]) != "hi" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	g.shut.Store(true)
	if _, err := host.Write([]byte("no")); err != nil {
		t.Errorf("the host is told that it is cut off: %v", err)
	}
	if err := behind.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := behind.Read(got[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("through the shut gate came %q, %v", got[:n], err)
	}
	if err := g.close(); err != nil {
		t.Error(err)
	}
	if err := host.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Read(got[:]); err == nil {
		t.Error("the gate is closed and its connections are not")
	}
}

func TestPoints(t *testing.T) {
	t.Parallel()
	for to, want := range map[int][]int{20: {10, 20}, 100: {10, 100}, 10_000: {10, 100, 1000, 10_000}} {
		if got := points(to); !slices.Equal(got, want) {
			t.Errorf("points to %d are %v, want %v", to, got, want)
		}
	}
	if got := typical([]int64{0, 5, 15, 18, 100}); got != 10 {
		t.Errorf("typical is %v, want 10ns", got)
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	each := []time.Duration{1 * time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond, 4 * time.Millisecond}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 4, 1: 4} {
		if got := quantile(each, q); got != want {
			t.Errorf("quantile %v is %v ms, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing is %v", got)
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, flag, value, want string }{
		{"no steps", "--steps", "0", "--steps: 0: allowed is 1 to 1000"},
		{"too many in flight", "--in-flight", "10001", "--in-flight: 10001: allowed is 1 to 10000"},
		{"no time", "--duration", "0s", "--duration: 0s: allowed is more than 0 and at most 1h"},
		{"negative warm-up", "--warm-up", "-1s", "--warm-up: -1s: allowed is 0 to 1h"},
		{"no threads", "--procs", "0", "--procs: 0: allowed is 1 to 1024"},
		{"unknown output", "--output", "xml", `--output: "xml": allowed is text or json`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := execute(t, "latency", tt.flag, tt.value); err == nil || err.Error() != tt.want {
				t.Errorf("error is %v, want %s", err, tt.want)
			}
		})
	}
	for flag, want := range map[string]string{
		"--steps=19": "--steps: 19: allowed is 20 to 50000", "--waits=50001": "--waits: 50001: allowed is 20 to 50000",
		"--procs=0": "--procs: 0: allowed is 1 to 1024", "--output=xml": `--output: "xml": allowed is text or json`,
	} {
		if _, err := execute(t, "long", flag); err == nil || err.Error() != want {
			t.Errorf("long: error is %v, want %s", err, want)
		}
	}
	for flag, want := range map[string]string{
		"--calls=0": "--calls: 0: allowed is 1 to 1000000", "--rounds=-1": "--rounds: -1: allowed is 0 to 1000", "--absences=-1": "--absences: -1: allowed is 0 to 1000",
		"--settle=2m": "--settle: 2m0s: allowed is 0s to 1m0s", "--output=xml": `--output: "xml": allowed is text or json`,
	} {
		if _, err := execute(t, "agents", flag); err == nil || err.Error() != want {
			t.Errorf("agents: error is %v, want %s", err, want)
		}
	}
	for flag, want := range map[string]string{
		"--audience=5001": "--audience: 5001: allowed is 1 to 5000", "--pause=-1s": "--pause: -1s: allowed is 0s to 2m0s",
		"--output=xml": `--output: "xml": allowed is text or json`,
	} {
		if _, err := execute(t, "sockets", flag); err == nil || err.Error() != want {
			t.Errorf("sockets: error is %v, want %s", err, want)
		}
	}
	for flag, want := range map[string]string{
		"--rate=0": "--rate: 0: allowed is 1 to 100000", "--every=999ms": "--every: 999ms: allowed is 1s to 1h0m0s", "--duration=999ms": "--duration: 999ms: allowed is 1s to 1h0m0s",
		"--output=xml": `--output: "xml": allowed is text or json`,
	} {
		if _, err := execute(t, "schedules", flag); err == nil || err.Error() != want {
			t.Errorf("schedules: error is %v, want %s", err, want)
		}
	}
}
