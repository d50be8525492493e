//go:build linux

// Package world has the machines of the fault lab, each with a network, a clock and, if a NATS server is on it, a disk of its own, and
// the processes on them. What is broken there is decided by package faults. It must never touch anything of the machine that it runs on:
// its own process is in a network and with mounts of its own.
package world

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/test/lab/clock"
	"github.com/skein-run/skein/test/lab/disk"
	"github.com/skein-run/skein/test/lab/network"
)

// Lab is the name of the machine that clients run on: the lab's own process.
const Lab = "lab"

// Options are what a World is made of. All are needed.
type Options struct {
	// Dir takes programs, logs, disks and clocks.
	Dir string
	// Configs has the skein.jsonc of each project.
	Configs map[string]string
	// Env is what runners and hosts get besides.
	Env []string
	// Seed decides what the network leaves to chance.
	Seed     uint64
	LogLevel string
	Log      *slog.Logger
}

// Machine is a machine with its processes.
type Machine struct {
	Name string
	// Disk is that of a NATS server, nil on other machines.
	Disk      *disk.Disk
	Processes []*Process
	host      byte
	net       *network.Namespace
}

// Address of the machine.
func (m *Machine) Address() string { return fmt.Sprintf("10.77.0.%d", m.host) }

// SetClock puts the clock of a machine off by that much; 0 puts it right.
func (m *Machine) SetClock(offset time.Duration) {
	for _, p := range m.Processes {
		p.Clock.Set(offset)
	}
}

// World is all machines.
type World struct {
	Options
	Switch   *network.Switch
	Machines []*Machine
	own      *network.Namespace
}

// Places of the machines: the last byte of their addresses.
const (
	firstServer, firstHost, firstRunner, firstScheduler = 11, 21, 31, 41
	ownPlace                                            = 1
)

// How many machines there are of each kind.
const (
	servers, hosts, runners, schedulers = 3, 2, 3, 2
)

// doctorEvery is how often schedulers look whether instances have what they need to go on: often enough that a run sees them heal.
const doctorEvery = "1m"

// Ports of the processes.
const (
	natsPort, natsMonitorPort, natsClusterPort = 4222, 8222, 6222
	healthPort, httpPort                       = 8080, 8700
)

// New makes the machines. Nothing runs on them yet.
func New(o Options) (*World, error) {
	w := &World{Options: o, Switch: network.NewSwitch(o.Seed)}
	for _, folder := range []string{"logs", "clocks", "disks", "nats"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, folder), 0o755); err != nil {
			return nil, err
		}
	}
	if err := w.plugInLab(); err != nil {
		return nil, err
	}
	for _, row := range []struct {
		kind         string
		count, first int
		furnish      func(m *Machine, n int) error
	}{
		{"nats", servers, firstServer, w.furnishServer},
		{"host", hosts, firstHost, w.furnishHost},
		{"runner", runners, firstRunner, w.furnishRunner},
		{"scheduler", schedulers, firstScheduler, w.furnishScheduler},
	} {
		for n := range row.count {
			m, err := w.machine(fmt.Sprintf("%s-%d", row.kind, n+1), byte(row.first+n))
			if err == nil {
				err = row.furnish(m, n)
			}
			if err != nil {
				return nil, errors.Join(err, w.Close())
			}
		}
	}
	return w, nil
}

// plugInLab gives the lab's own process a place on the switch.
func (w *World) plugInLab() error {
	own, err := network.Own()
	if err != nil {
		return err
	}
	w.own = own
	device, err := own.OpenTUN(ownPlace)
	if err != nil {
		return fmt.Errorf("connect the lab: %w", err)
	}
	return w.Switch.Plug(Lab, ownPlace, device)
}

func (w *World) machine(name string, host byte) (*Machine, error) {
	m := &Machine{Name: name, host: host}
	w.Machines = append(w.Machines, m)
	var err error
	if m.net, err = network.NewNamespace(); err != nil {
		return nil, err
	}
	device, err := m.net.OpenTUN(host)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	return m, w.Switch.Plug(name, host, device)
}

// add puts a process on a machine.
func (w *World) add(m *Machine, kind Kind, name, ready string, env []string, args ...string) error {
	c, err := clock.New(filepath.Join(w.Dir, "clocks", name))
	if err != nil {
		return err
	}
	m.Processes = append(m.Processes, &Process{
		Name: name, Kind: kind, Machine: m, Clock: c, args: args, env: env, ready: ready, log: filepath.Join(w.Dir, "logs", name+".log"),
	})
	return nil
}

func (w *World) program(name string) string { return filepath.Join(w.Dir, "bin", name) }

// URL lists the NATS servers.
func (w *World) URL() string {
	var urls []string
	for n := range servers {
		urls = append(urls, fmt.Sprintf("nats://10.77.0.%d:%d", firstServer+n, natsPort))
	}
	return strings.Join(urls, ",")
}

// furnishServer puts a NATS server on a machine that writes before it acknowledges.
func (w *World) furnishServer(m *Machine, n int) (err error) {
	if m.Disk, err = disk.New(filepath.Join(w.Dir, "disks", m.Name)); err != nil {
		return err
	}
	var routes []string
	for other := range servers {
		if other != n {
			routes = append(routes, fmt.Sprintf("%q", fmt.Sprintf("nats-route://10.77.0.%d:%d", firstServer+other, natsClusterPort)))
		}
	}
	config := fmt.Sprintf(serverConfig, m.Name, natsPort, natsMonitorPort, m.Disk.Path, natsClusterPort, strings.Join(routes, ", "))
	path := filepath.Join(w.Dir, "nats", m.Name+".conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return err
	}
	ready := fmt.Sprintf("http://%s:%d/healthz", m.Address(), natsMonitorPort)
	return w.add(m, Server, m.Name, ready, nil, w.program(natsProgram), "-c", path)
}

