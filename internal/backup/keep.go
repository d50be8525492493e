package backup

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// What of a tape belongs to the backup. Keep functions are asked for each message, in the order of the stream.

// known is what the records of agents and the rows of schedules say, as far as others are held against it.
type known struct {
	// agents are those that have a record, schedules those rows that their records know, both as subjects of their buckets.
	agents, schedules map[string]bool
	// rows are the subjects of CLOCK of those schedules that have a row.
	rows map[string]bool
}

// order is how the kinds are written: each after those that it is held against.
var order = [...]protocol.StreamKind{
	protocol.KindAgents, protocol.KindDead, protocol.KindSchedules, protocol.KindClock, protocol.KindWorkflows, protocol.KindTimers,
	protocol.KindInbox, protocol.KindPost, protocol.KindHosts, protocol.KindSlots, protocol.KindConnections, protocol.KindObjects, protocol.KindJanitors,
	protocol.KindProjects,
}

// keep returns which messages of a tape belong to the backup.
func (c *copier) keep(t *tape, k *known) (func(*entry) bool, error) {
	switch t.kind {
	case protocol.KindWorkflows:
		return c.keepInstances(t), nil
	case protocol.KindInbox:
		return func(e *entry) bool { return e.Sequence <= c.at.mail[t.stream] && !c.tellsOfLater(e) }, nil
	case protocol.KindPost:
		return func(e *entry) bool { return e.Sequence <= c.at.posts[t.stream] }, nil
	case protocol.KindObjects:
		return c.values[t.project].keep(), nil
	}
	newest, err := newestOf(t)
	if err != nil {
		return nil, err
	}
	last := func(e *entry) bool { return newest[e.Subject] == e.Sequence }
	switch t.kind {
	case protocol.KindTimers:
		return func(e *entry) bool { return isFiring(e) || last(e) && len(e.Data) > 0 }, nil
	case protocol.KindClock:
		return func(e *entry) bool {
			return c.ofProjects(e.Subject) && (isFiring(e) || last(e) && len(e.Data) > 0 && k.rows[e.Subject])
		}, nil
	case protocol.KindAgents:
		return func(e *entry) bool { return last(e) && k.record(t.project, e) }, nil
	case protocol.KindDead:
		return func(e *entry) bool { return last(e) && c.at.letters[e.Subject] && k.hasAgent(t.project, e.Subject) }, nil
	case protocol.KindSchedules:
		return func(e *entry) bool { return last(e) && k.row(t.project, e) }, nil
	case protocol.KindProjects, protocol.KindJanitors:
		return func(e *entry) bool { return last(e) && c.ofProjects(e.Subject) }, nil
	}
	return last, nil
}

// newestOf is the sequence of the newest message of each subject that keeps only that.
func newestOf(t *tape) (map[string]uint64, error) {
	newest := map[string]uint64{}
	err := t.each(func(e *entry) error {
		if !isFiring(e) {
			newest[e.Subject] = e.Sequence
		}
		return nil
	})
	return newest, err
}

// isFiring reports whether a message is what a message schedule has fired: any number of them may wait.
func isFiring(e *entry) bool {
	if _, _, err := protocol.ParseDueSubject(e.Subject); err == nil {
		return true
	}
	_, _, err := protocol.ParseClockDueSubject(e.Subject)
	return err == nil
}

// keepInstances keeps logs up to where they end, and inputs up to where those do. Of what is deleted only the entry that says so
// is left, as of every instance that is.
func (c *copier) keepInstances(t *tape) func(*entry) bool {
	logs, inputs := c.at.logs[t.stream], c.inputsEnd[t.stream]
	return func(e *entry) bool {
		i, class, err := protocol.ParseInstanceSubject(e.Subject)
		if err != nil {
			return e.Sequence <= logs // of nobody
		}
		switch deleted := c.deletes[i]; {
		case e.Sequence == deleted:
			return true
		case e.Sequence < deleted:
			return false
		case class == protocol.ClassLog || class == protocol.ClassDone:
			return e.Sequence <= logs
		}
		return e.Sequence <= inputs
	}
}

