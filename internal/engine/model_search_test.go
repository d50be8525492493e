package engine_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// result is what a search found.
type result struct {
	states, cut int
	ends        int // states in which the instance has ended and nothing is left to do
	// broken says what is wrong, path how it came to that; both are empty if nothing is.
	broken string
	path   []string
}

func (r result) String() string {
	if r.broken == "" {
		return fmt.Sprintf("%d states (%d cut), %d ends, nothing wrong", r.states, r.cut, r.ends)
	}
	return fmt.Sprintf("%s, after %d steps:\n  %s", r.broken, len(r.path), strings.Join(r.path, "\n  "))
}

// search walks through all states, or w.most of them, breadth first, until it finds what must not be: its path is a shortest
// one.
func (w *world) search(checkStability bool) result {
	states := []state{begin(w.limits)}
	parents := []int{-1}
	seen := map[state]struct{}{states[0]: {}}
	r := result{}
	for i := 0; i < len(states) && r.broken == "" && (w.most == 0 || i < w.most); i++ {
		if states[i].full() {
			r.cut++
			continue
		}
		x := &step{world: w}
		x.emit = func(s *state, what string, numbers ...uint8) {
			if r.broken != "" {
				return
			}
			broken := x.broken
			s.sort()
			if _, ok := seen[*s]; ok && broken == "" {
				return
			}
			seen[*s] = struct{}{}
			states, parents = append(states, *s), append(parents, i)
			if broken == "" && s.rests() {
				if broken = w.atRest(s); s.announced != 0 {
					r.ends++
				}
			}
			if broken == "" && checkStability {
				broken = w.unstable(s)
			}
			r.broken = broken
		}
		before := states[i]
		x.all(&before)
	}
	r.states = len(states)
	if r.broken != "" {
		r.path = w.path(states, parents)
	}
	return r
}

// path tells how the newest state came about. It goes the way once more without sorting, so that each runner keeps its
// name.
func (w *world) path(states []state, parents []int) []string {
	var way []int
	for i := len(states) - 1; i > 0; i = parents[i] {
		way = append(way, i)
	}
	var path []string
	now := states[0]
	for _, i := range slices.Backward(way) {
		x, found, told := &step{world: w}, false, ""
		var then state
		x.emit = func(s *state, what string, numbers ...uint8) {
			sorted := *s
			if sorted.sort(); !found && sorted == states[i] {
				then, found, told = *s, true, tell(what, numbers)
			}
		}
		x.all(&now)
		if m := then.messages[then.n]; then.n > now.n && m.kind == logMessage {
			told += " " + w.describe(m.what)
		}
		path, now = append(path, told), then
	}
	return path
}

func tell(what string, numbers []uint8) string {
	args := make([]any, len(numbers))
	for i, n := range numbers {
		args[i] = n
		if id := wakeID(n); id >= firstFiring {
			args[i] = fmt.Sprint("timer ", id-firstFiring+1)
		}
	}
	return fmt.Sprintf(what, args...)
}

// rests reports whether nothing happens any more by itself.
func (s *state) rests() bool {
	rest := s.armed == 0 && s.network == (hanging{}) && s.janitor.horizon == 0
	for i := range s.runners {
		rest = rest && s.runners[i].phase == idle
	}
	s.wakes(func(id wakeID) { rest = rest && *s.deliveryOf(id) == acked })
	return rest
}

// atRest tells what is wrong with a state that rests.
func (w *world) atRest(s *state) string {
	v := w.view(s, s.n)
	if !v.situation.Exists && w.truth(s).situation.Phase != engine.Finished {
		return "a living instance is gone"
	}
	if !v.situation.Exists {
		return ""
	}
	switch last := wakeID(s.newest(s.n, controlMessage)); {
	case last > 0 && engine.Decide(v.situation, w.wake(s, last), engine.OlderNone, noon) == engine.Obey && w.matters(v, last):
		return "a control is not obeyed"
	case v.situation.Phase == engine.Paused && w.resumed(s):
		return "paused, but told to go on since"
	case v.end == protocol.EntryDeleted:
		return "deleted, but it is still there"
	case v.situation.Phase == engine.Finished && s.announced < v.endAt:
		return "finished, but nobody is told"
	case v.situation.Phase == engine.Running:
		return "running, but no wake is left"
	case v.situation.Phase == engine.Parked && v.situation.Until != nil:
		return "waits for a moment, but no timer is left"
	case v.situation.Phase == engine.Parked && (v.any == engine.OlderSome || w.truth(s).any == engine.OlderSome):
		return "waits for an event that is there"
	}
	return ""
}

// resumed reports whether the newest control that pauses or resumes resumes.
func (w *world) resumed(s *state) bool {
	for i := s.n; i > 0; i-- {
		switch m := s.messages[i]; {
		case m.kind == createMessage && m.what == 0:
			return false
		case m.kind == controlMessage && actions[m.what&actionBits].Action == protocol.ActionPause:
			return false
		case m.kind == controlMessage && actions[m.what&actionBits].Action == protocol.ActionResume:
			return true
		}
	}
	return false
}

type stableKey struct {
	stream  prefix
	gone    uint16
	goneAt  uint8
	firings [maxFirings]firing
}

// unstable tells whether the table lets go of a wake and later claims under it.
func (w *world) unstable(s *state) string {
	k := stableKey{stream: s.prefix(s.n, 0), gone: s.gone, goneAt: s.goneAt}
	for i := range s.fired {
		k.firings[i].park = s.firings[i].park
	}
	if w.stable[k] {
		return ""
	}
	broken := ""
	s.wakes(func(id wakeID) {
		gone := uint8(0)
		for upTo := s.reach(id); upTo <= s.n; upTo++ {
			v := w.view(s, upTo)
			for _, now := range []uint8{0, maxOps + 1} {
				action, _ := w.action(s, v, id, engine.OlderUnknown, clock(now))
				if action == engine.LookOlder {
					action, _ = w.action(s, v, id, v.older, clock(now))
				}
				switch action {
				case engine.Ack, engine.Poke, engine.Arm, engine.Project:
					gone = upTo
				case engine.Claim, engine.Start:
					if gone > 0 {
						broken = fmt.Sprintf("%v is let go at %d and claims at %d", id.name(), gone, upTo)
					}
				}
			}
		}
	})
	w.stable[k] = broken == ""
	return broken
}
