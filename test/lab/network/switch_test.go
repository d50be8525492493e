package network

import (
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// socket is the end of a cable: what a machine sends and gets.
type socket struct{ sends, gets chan []byte }

func (s *socket) Read(p []byte) (int, error) {
	packet, ok := <-s.sends
	if !ok {
		return 0, io.EOF
	}
	return copy(p, packet), nil
}

func (s *socket) Write(p []byte) (int, error) {
	s.gets <- slices.Clone(p)
	return len(p), nil
}

func (s *socket) Close() error {
	close(s.sends)
	return nil
}

const packets = 1000

// plugged returns a switch with the machines a, b and c, whose addresses end with 1, 2 and 3.
func plugged(t *testing.T) (*Switch, map[string]*socket) {
	t.Helper()
	s, sockets := NewSwitch(1), map[string]*socket{}
	for i, name := range []string{"a", "b", "c"} {
		sockets[name] = &socket{make(chan []byte), make(chan []byte, 10*packets)}
		if err := s.Plug(name, byte(i+1), sockets[name]); err != nil {
			t.Fatal(err)
		}
	}
	return s, sockets
}

// packet is one of IPv4 to a machine, with a number.
func packet(to byte, number int) []byte {
	p := make([]byte, headerSize+2)
	p[versionAt], p[destinationAt] = 4<<4, to
	p[headerSize], p[headerSize+1] = byte(number>>8), byte(number)
	return p
}

// numbers are those of what a machine has got.
func (s *socket) numbers() []int {
	var all []int
	for len(s.gets) > 0 {
		p := <-s.gets
		all = append(all, int(p[headerSize])<<8|int(p[headerSize+1]))
	}
	return all
}

// try sends packets from a to b, from b to a, and from a to c under a rule, and returns what came.
func try(t *testing.T, r *Rule, check func(atB, atA, atC []int, c Counts)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, sockets := plugged(t)
		if err := s.Add(r); err != nil {
			t.Fatal(err)
		}
		send := func() {
			for n := range packets {
				sockets["a"].sends <- packet(2, n)
				sockets["b"].sends <- packet(1, n)
				sockets["a"].sends <- packet(3, n)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		send()
		check(sockets["b"].numbers(), sockets["a"].numbers(), sockets["c"].numbers(), r.Counts())
		s.Remove(r)
		send()
		if n := len(sockets["b"].numbers()); n != packets {
			t.Errorf("without the rule %d packets came, want %d", n, packets)
		}
		s.Close()
	})
}

func between(t *testing.T, what string, have, least, most int) {
	t.Helper()
	if have < least || have > most {
		t.Errorf("%s: %d, want %d to %d", what, have, least, most)
	}
}

func TestCutOneWay(t *testing.T) {
	t.Parallel()
	try(t, &Rule{From: []string{"a"}, To: []string{"b"}, Drop: 1}, func(atB, atA, atC []int, c Counts) {
		between(t, "a to b", len(atB), 0, 0)
		between(t, "b to a", len(atA), packets, packets)
		between(t, "a to c", len(atC), packets, packets)
		between(t, "dropped", int(c.Dropped), packets, packets)
	})
}

func TestCutBothWays(t *testing.T) {
	t.Parallel()
	try(t, &Rule{From: []string{"a"}, To: []string{"b"}, BothWays: true, Drop: 1}, func(atB, atA, atC []int, c Counts) {
		between(t, "a to b", len(atB), 0, 0)
		between(t, "b to a", len(atA), 0, 0)
		between(t, "a to c", len(atC), packets, packets)
		between(t, "dropped", int(c.Dropped), 2*packets, 2*packets)
	})
}

func TestLoss(t *testing.T) {
	t.Parallel()
	try(t, &Rule{From: []string{"a"}, To: []string{"b"}, Drop: 0.2, Duplicate: 0.1}, func(atB, _, _ []int, c Counts) {
		between(t, "dropped", int(c.Dropped), packets/10, packets*3/10)
		between(t, "duplicated", int(c.Duplicated), packets/20, packets/5)
		if want := packets - int(c.Dropped) + int(c.Duplicated); len(atB) != want {
			t.Errorf("%d packets came, want %d", len(atB), want)
		}
	})
}

// TestDelay: packets that are delayed stay in order, those that overtake do not.
func TestDelay(t *testing.T) {
	t.Parallel()
	r := &Rule{From: []string{"a"}, To: []string{"b"}, Delay: 10 * time.Millisecond, Jitter: 10 * time.Millisecond}
	try(t, r, func(atB, _, _ []int, c Counts) {
		if len(atB) != packets || !slices.IsSorted(atB) {
			t.Errorf("%d packets came, in order: %v, want %d in order", len(atB), slices.IsSorted(atB), packets)
		}
		between(t, "delayed", int(c.Delayed), packets, packets)
	})
	r = &Rule{From: []string{"a"}, To: []string{"b"}, Delay: 10 * time.Millisecond, Reorder: 0.1}
	try(t, r, func(atB, _, _ []int, c Counts) {
		if len(atB) != packets || slices.IsSorted(atB) {
			t.Errorf("%d packets came, in order: %v, want %d out of order", len(atB), slices.IsSorted(atB), packets)
		}
		between(t, "reordered", int(c.Reordered), packets/20, packets/5)
	})
}

// TestThinLine: a line carries no more than its rate.
func TestThinLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, sockets := plugged(t)
		size := len(packet(2, 0))
		if err := s.Add(&Rule{From: []string{"a"}, To: []string{"b"}, Rate: 10 * size}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for n := range 50 {
			sockets["a"].sends <- packet(2, n)
		}
		for range 50 {
			<-sockets["b"].gets
		}
		if took := time.Since(began); took < 4900*time.Millisecond || took > 5100*time.Millisecond {
			t.Errorf("50 packets at 10 a second took %v, want 5s", took)
		}
		s.Close()
	})
}

func TestUnknownMachine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := plugged(t)
		if err := s.Add(&Rule{From: []string{"a"}, To: []string{"d"}, Drop: 1}); err == nil {
			t.Error("a rule for a machine that there is not was taken")
		}
		s.Close()
	})
}
