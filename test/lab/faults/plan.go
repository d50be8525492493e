//go:build linux

// Package faults breaks the machines of the fault lab by a plan that a seed decides, mends them again, and brings evidence of each
// fault that it really happened. It must never break more than docs/guarantees.md promises to survive: no disk is ever lost, only
// what was not synced.
package faults

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/test/lab/network"
	"github.com/skein-run/skein/test/lab/world"
)

// Fault is one thing that is planned to break.
type Fault struct {
	Number int    `json:"fault"`
	Kind   string `json:"kind"`
	// Targets are names of processes or machines, or what is looked up when it happens, as the leader of a stream.
	Targets []string `json:"targets"`
	// At is when it begins, after the first one could; For is how long until it is mended.
	At  time.Duration `json:"at_ns"`
	For time.Duration `json:"for_ns"`
	// Offset of the clock.
	Offset time.Duration `json:"offset_ns,omitempty"`
	rule   *network.Rule
}

func (f Fault) String() string {
	text := fmt.Sprintf("%s of %s for %v", f.Kind, strings.Join(f.Targets, ", "), f.For)
	if f.Offset != 0 {
		text += fmt.Sprintf(" by %v", f.Offset)
	}
	return text
}

// kind is a kind of faults.
type kind struct {
	name string
	// share of all faults.
	share int
	draw  func(d *dice, f *Fault)
	do    func(in *inflicter, f Fault) error
}

// dice decides.
type dice struct {
	*rand.Rand
	w *world.World
}

// between draws a duration, in steps of 10 ms.
func (d *dice) between(least, most time.Duration) time.Duration {
	return (least + time.Duration(d.Int64N(int64(most-least)))).Round(10 * time.Millisecond)
}

// some draws count of the names.
func (d *dice) some(count int, names []string) []string {
	names = slices.Clone(names)
	d.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(count, len(names))]
}

func (d *dice) processes(kinds ...world.Kind) []string {
	var names []string
	for _, p := range d.w.Processes(kinds...) {
		names = append(names, p.Name)
	}
	return names
}

// machines are those of processes of these kinds.
func (d *dice) machines(kinds ...world.Kind) []string {
	var names []string
	for _, p := range d.w.Processes(kinds...) {
		names = append(names, p.Machine.Name)
	}
	return slices.Compact(names)
}

// anyKind draws a kind of processes.
func (d *dice) anyKind() world.Kind {
	all := []world.Kind{world.Server, world.Runner, world.Runner, world.Host, world.Host, world.Scheduler}
	return all[d.IntN(len(all))]
}

// Kinds are the names of all kinds of faults.
func Kinds() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// Plan decides on so many faults within a time, by the seed alone. If there are enough, each kind is among them, but for those that
// are left out.
func Plan(w *world.World, seed uint64, count int, over time.Duration, without ...string) []Fault {
	d := &dice{rand.New(rand.NewPCG(seed, 0)), w}
	kinds := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return slices.Contains(without, k.name) })
	var faults []Fault
	for n := range count {
		k := pick(d, kinds)
		if n < len(kinds) {
			k = kinds[n]
		}
		f := Fault{Kind: k.name, At: time.Duration(d.Int64N(int64(max(1, over)))).Round(10 * time.Millisecond)}
		k.draw(d, &f)
		faults = append(faults, f)
	}
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	for n := range faults {
		faults[n].Number = n + 1
	}
	return faults
}

// pick draws a kind by its share.
func pick(d *dice, kinds []kind) kind {
	total := 0
	for _, k := range kinds {
		total += k.share
	}
	n := d.IntN(total)
	for _, k := range kinds {
		if n -= k.share; n < 0 {
			return k
		}
	}
	return kinds[0]
}
