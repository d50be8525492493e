package runner

import "context"

// room is where a wake in hand is counted, so that those of one kind do not starve those of another.
type room int

const (
	// forInputs are creates, events, nudges and timers: those that execute, and as many that are decided about or wait
	// for a slot.
	forInputs room = iota
	// forControls are controls that are decided about: whoever wants to stop an instance needs no slot.
	forControls
	// forControlled are controls under which an instance executes, or waits for a slot to.
	forControlled
	rooms
)

const (
	// controlRoom is how many controls are decided about at a time.
	controlRoom = 64
	// queueRoom is how many controls wait for a slot. More than that come again after a while: who executes many short
	// ones meanwhile would be idle for a moment.
	queueRoom = 1000
)

func (r *Runner) capacity(of room) int {
	switch of {
	case forControls:
		return controlRoom
	case forControlled:
		return r.Slots + r.queueRoom
	}
	return 2 * r.Slots
}

// waitForRoom returns how many wakes there is room for, 0 when ctx has ended.
func (r *Runner) waitForRoom(ctx context.Context, of room) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ctx.Err() == nil {
		if n := r.capacity(of) - r.taken[of]; n > 0 {
			return n
		}
		r.room.Wait()
	}
	return 0
}

// roomAgain lets those look who wait for room.
func (r *Runner) roomAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.room.Broadcast()
}

// hold takes a wake in hand. r.mu is held.
func (r *Runner) hold(h *held) {
	if older := r.inHand[h.Wake.Wake]; older != nil {
		r.taken[older.room]--
	}
	r.inHand[h.Wake.Wake] = h
	r.taken[h.room]++
}

// letGo ends what hold began.
func (r *Runner) letGo(h *held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inHand[h.Wake.Wake] == h {
		delete(r.inHand, h.Wake.Wake)
		r.taken[h.room]--
	}
	r.room.Broadcast()
}

// toExecute counts a control among those that execute, so that those to be decided about have their room for
// themselves. It returns false if there are too many.
func (r *Runner) toExecute(h *held) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.room != forControls || r.inHand[h.Wake.Wake] != h {
		return true
	}
	if r.taken[forControlled] >= r.capacity(forControlled) {
		return false
	}
	r.taken[forControls]--
	r.taken[forControlled]++
	h.room = forControlled
	r.room.Broadcast()
	return true
}
