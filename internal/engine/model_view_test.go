package engine_test

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// world is one setting of the model, and what it remembers of what the engine said.
type world struct {
	program string // of ops: S step, E wait for an event, T the same with an end, Z sleep, R race of E and Z
	rules   rules
	limits  budget
	// most is how many states a search goes on from, 0 for all.
	most int

	appends []protocol.Append // by the numbers that log messages have
	numbers map[string]uint16
	views   map[prefix]*view
	truths  map[prefix]*view
	wrongs  map[prefix]string
	next    map[runKey]next
	stable  map[stableKey]bool
}

func newWorld(program string, limits budget, r rules) *world {
	return &world{
		program: program, limits: limits, rules: r, appends: make([]protocol.Append, 1), numbers: map[string]uint16{},
		views: map[prefix]*view{}, truths: map[prefix]*view{}, wrongs: map[prefix]string{}, next: map[runKey]next{},
		stable: map[stableKey]bool{},
	}
}

// number gives an append a number. It goes through JSON like the real ones.
func (w *world) number(a protocol.Append) uint16 {
	if !w.rules.ClaimNamesWake {
		a.Holder = wake(a.Incarnation)
	}
	if !w.rules.MarkControls {
		a.Mark = 0
	}
	for i := range a.Entries {
		if e := &a.Entries[i]; e.Step == nil && !w.rules.NameControls {
			e.InputID = ""
		}
	}
	a.V, a.Time = protocol.Version, noon
	for i := range a.Entries {
		switch e := &a.Entries[i]; e.Kind {
		case protocol.EntryCompleted, protocol.EntryTerminated:
			e.Expires = new(clock(expiry))
		}
	}
	body, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	if n, ok := w.numbers[string(body)]; ok {
		return n
	}
	a = protocol.Append{}
	if err := json.Unmarshal(body, &a); err != nil {
		panic(err)
	}
	n := uint16(len(w.appends))
	w.appends, w.numbers[string(body)] = append(w.appends, a), n
	return n
}

// under is an append by which a run under a wake goes on.
func (w *world) under(h *engine.History, holder wakeID, entries ...protocol.Entry) uint16 {
	return w.number(protocol.Append{
		Incarnation: h.Incarnation, Holder: holder.name(), Mark: h.Mark, Epoch: h.Epoch, Entries: entries,
	})
}

// born is the incarnation of the newest create, 0 if there is none.
func (p *prefix) born() uint8 {
	for i := uint8(len(p) - 1); i > 0; i-- {
		switch m := p[i]; {
		case m.kind == createMessage && m.what != 0:
			return uint8(m.what)
		case m.kind == createMessage:
			return i
		}
	}
	return 0
}

// fold reads the log of an incarnation up to a sequence. The whole log tells more than a snapshot does.
func (w *world) fold(messages *prefix, born, upTo uint8, whole bool) *engine.History {
	h := engine.NewHistory(stream, uint64(born), protocol.Create{Workflow: "mail", ID: "a"})
	for i := uint8(1); i <= upTo; i++ {
		if messages[i].kind != logMessage {
			continue
		}
		h.Tail = uint64(i)
		a := w.appends[messages[i].what]
		if i < born || whole && a.Entries[0].Kind == protocol.EntrySnapshot {
			continue
		}
		if err := h.Apply(uint64(i), &a); err != nil {
			panic(err)
		}
	}
	return h
}

// events lists the events on the stream from one sequence up to another.
func events(messages *prefix, from uint64, upTo uint8) []engine.Input {
	var all []engine.Input
	for i := uint8(2); i <= upTo; i++ {
		m := messages[i]
		if (m.kind == eventMessage || m.kind == strangeMessage) && uint64(i) >= from {
			all = append(all, engine.Input{Sequence: uint64(i), ID: fmt.Sprint(m.what), Type: eventType(m.kind)})
		}
	}
	return all
}

func eventType(kind uint8) string {
	if kind == eventMessage {
		return "wanted"
	}
	return "strange"
}

// view is what a prefix of the stream says.
type view struct {
	messages  prefix
	upTo      uint8
	situation engine.Situation
	end       protocol.EntryKind
	endAt     uint8        // sequence of the newest terminal entry
	done      uint8        // ops that have an outcome, as a set
	consumed  uint16       // events, as a set
	older     engine.Older // whether an input older than the park would end a wait
	any       engine.Older // whether any input would
	released  bool         // the newest run gave the instance back
	orders    map[wakeID]order
}

// prefix cuts the stream and leaves out what is gone, and what only appenders look at.
func (s *state) prefix(upTo uint8, gone uint16) prefix {
	var p prefix
	for i := uint8(1); i <= upTo; i++ {
		if gone&(1<<i) == 0 {
			p[i] = message{kind: s.messages[i].kind, what: s.messages[i].what}
		}
	}
	return p
}

// view reads a prefix of the stream. A prefix that ends before the last purge is from before it.
func (w *world) view(s *state, upTo uint8) *view {
	gone := s.gone
	if upTo < s.goneAt {
		gone = 0
	}
	k := s.prefix(upTo, gone)
	v := w.views[k]
	if v == nil {
		v = w.read(&k, upTo, false)
		w.views[k] = v
	}
	return v
}

// truth is what the stream said before anything was purged, and without snapshots.
func (w *world) truth(s *state) *view {
	if w.limits.deletes == 0 && w.limits.cleanings == 0 {
		return w.view(s, s.n)
	}
	k := s.prefix(s.n, 0)
	v := w.truths[k]
	if v == nil {
		v = w.read(&k, s.n, true)
		w.truths[k] = v
	}
	return v
}

