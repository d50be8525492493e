package engine

import (
	"encoding/json"

	"github.com/skein-run/skein/pkg/protocol"
)

// Reports are what a message of a log, stored at sequence, makes known to the agent that tracks the instance. They depend
// on nothing but the message: whoever makes them again makes the same.
func Reports(sequence uint64, a *protocol.Append) []protocol.WorkflowNotice {
	var all []protocol.WorkflowNotice
	for i := range a.Entries {
		e := &a.Entries[i]
		kind := reported(e)
		if kind == "" {
			continue
		}
		all = append(all, protocol.WorkflowNotice{
			Notice: protocol.Notice{
				Cursor: protocol.Cursor{Sequence: sequence, Index: perEntry*(i+1) + 1}, Kind: kind, Time: a.Time,
				Value: e.Result, Object: e.Object, Error: e.Error, Type: e.Type,
			},
			Expires: e.Expires,
		})
	}
	return all
}

// Report records what the code says of itself: with an event type as an event, else as progress. It is said once, however
// many runs come to it. The names of branches keep their reports apart, which have none that code gives them.
func (m *Machine) Report(b *Branch, eventType string, what json.RawMessage) error {
	name := "progress"
	if eventType != "" {
		name = "event"
	}
	s, err := m.call(b, protocol.OpReport, b.path+name)
	if s != nil {
		err = m.count(s, err)
	}
	if err != nil || s.Done {
		return err
	}
	s.finish(nil, nil)
	m.outcome(s)
	m.put(protocol.Entry{Kind: protocol.EntryReported, Step: &s.Key, Type: eventType, Result: what})
	m.land(s.Key)
	return nil
}

// reported is the kind of what an entry tells the tracker; empty if that is nothing.
func reported(e *protocol.Entry) protocol.NoticeKind {
	switch e.Kind {
	case protocol.EntryReported:
		if e.Type != "" {
			return protocol.NoticeEventReported
		}
		return protocol.NoticeProgress
	case protocol.EntryCompleted:
		return protocol.NoticeCompleted
	case protocol.EntryFailed:
		return protocol.NoticeErrored
	case protocol.EntryTerminated:
		return protocol.NoticeTerminated
	case protocol.EntryDeleted:
		return protocol.NoticeDeleted
	case protocol.EntryPaused:
		return protocol.NoticePaused
	case protocol.EntryHeld:
		return protocol.NoticeHeld
	case protocol.EntryResumed:
		return protocol.NoticeResumed
	case protocol.EntryRestarted:
		return protocol.NoticeRestarted
	}
	return ""
}
