package network

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// Rule is what is done to the packets from some machines to others. The zero value does nothing.
type Rule struct {
	// From and To are names of machines. A rule goes one way.
	From, To []string
	// BothWays has it go the other way, too.
	BothWays bool
	// Drop, Duplicate and Reorder are shares of the packets, from 0 to 1. One that is reordered is not delayed: it overtakes.
	Drop, Duplicate, Reorder float64
	// Delay of each packet, and as much as Jitter more. Packets of a link that are delayed stay in order.
	Delay, Jitter time.Duration
	// Rate is the most that a link carries, in bytes per second; 0 means no limit.
	Rate int

	dropped, delayed, duplicated, reordered atomic.Int64
	// free is when the links of the rule have carried what they were given, in nanoseconds of Unix time.
	free atomic.Int64
}

// Counts is what a rule has done, in packets.
type Counts struct{ Dropped, Delayed, Duplicated, Reordered int64 }

// Counts tells what the rule has done so far.
func (r *Rule) Counts() Counts {
	return Counts{r.dropped.Load(), r.delayed.Load(), r.duplicated.Load(), r.reordered.Load()}
}

// Total is how many packets something was done to.
func (c Counts) Total() int64 { return c.Dropped + c.Delayed + c.Duplicated + c.Reordered }

func (c Counts) String() string {
	return fmt.Sprintf("packets: dropped %d, delayed %d, duplicated %d, reordered %d", c.Dropped, c.Delayed, c.Duplicated, c.Reordered)
}

func (r *Rule) delay(chance *rand.Rand, bytes int) time.Duration {
	d := r.Delay
	if r.Jitter > 0 {
		d += time.Duration(chance.Int64N(int64(r.Jitter)))
	}
	if r.Rate == 0 {
		return d
	}
	takes := time.Duration(bytes) * time.Second / time.Duration(r.Rate)
	for {
		now, free := time.Now().UnixNano(), r.free.Load()
		done := max(now, free) + int64(takes)
		if r.free.CompareAndSwap(free, done) {
			return d + time.Duration(done-now)
		}
	}
}

func (r *Rule) concerns(from, to string) bool {
	if slices.Contains(r.From, from) && slices.Contains(r.To, to) {
		return true
	}
	return r.BothWays && slices.Contains(r.From, to) && slices.Contains(r.To, from)
}

// Add has a rule apply from now on. It returns an error if the rule names a machine that there is not.
func (s *Switch) Add(r *Rule) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Concat(r.From, r.To) {
		if !slices.Contains(s.names, name) {
			return fmt.Errorf("rule for machine %q: there are %q", name, s.names)
		}
	}
	s.rules = append(s.rules, r)
	s.apply()
	return nil
}

// Remove ends what Add began.
func (s *Switch) Remove(r *Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = slices.DeleteFunc(s.rules, func(other *Rule) bool { return other == r })
	s.apply()
}

// apply sorts the rules by link. The caller holds the lock.
func (s *Switch) apply() {
	for i, from := range s.names {
		for j, to := range s.names {
			var rules []*Rule
			for _, r := range s.rules {
				if r.concerns(from, to) {
					rules = append(rules, r)
				}
			}
			s.links[i][j].rules.Store(&rules)
		}
	}
}
