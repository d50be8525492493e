//go:build linux

package faults

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
	"github.com/skein-run/skein/test/lab/world"
)

// machines is a world in which nothing runs.
func machines() *world.World {
	w := &world.World{}
	add := func(machine string, kind world.Kind, processes ...string) {
		m := &world.Machine{Name: machine}
		for _, name := range processes {
			m.Processes = append(m.Processes, &world.Process{Name: name, Kind: kind, Machine: m})
		}
		w.Machines = append(w.Machines, m)
	}
	add("nats-1", world.Server, "nats-1")
	add("nats-2", world.Server, "nats-2")
	add("nats-3", world.Server, "nats-3")
	add("host-1", world.Host, "host-1.a", "host-1.b")
	add("host-2", world.Host, "host-2.a", "host-2.b")
	add("runner-1", world.Runner, "runner-1.a")
	add("runner-2", world.Runner, "runner-2.a")
	add("scheduler-1", world.Scheduler, "scheduler-1")
	w.Configs = map[string]string{"a": "", "b": ""}
	return w
}

// TestPlan: a seed decides on everything, another one on something else, and each kind of fault is there.
func TestPlan(t *testing.T) {
	t.Parallel()
	const over = 5 * time.Minute
	w := machines()
	plan := Plan(w, 1, 100, over)
	if !reflect.DeepEqual(plan, Plan(w, 1, 100, over)) {
		t.Error("the same seed has made another plan")
	}
	if reflect.DeepEqual(plan, Plan(w, 2, 100, over)) {
		t.Error("another seed has made the same plan")
	}
	for _, kind := range Kinds() {
		if !slices.ContainsFunc(plan, func(f Fault) bool { return f.Kind == kind }) {
			t.Errorf("no fault is %q", kind)
		}
	}
	without := "power-off of all servers"
	if slices.ContainsFunc(Plan(w, 1, 300, over, without), func(f Fault) bool { return f.Kind == without }) {
		t.Errorf("a fault is %q, which was to be left out", without)
	}
	for n, f := range plan {
		if f.Number != n+1 || f.At < 0 || f.At > over || f.For > time.Minute || len(f.Targets) == 0 || f.Offset.Abs() > MaxSkew {
			t.Errorf("fault %d is %+v", n+1, f)
		}
		if n > 0 && f.At < plan[n-1].At {
			t.Errorf("fault %d comes before the one before it", n+1)
		}
	}
}

// TestPlanKeepsDisks: power is lost by servers only, whose disks are modelled.
func TestPlanKeepsDisks(t *testing.T) {
	t.Parallel()
	for _, f := range Plan(machines(), 3, 500, time.Minute) {
		if f.Kind != "power-off" && f.Kind != "power-off of all servers" && f.Kind != "full disk" {
			continue
		}
		for _, target := range f.Targets {
			if !slices.Contains([]string{"nats-1", "nats-2", "nats-3"}, target) {
				t.Errorf("%v: %s has no disk", f, target)
			}
		}
	}
}

// TestPlanMeansAllShards: the stream of each shard may lose its leader.
func TestPlanMeansAllShards(t *testing.T) {
	t.Parallel()
	w := machines()
	w.Configs = map[string]string{work.North: "", work.South: ""}
	plan := Plan(w, 1, 2000, time.Minute)
	for _, project := range work.Projects() {
		for shard := range work.Shards(project) {
			stream := protocol.WorkflowsStream(project, shard)
			if !slices.ContainsFunc(plan, func(f Fault) bool { return slices.Contains(f.Targets, stream) }) {
				t.Errorf("no fault is meant for the leader of %s", stream)
			}
		}
	}
}

// TestClaims: what two faults want is broken by one after the other.
func TestClaims(t *testing.T) {
	t.Parallel()
	in := &Injector{claimed: map[string]bool{}, changed: make(chan struct{})}
	release := in.claim([]string{"a", "b"})
	got := make(chan func())
	go func() { got <- in.claim([]string{"b", "c"}) }()
	in.claim([]string{"d"})()
	select {
	case <-got:
		t.Fatal("b was claimed twice")
	default:
	}
	release()
	(<-got)()
}
