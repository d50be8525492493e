package history

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
)

// TestQuietRun: what a run without faults leaves behind is judged clean, whatever is planted into it is seen, and so is what is
// damaged in the streams.
func TestQuietRun(t *testing.T) {
	server := natstest.Start(t)
	rec, found := record(t, server)
	t.Logf("%v", found.Counts)
	for _, v := range found.Violations[:min(20, len(found.Violations))] {
		t.Errorf("%v", v)
		for _, line := range v.Around {
			t.Log("    ", line)
		}
	}
	for _, what := range []string{
		"calls answered", "rolled back", "large values", "moments fired", "agents", "lines that follow", "sockets", "frames to clients", "frames of clients",
		"entry deleted", "entry paused", "entry restarted", "entry timed-out", "executing of a few at most", "executing of a few in two shards",
		"instances in shard 0 of north", "instances in shard 0 of south", "instances in shard 1 of south", "instances in shard 2 of south",
	} {
		if found.Counts[what] == 0 {
			t.Errorf("nothing of this happened: %s", what)
		}
	}
	if t.Failed() {
		return
	}
	for _, p := range rec.Projects {
		sees(t, rec, p)
		damage(t, server, p)
	}
	excuses(t, rec)
	_, found, err := check(t.Context(), Options{NC: server.Connect(t), Notes: folder, Patience: time.Second, DoctorPatience: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range rec.Projects {
		for _, rule := range []Rule{Healthy, Registered, Announced} {
			if !slices.ContainsFunc(found.Violations, func(v Violation) bool { return v.Rule == rule && strings.Contains(v.Where, p) }) {
				t.Errorf("nobody has seen that this is broken in %s: %s; %v", p, rule, found.Violations)
			}
		}
	}
}

// excuses checks that a run is clean in the middle of which the clock of a server was put back, or forward, whatever streams that
// server led.
func excuses(t *testing.T, rec *Recorded) {
	t.Helper()
	for _, off := range []time.Duration{-10 * time.Second, 10 * time.Second} {
		for shard := range work.Shards(work.South) {
			skewed := copied(rec)
			for _, p := range rec.Projects {
				logs := skewed.Streams[protocol.WorkflowsStream(p, shard%work.Shards(p))]
				from, to := len(logs)/3, 2*len(logs)/3
				skewed.Clocks = append(skewed.Clocks, Clock{From: logs[from].Time, To: logs[to].Time, Off: off})
				for i := from; i < to; i++ {
					logs[i].Time = logs[i].Time.Add(off)
				}
			}
			for _, v := range Judge(skewed).Violations {
				t.Errorf("where the clock of the server that leads shard %d was off by %v: %v", shard, off, v)
			}
		}
	}
}

// TestRegisteredShards: a registry that knows of fewer shards than there are streams hides instances.
func TestRegisteredShards(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t, natstest.Start(t).Connect(t))
	if err := streams.EnsureProjects(t.Context(), js, streams.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	for project, registered := range map[string]int{work.North: 1, work.South: 2} {
		err := streams.EnsureWorkflows(t.Context(), js, project, work.Shards(project), streams.Options{Replicas: 1})
		if err == nil {
			_, err = streams.FixShards(t.Context(), js, project, registered)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c := checker{Options: Options{Projects: work.Projects()}, js: js}
	var found Report
	if err := c.registry(t.Context(), &found); err != nil {
		t.Fatal(err)
	}
	for _, project := range work.Projects() {
		seen := slices.ContainsFunc(found.Violations, func(v Violation) bool { return v.Where == project && strings.Contains(v.What, "shards are registered") })
		if seen != (project == work.South) {
			t.Errorf("the registry of %s lacks shards: %v; %v", project, seen, found.Violations)
		}
	}
}

// TestSkewOfServersThatAreLeft: a clock that was off by some time was ahead or behind, nobody knows.
func TestSkewOfServersThatAreLeft(t *testing.T) {
	t.Parallel()
	rec := Recorded{Clocks: clocks(3 * time.Second)}
	if ahead, behind := rec.off(time.Now()); ahead != 3*time.Second || behind != 3*time.Second {
		t.Errorf("a clock is ahead by %v or behind by %v", ahead, behind)
	}
}

// TestSkew: clocks excuse what was decided while they were off, by as much as they were, and nothing else.
func TestSkew(t *testing.T) {
	t.Parallel()
	at := func(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }
	rec := Recorded{Clocks: []Clock{{at(10), at(20), -3 * time.Second}, {at(15), at(30), time.Second}}}
	for _, test := range []struct {
		from, to int
		want     time.Duration
	}{{0, 6, 0}, {0, 7, 3 * time.Second}, {0, 12, 3 * time.Second}, {12, 13, 3 * time.Second}, {18, 40, 4 * time.Second}, {25, 26, time.Second}, {0, 59, 4 * time.Second}, {32, 59, 0}} {
		if got := rec.skew(at(test.from), at(test.to)); got != test.want {
			t.Errorf("skew from %d to %d = %v, want %v", test.from, test.to, got, test.want)
		}
	}
}