// serverConfig says what `skein auth` says, besides users and certificates.
const serverConfig = `server_name: %q
port: %d
http_port: %d
ping_interval: "2s"
ping_max: 2
jetstream { store_dir: %q, sync_interval: always, max_memory_store: 1GB, max_file_store: 50GB }
cluster { name: lab, port: %d, routes: [ %s ] }
system_account: SYS
no_auth_user: lab
accounts {
  SYS { exports: [ { service: "$SYS.REQ.SERVER.PING.VARZ", response_type: stream, accounts: [ LAB ] } ] }
  LAB {
    jetstream: enabled
    imports: [ { service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.VARZ" } } ]
    users: [ { user: lab, password: lab } ]
  }
}
`

// common are the settings of all processes of Skein on a machine, of which this is the n-th one.
func (w *World) common(m *Machine, n int) (ready string, args []string) {
	address := fmt.Sprintf("%s:%d", m.Address(), healthPort+n)
	return "http://" + address + "/readyz", []string{
		"--nats-url", w.URL(), "--replicas", "3", "--production", "--health-addr", address, "--log-level", w.LogLevel,
	}
}

// Projects are the names of the projects, sorted.
func (w *World) Projects() []string {
	var names []string
	for name := range w.Configs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// furnishHost puts an agent host of each project on a machine.
func (w *World) furnishHost(m *Machine, _ int) error {
	for i, name := range w.Projects() {
		ready, args := w.common(m, i)
		args = append([]string{
			w.program(nodeProgram), "host", "--config", w.Configs[name], "--http-addr", fmt.Sprintf("%s:%d", m.Address(), httpPort+i),
			"--http-drain", "1s",
		}, args...)
		if err := w.add(m, Host, m.Name+"."+name, ready, w.Env, args...); err != nil {
			return err
		}
	}
	return nil
}

// furnishRunner puts runners on a machine: the first has one of the first project, the last one of the last project, those between both.
func (w *World) furnishRunner(m *Machine, n int) error {
	names := w.Projects()
	switch n {
	case 0:
		names = names[:1]
	case runners - 1:
		names = names[len(names)-1:]
	}
	for i, name := range names {
		ready, args := w.common(m, i)
		args = append([]string{w.program(nodeProgram), "runner", "--config", w.Configs[name]}, args...)
		if err := w.add(m, Runner, m.Name+"."+name, ready, w.Env, args...); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) furnishScheduler(m *Machine, _ int) error {
	ready, args := w.common(m, 0)
	return w.add(m, Scheduler, m.Name, ready, nil, append([]string{w.program(schedulerProgram), "--doctor-every", doctorEvery}, args...)...)
}

// Hosts are the addresses of the agent hosts of a project.
func (w *World) Hosts(project string) []string {
	var urls []string
	i := slices.Index(w.Projects(), project)
	for n := range hosts {
		urls = append(urls, fmt.Sprintf("http://10.77.0.%d:%d", firstHost+n, httpPort+i))
	}
	return urls
}

// Processes are all processes of some kinds; of all kinds if none is named. NATS servers come first.
func (w *World) Processes(kinds ...Kind) []*Process {
	var all []*Process
	for _, m := range w.Machines {
		for _, p := range m.Processes {
			if len(kinds) == 0 || slices.Contains(kinds, p.Kind) {
				all = append(all, p)
			}
		}
	}
	return all
}

// Machine is the machine of that name, or nil.
func (w *World) Machine(name string) *Machine {
	if i := slices.IndexFunc(w.Machines, func(m *Machine) bool { return m.Name == name }); i >= 0 {
		return w.Machines[i]
	}
	return nil
}

// Up starts what does not run, the servers first, and waits until everything takes work.
func (w *World) Up(ctx context.Context) error {
	for _, kinds := range [][]Kind{{Server}, {Runner, Host, Scheduler}} {
		if err := w.Start(kinds...); err != nil {
			return err
		}
		if err := w.AwaitReady(ctx, kinds...); err != nil {
			return err
		}
	}
	return nil
}

// Start starts what does not run of some kinds; of all kinds if none is named.
func (w *World) Start(kinds ...Kind) error {
	for _, p := range w.Processes(kinds...) {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return nil
}

// AwaitReady waits until all processes of some kinds take work.
func (w *World) AwaitReady(ctx context.Context, kinds ...Kind) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range w.Processes(kinds...) {
		group.Go(func() error { return p.AwaitReady(ctx) })
	}
	return group.Wait()
}

// Close ends all processes and takes the machines apart.
func (w *World) Close() error {
	var errs error
	for _, p := range w.Processes() {
		if p.Pid() == 0 {
			p.current(false)
			continue
		}
		if _, err := p.Kill(context.Background()); err != nil && !errors.Is(err, ErrNotRunning) {
			errs = errors.Join(errs, err)
		}
	}
	for _, m := range w.Machines {
		if m.Disk != nil {
			errs = errors.Join(errs, m.Disk.Close())
		}
		for _, p := range m.Processes {
			errs = errors.Join(errs, p.Clock.Close())
		}
	}
	w.Switch.Close()
	for _, m := range w.Machines {
		if m.net != nil {
			errs = errors.Join(errs, m.net.Close())
		}
	}
	return cmp.Or(errs, w.own.Close())
}
