//go:build linux

package faults

import (
	"time"

	"github.com/skein-run/skein/test/lab/network"
	"github.com/skein-run/skein/test/lab/world"
)

// kinds are all kinds of faults.
var kinds = []kind{
	{"kill", 14, one(world.Server, world.Runner, world.Runner, world.Host, world.Host, world.Scheduler), (*inflicter).kill},
	{"kill several", 5, several, (*inflicter).kill},
	{"kill all of a kind", 4, allOfAKind, (*inflicter).kill},
	{"freeze shortly", 6, frozen(300*time.Millisecond, 3*time.Second), (*inflicter).freeze},
	{"freeze for long", 6, frozen(6*time.Second, 14*time.Second), (*inflicter).freeze},
	{"freeze several", 3, frozenTogether, (*inflicter).freeze},
	{"restart", 8, one(world.Server, world.Runner, world.Host, world.Scheduler), (*inflicter).restart},
	{"rolling restart", 3, rolling, (*inflicter).roll},
	{"kill the leader of a stream", 4, leader, (*inflicter).killLeader},
	{"step down the leader of a stream", 6, leader, (*inflicter).stepDown},
	{"power-off", 5, powerOff, (*inflicter).losePower},
	{"power-off of all servers", 2, powerOffOfAll, (*inflicter).losePower},
	{"full disk", 3, fullDisk, (*inflicter).fillDisk},
	{"clock step", 8, clockStep, (*inflicter).stepClock},
	{"isolate a machine", 6, isolate, (*inflicter).disturb},
	{"cut some from all servers", 4, cutFromServers, (*inflicter).disturb},
	{"cut two servers from each other", 4, cutTwo, (*inflicter).disturb},
	{"cut one way", 4, cutOneWay, (*inflicter).disturb},
	{"split in two", 3, split, (*inflicter).disturb},
	{"cut clients", 3, cutClients, (*inflicter).disturb},
	{"delay", 5, delay, (*inflicter).disturb},
	{"loss", 5, loss, (*inflicter).disturb},
	{"thin line", 3, thin, (*inflicter).disturb},
}

// Times that faults last, unless they say otherwise. Leases and ack_wait are 5 s.
const (
	shortest = 500 * time.Millisecond
	longest  = 9 * time.Second
)

func one(choice ...world.Kind) func(d *dice, f *Fault) {
	return func(d *dice, f *Fault) {
		f.Targets = d.some(1, d.processes(choice[d.IntN(len(choice))]))
		f.For = d.between(shortest, longest)
	}
}

func several(d *dice, f *Fault) {
	f.Targets = d.some(2+d.IntN(3), d.processes())
	f.For = d.between(shortest, longest)
}

func allOfAKind(d *dice, f *Fault) {
	f.Targets = d.processes(d.anyKind())
	f.For = d.between(shortest, longest)
}

func frozen(least, most time.Duration) func(d *dice, f *Fault) {
	return func(d *dice, f *Fault) {
		f.Targets = d.some(1, d.processes(d.anyKind()))
		f.For = d.between(least, most)
	}
}

func frozenTogether(d *dice, f *Fault) {
	f.Targets = d.some(2+d.IntN(2), d.processes())
	f.For = d.between(time.Second, 10*time.Second)
}

func rolling(d *dice, f *Fault) { f.Targets = d.processes(d.anyKind()) }

// leaders are what streams are meant.
func leader(d *dice, f *Fault) {
	f.Targets = []string{d.streams()[d.IntN(len(d.streams()))]}
	f.For = d.between(shortest, longest)
}

func powerOff(d *dice, f *Fault) {
	f.Targets = d.some(1, d.processes(world.Server))
	f.For = d.between(shortest, longest)
}

func powerOffOfAll(d *dice, f *Fault) {
	f.Targets = d.processes(world.Server)
	f.For = d.between(shortest, 5*time.Second)
}

func fullDisk(d *dice, f *Fault) {
	f.Targets = d.some(1, d.processes(world.Server))
	f.For = d.between(2*time.Second, longest)
}

// MaxSkew is the most that a clock is put off.
const MaxSkew = 30 * time.Second

