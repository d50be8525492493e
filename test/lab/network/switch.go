// Package network is the network of the lab's machines: a namespace each, and a switch that hands their packets on, or does to
// them what networks do: lose, delay, double and overtake them, each way between each two of them by itself. It must never touch the
// network of the machine that it runs on.
package network

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MTU is the most that a packet may have, in bytes. Large packets cost the switch less per byte.
const MTU = 32 << 10

// maxMachines of a switch.
const maxMachines = 64

// queued is how many packets may wait on one link for their time. More are lost, as in any switch.
const queued = 2000

// Switch connects machines. Each is plugged in by a file of IPv4 packets.
type Switch struct {
	seed uint64
	wait sync.WaitGroup
	stop chan struct{}
	// links has what is done to packets from a machine to another.
	links [maxMachines][maxMachines]link

	mu    sync.Mutex // guards what follows
	names []string
	ports [256]atomic.Pointer[port]
	rules []*Rule
}

type port struct {
	index int
	file  io.ReadWriteCloser
}

type link struct {
	rules atomic.Pointer[[]*Rule]
	queue chan parcel
	once  sync.Once
}

// parcel is a packet that is under way.
type parcel struct {
	due    time.Time
	packet []byte
	to     *port
}

// NewSwitch returns a switch. What it leaves to chance is decided by the seed.
func NewSwitch(seed uint64) *Switch { return &Switch{seed: seed, stop: make(chan struct{})} }

// Plug connects a machine of that name, whose address ends with the byte host. The switch closes the file.
func (s *Switch) Plug(name string, host byte, file io.ReadWriteCloser) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) == maxMachines || slices.Contains(s.names, name) || s.ports[host].Load() != nil {
		return fmt.Errorf("plug in %s as %d: there is one already, or no room", name, host)
	}
	p := &port{index: len(s.names), file: file}
	s.names = append(s.names, name)
	s.ports[host].Store(p)
	s.wait.Go(func() { s.forward(p) })
	return nil
}

// Close unplugs all machines.
func (s *Switch) Close() {
	close(s.stop)
	for i := range s.ports {
		if p := s.ports[i].Load(); p != nil {
			_ = p.file.Close() // nobody is left to miss it
		}
	}
	s.wait.Wait()
}

// Where a packet of IPv4 says its version, and the last byte of where it goes.
const versionAt, destinationAt, headerSize = 0, 19, 20

// forward hands on what a machine sends.
func (s *Switch) forward(from *port) {
	chance := rand.New(rand.NewPCG(s.seed, uint64(from.index)))
	buffer := make([]byte, MTU)
	for {
		n, err := from.file.Read(buffer)
		if err != nil {
			return
		}
		if n < headerSize || buffer[versionAt]>>4 != 4 {
			continue
		}
		to := s.ports[buffer[destinationAt]].Load()
		if to == nil {
			continue
		}
		rules := s.links[from.index][to.index].rules.Load()
		if rules == nil || len(*rules) == 0 {
			_, _ = to.file.Write(buffer[:n]) // a machine that takes no packet loses it
			continue
		}
		s.judge(*rules, chance, &s.links[from.index][to.index], parcel{packet: buffer[:n], to: to})
	}
}

// judge does to a packet what all rules of its link say.
func (s *Switch) judge(rules []*Rule, chance *rand.Rand, l *link, p parcel) {
	var delay time.Duration
	copies, overtakes := 1, false
	for _, r := range rules {
		if r.Drop > 0 && (r.Drop >= 1 || chance.Float64() < r.Drop) {
			r.dropped.Add(1)
			return
		}
		if r.Duplicate > 0 && chance.Float64() < r.Duplicate {
			r.duplicated.Add(1)
			copies++
		}
		if d := r.delay(chance, len(p.packet)); d > 0 {
			delay += d
			r.delayed.Add(1)
		}
		if r.Reorder > 0 && chance.Float64() < r.Reorder {
			r.reordered.Add(1)
			overtakes = true
		}
	}
	if delay == 0 || overtakes {
		for range copies {
			_, _ = p.to.file.Write(p.packet)
		}
		return
	}
	p.packet = slices.Clone(p.packet)
	p.due = time.Now().Add(delay)
	l.once.Do(func() {
		l.queue = make(chan parcel, queued)
		s.wait.Go(func() { s.deliver(l.queue) })
	})
	for range copies {
		select {
		case l.queue <- p:
		default:
			rules[0].dropped.Add(1)
		}
	}
}

// deliver hands on the packets of a link that were delayed, in the order in which they were sent.
func (s *Switch) deliver(queue <-chan parcel) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case p := <-queue:
			timer.Reset(time.Until(p.due))
			select {
			case <-s.stop:
				return
			case <-timer.C:
			}
			_, _ = p.to.file.Write(p.packet)
		}
	}
}
