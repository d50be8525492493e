package sim

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// atRest checks a world in which nothing happens any more.
func (c *checker) atRest() {
	for _, i := range c.w.instances {
		if l := c.newest[i]; l != nil {
			c.restOf(l)
		}
	}
}

func (c *checker) restOf(l *life) {
	exists := c.w.stream().newest(l.instance.CreateSubject()) != nil
	situation := l.truth.Situation
	switch {
	case !exists && situation.Phase != engine.Finished:
		c.fail("%v is gone, but it lives", l.instance)
	case !exists:
		c.erased(l)
		return
	case l.truth.End == protocol.EntryDeleted:
		c.fail("%v is deleted, but it is still there", l.instance)
	case situation.Phase == engine.Running:
		c.fail("%v is running, but no wake is left", l.instance)
	case situation.Phase == engine.Paused && l.toldToGoOn():
		c.fail("%v is paused, but was told to go on since", l.instance)
	case situation.Phase == engine.Finished && l.announced < l.endAt:
		c.fail("%v is finished, but nobody is told", l.instance)
	case situation.Phase == engine.Parked && situation.Until != nil:
		c.fail("%v waits for a moment, but no timer is left", l.instance)
	case situation.Phase == engine.Parked && engine.NewMachine(l.truth).WouldTake(1<<60, situation.Waits, l.events):
		c.fail("%v waits for an event that is there", l.instance)
	}
	if n := len(l.controls); n > 0 {
		newest := protocol.Wake{Stream: workflows, Sequence: l.controls[n-1].Sequence}
		if entries, _, _ := l.truth.Obey(newest, l.controls, c.w.now); len(entries) > 0 {
			c.fail("%v has not obeyed %s %d", l.instance, entries[0].Kind, entries[0].Input)
		}
	}
	c.compare(l)
}

// erased checks that nothing is left of an instance that was deleted from before the entry that says so.
func (c *checker) erased(l *life) {
	if l.truth.End != protocol.EntryDeleted {
		return
	}
	for _, m := range c.w.stream().messages {
		i, class, err := protocol.ParseInstanceSubject(m.subject)
		if err == nil && i == l.instance && m.went == 0 && m.sequence > l.truth.Incarnation && m.sequence < l.endAt {
			c.fail("%v is deleted, but %s %d is left", i, class, m.sequence)
		}
	}
}

// toldToGoOn reports whether the newest control that pauses or resumes resumes. A repetition does not count.
func (l *life) toldToGoOn() bool {
	seen, goOn := map[string]bool{}, false
	for _, control := range l.controls {
		if seen[control.Input] {
			continue
		}
		seen[control.Input] = true
		switch control.Action {
		case protocol.ActionPause:
			goOn = false
		case protocol.ActionResume:
			goOn = true
		}
	}
	return goOn
}

// compare holds what the stream still says against what was ever stored.
func (c *checker) compare(l *life) {
	h := engine.NewHistory(workflows, l.truth.Incarnation, l.truth.Create)
	f := engine.Fold{History: h}
	for _, m := range c.w.stream().messages {
		if m.went == 0 && m.subject == l.instance.LogSubject() && m.sequence > l.truth.Incarnation {
			var a protocol.Append
			decode(m.data, &a)
			if err := f.Add(m.sequence, &a); err != nil {
				c.fail("%v: %v", l.instance, err)
				return
			}
		}
	}
	if err := f.End((&runner{w: c.w}).fetch); err != nil {
		c.fail("%v: %v", l.instance, err)
		return
	}
	if said, all := summary(h), summary(l.truth); said != all {
		c.fail("%v: the log says\n%s\nbut all of it says\n%s", l.instance, said, all)
	}
}

func summary(h *engine.History) string {
	lines := []string{fmt.Sprintf("%v %v %v %d %d %v %v", h.Phase, h.Holder, h.Mark, h.Epoch, h.Park, h.Until, h.Consumed)}
	for _, k := range h.Order {
		s := h.Steps[k]
		lines = append(lines, fmt.Sprintf("%v %v %s %d %d %v", k, s.Done, answer(s), s.Failed, s.LostRuns, s.Until))
	}
	return strings.Join(lines, "\n")
}
