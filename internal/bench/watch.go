package bench

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// watch follows the logs of all instances as they are stored.
type watch struct {
	mu        sync.Mutex // guards what follows
	instances map[string]*watched
	// lastOf is when each runner has appended last.
	lastOf map[string]time.Time
	// silent are those that were killed.
	silent map[string]bool
	// last is when a step was committed last, gap the longest time between two.
	last      time.Time
	gap       time.Duration
	takeOvers []*takeOver
}

// watched is what is known of an instance.
type watched struct {
	runner  string    // has appended last
	stepped time.Time // when a step was committed last
	ended   bool
	// taken is a take-over since which no step was committed.
	taken *takeOver
}

// takeOver says that a runner has claimed an instance whose run was not given back.
type takeOver struct {
	from    string    // whose run it was
	claimed time.Time // when
	stepped time.Time // when the next step was committed; zero until then
}

const (
	// watchPage is how many messages are read at a time, watchEvery after how long is looked again when there were fewer.
	watchPage  = 256
	watchEvery = 20 * time.Millisecond
)

// follow watches what is stored from now on, page by page: a consumer could go with the server that it is at. The function that it
// returns ends that.
func follow(ctx context.Context, store *journal.Store, stream string) (w *watch, stop func(), err error) {
	state, err := store.State(ctx, stream)
	if err != nil {
		return nil, nil, err
	}
	w = &watch{instances: map[string]*watched{}, lastOf: map[string]time.Time{}, silent: map[string]bool{}}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for next := state.Last + 1; ctx.Err() == nil; {
			page, more, err := store.Page(ctx, stream, ">", next, watchPage)
			for _, m := range page {
				w.take(m)
				next = m.Sequence + 1
			}
			if err != nil || !more { // an error is that of a server that is gone: another one will answer
				_ = ctxtime.Sleep(ctx, watchEvery)
			}
		}
	}()
	return w, func() { cancel(); <-done }, nil
}

func (w *watch) take(m journal.Message) {
	at, class, err := protocol.ParseInstanceSubject(m.Subject)
	var a protocol.Append
	if err == nil && class == protocol.ClassLog && json.Unmarshal(m.Data, &a) == nil {
		w.see(at.ID, a, m.Time)
	}
}

func (w *watch) see(id string, a protocol.Append, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.instances[id]
	if i == nil {
		i = &watched{}
		w.instances[id] = i
	}
	for _, e := range a.Entries {
		switch e.Kind {
		case protocol.EntryClaimed:
			if e.Lost {
				i.taken = &takeOver{from: i.runner, claimed: at}
				w.takeOvers = append(w.takeOvers, i.taken)
			}
		case protocol.EntryStepCompleted:
			w.step(i, at)
		case protocol.EntryCompleted, protocol.EntryFailed, protocol.EntryTerminated:
			w.step(i, at) // what comes after the last step
			i.ended = true
		}
	}
	i.runner, w.lastOf[a.Runner] = a.Runner, at
}

func (w *watch) step(i *watched, at time.Time) {
	if !w.last.IsZero() {
		w.gap = max(w.gap, at.Sub(w.last))
	}
	w.last, i.stepped = at, at
	if i.taken != nil {
		i.taken.stepped, i.taken = at, nil
	}
}

// haveAllStepped reports whether every instance that has not ended has committed a step since a moment.
func (w *watch) haveAllStepped(since time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.instances {
		if !i.ended && !i.stepped.After(since) {
			return false
		}
	}
	return true
}

// inFlight is how long an append may be under way whose runner is dead already.
const inFlight = 100 * time.Millisecond

// silentSince lists the runners that have not appended since a moment, and were not in the list before.
func (w *watch) silentSince(moment time.Time) (ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, last := range w.lastOf {
		if last.Before(moment.Add(inFlight)) && !w.silent[id] {
			ids = append(ids, id)
			w.silent[id] = true
		}
	}
	return slices.Sorted(slices.Values(ids))
}

// since takes out the take-overs since a moment: how long it took from then to the next step of those that were from a runner, and
// how many were from others.
func (w *watch) since(moment time.Time, dead string) (took []time.Duration, others int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.takeOvers {
		switch {
		case t.from == dead && !t.claimed.Before(moment):
			took = append(took, t.stepped.Sub(moment))
		case t.from != dead:
			others++
		}
	}
	w.takeOvers = nil
	return took, others
}

// longestGap takes out the longest time between two steps, of whichever instances.
func (w *watch) longestGap() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap := w.gap
	w.gap = 0
	return gap
}

// count is how many instances have not ended.
func (w *watch) count() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.instances {
		if !i.ended {
			n++
		}
	}
	return n
}