// tellsOfLater reports whether a message is mail that tells an agent what a log of the backup has not yet: it would be told again, by an
// entry that is written again.
func (c *copier) tellsOfLater(e *entry) bool {
	var m protocol.Mail
	if json.Unmarshal(e.Data, &m) != nil || m.Notice == nil {
		return false
	}
	shards := 0
	for _, t := range c.of(protocol.KindWorkflows) {
		if t.project == m.Notice.Project {
			shards++
		}
	}
	if shards == 0 {
		return false // of a project that is not copied
	}
	return m.Notice.Cursor.Sequence > c.at.logs[protocol.WorkflowsStream(m.Notice.Project, protocol.Shard(m.Notice.ID, shards))]
}

func isDelete(data []byte) bool {
	var a protocol.Append
	return json.Unmarshal(data, &a) == nil &&
		slices.ContainsFunc(a.Entries, func(e protocol.Entry) bool { return e.Kind == protocol.EntryDeleted })
}

// record is what a backup looks at in the record of an agent.
type record struct {
	V           int               `json:"v"`
	Turn        uint64            `json:"turn"`
	StateObject *protocol.Object  `json:"state_object"`
	Seen        map[string]uint64 `json:"seen"`
}

// readRecord reads what an agent's key holds. What was written by a newer version is looked at all the same: what it has of this is
// the same.
func readRecord(data []byte) (r record, ok bool) {
	return r, len(data) > 0 && json.Unmarshal(data, &r) == nil
}

// record notes what a record says. It keeps all of them, also what cannot be read.
func (k *known) record(project string, e *entry) bool {
	key := strings.TrimPrefix(e.Subject, protocol.KVSubject(protocol.AgentsBucket(project), ""))
	r, ok := readRecord(e.Data)
	if !ok {
		return true
	}
	k.agents[project+" "+key] = true
	for source := range r.Seen {
		if id, ok := strings.CutPrefix(source, protocol.ScheduleSource("")); ok {
			k.schedules[protocol.KVSubject(protocol.SchedulesBucket(project), key+"."+protocol.Escape(id))] = true
		}
	}
	return true
}

// hasAgent reports whether there is the agent that a dead letter is of.
func (k *known) hasAgent(project, subject string) bool {
	key := strings.TrimPrefix(subject, protocol.KVSubject(protocol.DeadBucket(project), ""))
	class, name, _, err := protocol.ParseDeadKey(key)
	return err != nil || k.agents[project+" "+protocol.AgentKey(class, name)]
}

// row keeps the rows of workflows, and those of agents that their records know. A row that its record does not know any more, or
// not yet, is of a turn that is not in the backup, or goes.
func (k *known) row(project string, e *entry) bool {
	key := strings.TrimPrefix(e.Subject, protocol.KVSubject(protocol.SchedulesBucket(project), ""))
	class, name, id, err := protocol.ParseScheduleKey(key)
	if err != nil || len(e.Data) == 0 {
		return true // a mark that a row is deleted
	}
	if class != protocol.ClassCron && !k.schedules[e.Subject] {
		return false
	}
	k.rows[protocol.ClockSubject(project, class, name, id)] = true
	return true
}

// ofProjects reports whether a message of a stream that all projects share is of one that is copied.
func (c *copier) ofProjects(subject string) bool {
	project := ""
	for _, bucket := range []string{protocol.BucketProjects, protocol.BucketJanitors} {
		if key, ok := strings.CutPrefix(subject, protocol.KVSubject(bucket, "")); ok {
			project = key
		}
	}
	if t := strings.SplitN(subject, ".", 4); project == "" && len(t) == 4 { // of the clock
		project = t[2]
	}
	return slices.Contains(c.copied, project)
}
