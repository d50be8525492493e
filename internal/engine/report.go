package engine

import "github.com/skein-run/skein/pkg/protocol"

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
				Value: e.Result, Object: e.Object, Error: e.Error,
			},
			Expires: e.Expires,
		})
	}
	return all
}

// reported is the kind of what an entry tells the tracker; empty if that is nothing.
func reported(e *protocol.Entry) protocol.NoticeKind {
	switch e.Kind {
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
