package throttle

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxIdle is how many addresses are remembered that have neither connections nor sockets open. Of those beyond, the one that was
// silent longest is forgotten: it may ask as if for the first time. A few hundred bytes each.
const maxIdle = 64 << 10

// forgetAtOnce is how many are forgotten when one asks: more than may have come since, so that they get fewer.
const forgetAtOnce = 4

// entry is what is known of an address.
type entry struct {
	owner       netip.Prefix
	connections int
	sockets     int
	pace        *rate.Limiter // nil if nothing was asked
	seen        time.Time
	// refused counts refusals that no log line has told of; told is when one last did.
	refused int
	told    time.Time
	// idle is the place among those that can be forgotten; nil if it cannot.
	idle *list.Element
}

// refuse counts a refusal. It returns how many there were since it has last done so, if that is long ago; else 0.
func (e *entry) refuse() (since int) {
	e.refused++
	if now := time.Now(); now.Sub(e.told) >= tellEvery {
		since, e.refused, e.told = e.refused, 0, now
	}
	return since
}

// table is what is known of all addresses. The newest of idle is at its front.
type table struct {
	most int
	// fresh is after which time an address that was not seen can ask as if for the first time.
	fresh time.Duration

	mu      sync.Mutex // guards what follows
	entries map[netip.Prefix]*entry
	idle    list.List
}

func newTable(limits Limits) *table {
	t := &table{most: maxIdle, fresh: tellEvery, entries: map[netip.Prefix]*entry{}}
	if limits.Rate > 0 {
		t.fresh = max(t.fresh, time.Duration(limits.Burst)*time.Second/time.Duration(limits.Rate))
	}
	return t
}

// with calls do with what is known of an address, and forgets what need not be known any more.
func (t *table) with(owner netip.Prefix, do func(*entry)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[owner]
	if e == nil {
		e = &entry{owner: owner}
		t.entries[owner] = e
	}
	e.seen = time.Now()
	do(e)
	t.place(e)
	for range forgetAtOnce {
		oldest := t.idle.Back()
		if oldest == nil {
			return
		}
		old := oldest.Value.(*entry)
		if t.idle.Len() <= t.most && e.seen.Sub(old.seen) < t.fresh {
			return
		}
		t.idle.Remove(oldest)
		delete(t.entries, old.owner)
	}
}

// place puts an entry among the idle ones, as the newest, or takes it out.
func (t *table) place(e *entry) {
	if e.idle != nil {
		t.idle.Remove(e.idle)
		e.idle = nil
	}
	if e.connections == 0 && e.sockets == 0 {
		e.idle = t.idle.PushFront(e)
	}
}

// size is how many addresses are known.
func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}