func clockStep(d *dice, f *Fault) {
	f.Targets = d.some(1+d.IntN(2), d.machines())
	f.Offset = d.between(100*time.Millisecond, 2*time.Second)
	if d.IntN(2) == 0 {
		f.Offset = d.between(2*time.Second, MaxSkew)
	}
	if d.IntN(2) == 0 {
		f.Offset = -f.Offset
	}
	f.For = d.between(2*time.Second, 15*time.Second)
}

// others are all machines but some.
func (d *dice) others(names []string) []string {
	var others []string
	for _, name := range append(d.machines(), world.Lab) {
		if !contains(names, name) {
			others = append(others, name)
		}
	}
	return others
}

func isolate(d *dice, f *Fault) {
	f.Targets = d.some(1, d.machines())
	f.For = d.between(time.Second, 12*time.Second)
	f.rule = &network.Rule{From: f.Targets, To: d.others(f.Targets), BothWays: true, Drop: 1}
}

func cutFromServers(d *dice, f *Fault) {
	f.Targets = d.some(1+d.IntN(3), d.machines(world.Runner, world.Host, world.Scheduler))
	f.For = d.between(time.Second, 12*time.Second)
	f.rule = &network.Rule{From: f.Targets, To: d.machines(world.Server), BothWays: d.IntN(3) > 0, Drop: 1}
	if !f.rule.BothWays && d.IntN(2) == 0 {
		f.rule.From, f.rule.To = f.rule.To, f.rule.From
	}
}

func cutTwo(d *dice, f *Fault) {
	f.Targets = d.some(2, d.machines(world.Server))
	f.For = d.between(time.Second, 12*time.Second)
	f.rule = &network.Rule{From: f.Targets[:1], To: f.Targets[1:], BothWays: true, Drop: 1}
}

func cutOneWay(d *dice, f *Fault) {
	servers := d.some(3, d.machines(world.Server))
	f.Targets = servers[:1]
	f.For = d.between(time.Second, 12*time.Second)
	f.rule = &network.Rule{From: servers[:1], To: servers[1 : 2+d.IntN(2)], Drop: 1}
	if d.IntN(2) == 0 {
		f.rule.From, f.rule.To = f.rule.To, f.rule.From
	}
}

func split(d *dice, f *Fault) {
	f.Targets = append(d.some(1, d.machines(world.Server)), d.some(1+d.IntN(4), d.machines(world.Runner, world.Host, world.Scheduler))...)
	f.For = d.between(time.Second, 12*time.Second)
	f.rule = &network.Rule{From: f.Targets, To: d.others(f.Targets), BothWays: true, Drop: 1}
}

// cutClients cuts the clients from all servers, or from the agent hosts, or from both.
func cutClients(d *dice, f *Fault) {
	f.Targets = []string{world.Lab}
	f.For = d.between(time.Second, 8*time.Second)
	to := [][]string{d.machines(world.Server), d.machines(world.Host), d.machines(world.Server, world.Host)}
	f.rule = &network.Rule{From: f.Targets, To: to[d.IntN(len(to))], BothWays: true, Drop: 1}
}

func delay(d *dice, f *Fault) {
	f.Targets = d.some(1+d.IntN(2), d.machines())
	f.For = d.between(2*time.Second, 12*time.Second)
	f.rule = &network.Rule{
		From: f.Targets, To: d.others(f.Targets), BothWays: true,
		Delay: d.between(5*time.Millisecond, 250*time.Millisecond), Jitter: d.between(5*time.Millisecond, 250*time.Millisecond),
	}
}

func loss(d *dice, f *Fault) {
	f.Targets = d.some(1+d.IntN(2), d.machines())
	f.For = d.between(2*time.Second, 12*time.Second)
	f.rule = &network.Rule{
		From: f.Targets, To: d.others(f.Targets), BothWays: true, Drop: 0.01 + 0.2*d.Float64(), Duplicate: 0.1 * d.Float64(),
		Reorder: 0.3 * d.Float64(), Delay: time.Millisecond, Jitter: 20 * time.Millisecond,
	}
}

func thin(d *dice, f *Fault) {
	f.Targets = d.some(1, d.machines(world.Server))
	f.For = d.between(2*time.Second, 12*time.Second)
	f.rule = &network.Rule{From: f.Targets, To: d.others(f.Targets), BothWays: true, Rate: 100_000 + d.IntN(400_000)}
}