func (w *world) read(k *prefix, upTo uint8, whole bool) *view {
	h := w.fold(k, k.born(), upTo, whole)
	v := &view{messages: *k, upTo: upTo, end: h.End, older: engine.OlderNone, any: engine.OlderNone, released: h.Released()}
	v.situation = h.Situation
	if !whole {
		var newest *protocol.Append
		if h.Tail > 0 {
			newest = &w.appends[k[h.Tail].what]
		}
		v.situation = engine.Situate(stream, uint64(k.born()), h.Tail, newest)
	}
	for _, step := range h.Steps {
		if step.Done && w.ends(step.Key) {
			v.done |= 1 << opOf(step.Key)
		}
	}
	for e := range h.Consumed {
		v.consumed |= 1 << e
	}
	if m := engine.NewMachine(h); h.Phase == engine.Parked {
		all := events(k, h.Incarnation, upTo)
		if m.WouldTake(h.Park, h.Waits, all) {
			v.older = engine.OlderSome
		}
		if m.WouldTake(maxMessages+1, h.Waits, all) {
			v.any = engine.OlderSome
		}
	}
	for i := upTo; i > 0 && v.endAt == 0 && h.Phase == engine.Finished; i-- {
		if k[i].kind == logMessage && isEnd(w.appends[k[i].what].Entries) {
			v.endAt = i
		}
	}
	return v
}

func isEnd(entries []protocol.Entry) bool {
	switch entries[len(entries)-1].Kind {
	case protocol.EntryCompleted, protocol.EntryTerminated, protocol.EntryDeleted:
		return true
	}
	return false
}

func opOf(k protocol.Key) int { return int(k.Name[0] - '0') }

// ends reports whether the outcome of a step is that of its op: what a race has called is not.
func (w *world) ends(k protocol.Key) bool {
	return k.Op == protocol.OpRace || w.program[opOf(k)] != 'R'
}

// beaten tells whether a branch was given something after another had won the race.
func beaten(h *engine.History) bool {
	for k, race := range h.Steps {
		if k.Op != protocol.OpRace || !race.Done {
			continue
		}
		waits := []protocol.Key{{Op: protocol.OpEvent, Name: k.Name + "e", Count: 1}, {Op: protocol.OpSleep, Name: k.Name + "z", Count: 1}}
		won, lost := h.Steps[waits[*race.Winner]], h.Steps[waits[1-*race.Winner]]
		if won == nil || !won.Done || lost != nil && lost.Done {
			return true
		}
	}
	return false
}

// wrong tells what the newest message of the stream, an entry of the log, must not say.
func (w *world) wrong(s *state) string {
	switch what, create := s.prefix(s.n, 0), s.newest(s.n, createMessage); {
	case create == 0:
		return "an entry of an instance that is gone"
	default:
		found, ok := w.wrongs[what]
		if !ok {
			found = w.contradicts(&what, s.n)
			w.wrongs[what] = found
		}
		return found
	}
}

// contradicts tells what an append says that its log forbids.
func (w *world) contradicts(k *prefix, at uint8) string {
	h := w.fold(k, k.born(), at-1, true)
	a := &w.appends[k[at].what]
	if a.Incarnation != h.Incarnation {
		return "an entry of another incarnation"
	}
	if e := a.Entries[0]; h.Phase == engine.Paused && e.Input == 0 {
		return "an entry while paused"
	}
	if strings.Contains(w.program, "R") && beaten(w.fold(k, k.born(), at, true)) {
		return "who was beaten was given something"
	}
	finished := h.Phase == engine.Finished
	for _, e := range a.Entries {
		switch e.Kind {
		case protocol.EntryStepCompleted, protocol.EntrySlept, protocol.EntryTimedOut, protocol.EntryReceived:
			if s := h.Steps[*e.Step]; s != nil && s.Done {
				return fmt.Sprintf("%v has two outcomes", *e.Step)
			}
		case protocol.EntryRestarted, protocol.EntryDeleted, protocol.EntrySnapshot:
			finished = finished && h.End == protocol.EntryDeleted
		}
		switch {
		case finished:
			return "an entry after the end"
		case e.Kind == protocol.EntryReceived && (h.Consumed[e.Input] || h.ConsumedIDs[e.InputID]):
			return fmt.Sprintf("event %d is consumed twice", e.Input)
		case e.Kind == protocol.EntryReceived && e.Input < max(h.Incarnation, h.EventsFrom):
			return fmt.Sprintf("event %d is void, but consumed", e.Input)
		case e.Input != 0 && e.Step == nil && e.Kind != protocol.EntrySnapshot && !w.isNext(k, at, e.Input):
			return fmt.Sprintf("control %d is obeyed twice, or out of order", e.Input)
		}
		finished = isEnd([]protocol.Entry{e})
	}
	return ""
}

// isNext reports whether the entry at a sequence may obey a control: neither it nor a newer one was obeyed before, nor
// one that it repeats.
func (w *world) isNext(k *prefix, at uint8, control uint64) bool {
	for i := k.born(); i < at; i++ {
		if k[i].kind != logMessage {
			continue
		}
		for _, e := range w.appends[k[i].what].Entries {
			isControl := e.Step == nil && e.Input != 0 && e.Kind != protocol.EntrySnapshot
			if isControl && (e.Input >= control || k[e.Input].what == k[control].what) {
				return false
			}
		}
	}
	return true
}

// describe lists the kinds of entries of an append.
func (w *world) describe(what uint16) string {
	var names []string
	for _, e := range w.appends[what].Entries {
		n := string(e.Kind)
		if e.Step != nil {
			n += " " + e.Step.Name
		}
		if e.Wake != nil {
			n += " " + e.Wake.String()
		}
		if e.Input != 0 {
			n += fmt.Sprint(" by ", e.Input)
		}
		names = append(names, n)
	}
	return "[" + strings.Join(names, ", ") + "]"
}
