package porter

import "sync"

// Bounds of what one caller may have under way at one process.
const (
	// maxUnderWay is how many requests there may be, maxWaiting how many answers may wait: further ones are given at once.
	maxUnderWay = 256
	maxWaiting  = 128
)

// desk counts the requests of each caller. The zero value works.
type desk struct {
	mu    sync.Mutex
	under map[string]*caller
}

type caller struct{ requests, waiting int }

// place is that of one request.
type place struct {
	desk   *desk
	caller string
	waits  bool
}

// enter gives a request its place, unless its caller has too many already.
func (d *desk) enter(name string) (*place, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.under == nil {
		d.under = map[string]*caller{}
	}
	c := d.under[name]
	if c == nil {
		c = &caller{}
		d.under[name] = c
	}
	if c.requests >= maxUnderWay {
		return nil, false
	}
	c.requests++
	return &place{desk: d, caller: name}, true
}

// wait reports whether the answer to a request may wait.
func (p *place) wait() bool {
	p.desk.mu.Lock()
	defer p.desk.mu.Unlock()
	c := p.desk.under[p.caller]
	if c.waiting >= maxWaiting {
		return false
	}
	c.waiting++
	p.waits = true
	return true
}

func (p *place) leave() {
	p.desk.mu.Lock()
	defer p.desk.mu.Unlock()
	c := p.desk.under[p.caller]
	c.requests--
	if p.waits {
		c.waiting--
	}
	if c.requests == 0 {
		delete(p.desk.under, p.caller)
	}
}
