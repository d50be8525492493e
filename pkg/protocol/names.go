package protocol

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Buckets and streams that exist once for all projects.
const (
	// BucketProjects is the registry: one row per project, written by its own processes.
	BucketProjects = "PROJECTS"
	// BucketJanitors says which scheduler cleans up after a project.
	BucketJanitors = "JANITORS"
	// StreamClock holds the message schedules that make agents' schedules come due.
	StreamClock = "CLOCK"
)

// Durable consumers. Each stands on the stream named in its comment.
const (
	// ConsumerDue delivers the timers that fired (TimersStream).
	ConsumerDue = "due"
	// ConsumerDoorbell rings for every inbox message (InboxStream).
	ConsumerDoorbell = "doorbell"
	// ConsumerScheduler follows the rows of SchedulesBucket.
	ConsumerScheduler = "scheduler"
	// ConsumerClock delivers what came due on StreamClock.
	ConsumerClock = "clock"
)

// ConsumerWakes is the durable that delivers the creates and events of a shard (WorkflowsStream).
func ConsumerWakes(shard int) string {
	if shard == 0 {
		return "wakes"
	}
	return "wakes-" + strconv.Itoa(shard)
}

// ConsumerControls is the durable that delivers the controls of a shard (WorkflowsStream). They have one of their own,
// so that no backlog of inputs holds them up.
func ConsumerControls(shard int) string {
	if shard == 0 {
		return "controls"
	}
	return "controls-" + strconv.Itoa(shard)
}

// SubjectServers asks every NATS server what it is. Only the system account may, and accounts that import it from that.
const SubjectServers = "$SYS.REQ.SERVER.PING.VARZ"

// Headers that Skein sets or reads. All of them belong to the NATS server.
const (
	// HeaderExpectedSubjectSequence makes a publish a compare-and-append on its own literal subject.
	HeaderExpectedSubjectSequence = "Nats-Expected-Last-Subject-Sequence"
	// HeaderSchedule holds "@at <RFC 3339 with nanoseconds>".
	HeaderSchedule = "Nats-Schedule"
	// HeaderScheduleTarget names the subject a schedule fires to.
	HeaderScheduleTarget = "Nats-Schedule-Target"
	// HeaderRollup with RollupSubject replaces what the subject held.
	HeaderRollup = "Nats-Rollup"
	// RollupSubject is the only rollup that Skein uses.
	RollupSubject = "sub"
	// HeaderTTL lets a tombstone disappear by itself.
	HeaderTTL = "Nats-TTL"
	// HeaderStream, HeaderSequence, HeaderSubject, HeaderLastSequence, HeaderUpToSequence, HeaderPending and HeaderTime stand on
	// the answers of a direct get.
	HeaderStream       = "Nats-Stream"
	HeaderSequence     = "Nats-Sequence"
	HeaderSubject      = "Nats-Subject"
	HeaderLastSequence = "Nats-Last-Sequence"
	HeaderUpToSequence = "Nats-UpTo-Sequence"
	HeaderPending      = "Nats-Num-Pending"
	HeaderTime         = "Nats-Time-Stamp"
	// HeaderStatus is the status of an answer without a body.
	HeaderStatus = "Status"
	// HeaderKVOperation marks deletes in the streams of key-value buckets.
	HeaderKVOperation = "KV-Operation"
	// KVDelete is its value on the marker that a deleted key leaves.
	KVDelete = "DEL"
)

// AckPrefix begins every subject that acks a message: a host that is handed one publishes to no other.
const AckPrefix = "$JS.ACK."

// InboxPrefix is the only prefix of a reply subject that a responder of Skein answers to: a client may name any
// subject as its reply, and the server would publish the answer there unchecked.
const InboxPrefix = "_INBOX"

const upperHex = "0123456789ABCDEF"

// Escape turns any text into one subject token that is also a valid key of a bucket, readable and reversible:
// letters, digits, "-" and "_" stay, every other byte becomes "=" and two upper-case hex digits ("@" is "=40").
// The empty text becomes "=".
func Escape(name string) string {
	if name == "" {
		return "="
	}
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if isPlain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('=')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	return b.String()
}

// Unescape is the inverse of Escape. A token that Escape cannot have made is refused.
func Unescape(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	if token == "" {
		return "", fmt.Errorf("%w: empty token", ErrName)
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if isPlain(c) {
			b = append(b, c)
			continue
		}
		if c != '=' || i+2 >= len(token) {
			return "", fmt.Errorf("%w: token %q: %q at byte %d", ErrName, token, c, i)
		}
		hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("%w: token %q: no hex digits after byte %d", ErrName, token, i)
		}
		raw := byte(hi<<4 | lo)
		if isPlain(raw) {
			return "", fmt.Errorf("%w: token %q: %q must not be escaped", ErrName, token, raw)
		}
		b = append(b, raw)
		i += 2
	}
	return string(b), nil
}

// Streams and buckets of one project.

// WorkflowsStream holds inputs, logs and announcements of the instances of one shard of the project. Shard 0 is named after
// the project alone; a number is set off by a character that no name of a project has, so that no two names are one.
func WorkflowsStream(project string, shard int) string {
	if shard == 0 {
		return "WORKFLOWS_" + project
	}
	return "WORKFLOWS_" + project + "=" + strconv.Itoa(shard)
}

// TimersStream holds one message schedule per parked instance that waits until a moment.
func TimersStream(project string) string { return "TIMERS_" + project }

// InboxStream holds the mail of the project's agents.
func InboxStream(project string) string { return "INBOX_" + project }

// AgentsBucket holds one record per agent.
func AgentsBucket(project string) string { return "AGENTS_" + project }

// SchedulesBucket holds one row per schedule: of an agent, a projection of the agents' outboxes; of a workflow, what the
// project's skein.jsonc says.
func SchedulesBucket(project string) string { return "SCHEDULES_" + project }

// HostsBucket holds the leases of the project's agent hosts.
func HostsBucket(project string) string { return "HOSTS_" + project }

// SlotsBucket holds, for workflows of limited concurrency, who has a slot and who waits for one.
func SlotsBucket(project string) string { return "SLOTS_" + project }

// ObjectsBucket is the object store for values that are too large for messages.
func ObjectsBucket(project string) string { return "OBJECTS_" + project }

// ConnectionsBucket holds, per gateway and agent, which sockets of clients the gateway holds.
func ConnectionsBucket(project string) string { return "CONNECTIONS_" + project }

// ConnectionsKey is the key of a row of an agent's connections at a gateway. Rows count from 0; the number of the first one is not in
// its key.
func ConnectionsKey(gateway, class, name string, row int) string {
	key := gateway + "." + AgentKey(class, name)
	if row == 0 {
		return key
	}
	return key + "." + strconv.Itoa(row)
}

// ConnectionsKeys covers all agents of a gateway.
func ConnectionsKeys(gateway string) string { return gateway + ".>" }

// FurtherConnectionsKeys covers all rows of an agent's connections at a gateway but the first.
func FurtherConnectionsKeys(gateway, class, name string) string {
	return ConnectionsKey(gateway, class, name, 0) + ".*"
}

// ParseConnectionsKey is the inverse of ConnectionsKey.
func ParseConnectionsKey(key string) (gateway, class, name string, row int, err error) {
	parts := strings.Split(key, ".")
	if len(parts) == 4 {
		number, err := parseCanonical(parts[3])
		if row = int(number); err != nil || row < 1 {
			return "", "", "", 0, fmt.Errorf("%w: key of connections %q: want the number of a row at the end", ErrName, key)
		}
		parts = parts[:3]
	}
	if len(parts) != 3 {
		return "", "", "", 0, fmt.Errorf("%w: key of connections %q: want gateway.class.name or gateway.class.name.row", ErrName, key)
	}
	class, name, err = ParseAgentKey(parts[1] + "." + parts[2])
	return parts[0], class, name, row, err
}

// DeadBucket holds what an agent gave up on.
func DeadBucket(project string) string { return "DEAD_" + project }

// KVStream is the stream behind a bucket, KVSubject the subject of one of its keys.
func KVStream(bucket string) string { return "KV_" + bucket }

// KVSubject is the subject that holds key in bucket.
func KVSubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// AgentKey is the key of an agent in AgentsBucket.
func AgentKey(class, name string) string { return class + "." + Escape(name) }

// ParseAgentKey is the inverse of AgentKey.
func ParseAgentKey(key string) (class, name string, err error) {
	class, token, ok := strings.Cut(key, ".")
	if !ok {
		return "", "", fmt.Errorf("%w: agent key %q: want class.name", ErrName, key)
	}
	if err := CheckClass(class); err != nil {
		return "", "", err
	}
	name, err = Unescape(token)
	return class, name, err
}

// ScheduleKey is the key of one schedule of an agent in SchedulesBucket.
func ScheduleKey(class, name, schedule string) string {
	return AgentKey(class, name) + "." + Escape(schedule)
}

// ParseScheduleKey is the inverse of ScheduleKey. The class is that of an agent, or ClassCron.
func ParseScheduleKey(key string) (class, name, schedule string, err error) {
	workflow, ok := strings.CutPrefix(key, ClassCron+".")
	if !ok {
		return parseEntryKey(key)
	}
	workflow, token, ok := strings.Cut(workflow, ".")
	if !ok {
		return "", "", "", fmt.Errorf("%w: schedule key %q: want %s.workflow.id", ErrName, key, ClassCron)
	}
	if err := CheckWorkflow(workflow); err != nil {
		return "", "", "", err
	}
	schedule, err = Unescape(token)
	return ClassCron, workflow, schedule, err
}

// parseEntryKey splits the key of something that an agent has several of.
func parseEntryKey(key string) (class, name, id string, err error) {
	agent, token, ok := cutLast(key)
	if !ok {
		return "", "", "", fmt.Errorf("%w: key %q: want class.name.id", ErrName, key)
	}
	if class, name, err = ParseAgentKey(agent); err != nil {
		return "", "", "", err
	}
	id, err = Unescape(token)
	return class, name, id, err
}

// ScheduleKeys matches the keys of all schedules of an agent; without a name of a class, without both of all.
func ScheduleKeys(class, name string) string { return rowKeys(class, name) }

// rowKeys matches the keys of rows of an agent, of a class or of all.
func rowKeys(class, name string) string {
	switch {
	case class == "":
		return ">"
	case name == "":
		return class + ".>"
	}
	return AgentKey(class, name) + ".*"
}

// DeadKey is the key of a dead letter of an agent in DeadBucket; id is that of the outbox entry that put it there.
func DeadKey(class, name, id string) string { return AgentKey(class, name) + "." + Escape(id) }

// ParseDeadKey is the inverse of DeadKey.
func ParseDeadKey(key string) (class, name, id string, err error) { return parseEntryKey(key) }

// DeadKeys matches the keys of all dead letters of an agent; without a name of a class, without both of all.
func DeadKeys(class, name string) string { return rowKeys(class, name) }

// callPrefix cannot begin the type or the id of an event that a user chooses.
const callPrefix = "="

// CallType is the type of the event that tells the caller of an instance of its end. It names the call: the same step
// after a restart of its instance, or of another instance that has the same id later, is another one.
func CallType(incarnation uint64, epoch int, name string, count int) string {
	return fmt.Sprintf("%s%d.%d.%d.%s", callPrefix, incarnation, epoch, count, name)
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// Instance names one instance of a workflow: where its messages live.
type Instance struct {
	Project  string
	Shard    int
	Workflow string
	ID       string
}

func (i Instance) String() string { return i.Project + "/" + i.Workflow + "/" + i.ID }

// Stream is where all messages of the instance are, but its timers: only there can their sequences be compared.
func (i Instance) Stream() string { return WorkflowsStream(i.Project, i.Shard) }

func (i Instance) subject(class string) string {
	return "wf." + i.Project + "." + strconv.Itoa(i.Shard) + "." + class + "." + i.Workflow + "." + i.ID
}

// CreateSubject holds the create of the instance: at most one message.
func (i Instance) CreateSubject() string { return i.subject("in") + ".create" }

// EventSubject takes the events sent to the instance.
func (i Instance) EventSubject() string { return i.subject("in") + ".event" }

// NudgeSubject takes nudges: wakes without a content that a runner sends to an instance that it parked too early.
func (i Instance) NudgeSubject() string { return i.subject("in") + ".nudge" }

// InputsSubject matches everything sent to the instance by those who may only send inputs.
func (i Instance) InputsSubject() string { return i.subject("in") + ".*" }

// EverySubject matches everything of the instance that is no input: controls, log and announcements.
func (i Instance) EverySubject() string { return i.subject("*") }

// ControlSubject takes controls.
func (i Instance) ControlSubject() string { return i.subject("ctl") }

// LogSubject is the instance's log: written by compare-and-append, by the project's runners only.
func (i Instance) LogSubject() string { return i.subject("log") }

// DoneSubject announces the end of the instance.
func (i Instance) DoneSubject() string { return i.subject("done") }

// EndedSubject tells of the same once it is stored: it is not, as the done subject is, heard before.
func (i Instance) EndedSubject() string {
	return "ended." + i.Project + "." + strconv.Itoa(i.Shard) + "." + i.Workflow + "." + i.ID
}

// TimerSubject holds the timer of one park. The park's log sequence is part of the name, so that no late writer can
// touch the timer of a newer park.
func (i Instance) TimerSubject(park uint64) string { return i.timer(park, "at") }

// DueSubject is where the timer of a park fires to.
func (i Instance) DueSubject(park uint64) string { return i.timer(park, "due") }

func (i Instance) timer(park uint64, kind string) string {
	return "timer." + i.Project + "." + strconv.Itoa(i.Shard) + "." + i.Workflow + "." + i.ID + "." +
		strconv.FormatUint(park, 10) + "." + kind
}

// Class of a message on the WORKFLOWS stream: the fourth token of its subject.
type Class string

// Classes of subjects, and what the last token of an input can be.
const (
	ClassCreate  Class = "create"
	ClassEvent   Class = "event"
	ClassNudge   Class = "nudge"
	ClassControl Class = "ctl"
	ClassLog     Class = "log"
	ClassDone    Class = "done"
)

// ParseInstanceSubject splits a subject of the WORKFLOWS stream.
func ParseInstanceSubject(subject string) (Instance, Class, error) {
	t := strings.Split(subject, ".")
	if len(t) < 6 || t[0] != "wf" {
		return Instance{}, "", fmt.Errorf("%w: subject %q: not of an instance", ErrName, subject)
	}
	i, err := parseInstance(t[1], t[2], t[4], t[5])
	if err != nil {
		return Instance{}, "", fmt.Errorf("subject %q: %w", subject, err)
	}
	class := Class(t[3])
	switch {
	case len(t) == 7 && t[3] == "in" && (t[6] == "create" || t[6] == "event" || t[6] == "nudge"):
		return i, Class(t[6]), nil
	case len(t) == 6 && (class == ClassControl || class == ClassLog || class == ClassDone):
		return i, class, nil
	}
	return Instance{}, "", fmt.Errorf("%w: subject %q: not of an instance", ErrName, subject)
}

// ParseDueSubject splits the subject of a timer that fired.
func ParseDueSubject(subject string) (i Instance, park uint64, err error) {
	return parseTimer(subject, "due", "a timer that fired")
}

// ParseTimerSubject splits the subject of a timer that is armed.
func ParseTimerSubject(subject string) (i Instance, park uint64, err error) {
	return parseTimer(subject, "at", "a timer that is armed")
}

func parseTimer(subject, kind, what string) (i Instance, park uint64, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 7 || t[0] != "timer" || t[6] != kind {
		return i, 0, fmt.Errorf("%w: subject %q: not of %s", ErrName, subject, what)
	}
	if i, err = parseInstance(t[1], t[2], t[3], t[4]); err != nil {
		return Instance{}, 0, fmt.Errorf("subject %q: %w", subject, err)
	}
	if park, err = parseCanonical(t[5]); err != nil {
		return Instance{}, 0, fmt.Errorf("subject %q: park: %w", subject, err)
	}
	return i, park, nil
}

func parseInstance(project, shard, workflow, id string) (Instance, error) {
	n, err := parseCanonical(shard)
	if err != nil || n > 1<<20 {
		return Instance{}, fmt.Errorf("%w: shard %q", ErrName, shard)
	}
	if err := errors.Join(CheckProject(project), CheckWorkflow(workflow), CheckInstance(id)); err != nil {
		return Instance{}, err
	}
	return Instance{Project: project, Shard: int(n), Workflow: workflow, ID: id}, nil
}

// parseCanonical accepts a number only as FormatUint writes it, so that builders and parsers are inverse.
func parseCanonical(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%w: %q is no number", ErrName, s)
	}
	return n, nil
}

// Subjects that cover many instances.

// WorkflowSubjects is everything on the WORKFLOWS streams of a project, ShardSubjects on that of one shard.
func WorkflowSubjects(project string) string { return "wf." + project + ".>" }

// ShardSubjects is everything on the WORKFLOWS stream of a shard.
func ShardSubjects(project string, shard int) string {
	return "wf." + project + "." + strconv.Itoa(shard) + ".>"
}

// InputSubjects is what the wake consumer of a shard filters on: one prefix, because several filters on one consumer
// make it slow once it lags.
func InputSubjects(project string, shard int) string {
	return "wf." + project + "." + strconv.Itoa(shard) + ".in.>"
}

// CreateSubjects is every create of a workflow.
func CreateSubjects(project, workflow string) string {
	return "wf." + project + ".*.in." + workflow + ".*.create"
}

// NudgeSubjects is every nudge to instances of a workflow.
func NudgeSubjects(project, workflow string) string {
	return "wf." + project + ".*.in." + workflow + ".*.nudge"
}

// AllCreates is every create of a project.
func AllCreates(project string) string { return CreateSubjects(project, "*") }

// ControlSubjects is what the control consumer of a shard filters on.
func ControlSubjects(project string, shard int) string {
	return "wf." + project + "." + strconv.Itoa(shard) + ".ctl.>"
}

// DoneRepublish is what the WORKFLOWS stream repeats to core subscribers after storing it, and where (EndedSubject).
func DoneRepublish(project string) (source, destination string) {
	return "wf." + project + ".*.done.*.*", "ended." + project + ".{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}"
}

// TimerSubjects is everything on the TIMERS stream of a project.
func TimerSubjects(project string) string { return "timer." + project + ".>" }

// DueSubjects is what the timer consumer filters on.
func DueSubjects(project string) string { return "timer." + project + ".*.*.*.*.due" }

// Subjects between processes, never stored.

// PokeSubject tells the runners of a project that an instance they may be executing has new input.
func PokeSubject(project string) string { return "poke." + project }

// AskSubject is answered by any runner of the project (queue group) with the status of an instance.
func AskSubject(project string) string { return "ask." + project }

// AskRunnerSubject is answered by one runner of the project, by the id that it gives itself.
func AskRunnerSubject(project, runner string) string { return "ask." + project + "." + Escape(runner) }

// Agent names one agent: where its record, mail and callers meet.
type Agent struct {
	Project string
	Class   string
	Name    string
}

func (a Agent) String() string { return a.Project + "/" + a.Class + "/" + a.Name }

// InboxSubject is where mail from project from waits for the agent. The sender's project is part of the name, so that
// permissions can bind a project to its own.
func (a Agent) InboxSubject(from string) string {
	return "inbox." + a.Project + "." + from + "." + AgentKey(a.Class, a.Name)
}

// MailSubject matches the agent's mail from everybody.
func (a Agent) MailSubject() string { return a.InboxSubject("*") }

// RequestSubject is listened to by the agent's owner.
func (a Agent) RequestSubject() string { return "agent." + a.Project + "." + AgentKey(a.Class, a.Name) }

// ParseInboxSubject splits a subject of an INBOX stream.
func ParseInboxSubject(subject string) (a Agent, from string, err error) {
	t := strings.SplitN(subject, ".", 4)
	if len(t) != 4 || t[0] != "inbox" {
		return a, "", fmt.Errorf("%w: subject %q: not of an inbox", ErrName, subject)
	}
	class, name, err := ParseAgentKey(t[3])
	if err := errors.Join(CheckProject(t[1]), CheckProject(t[2]), err); err != nil {
		return a, "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return Agent{Project: t[1], Class: class, Name: name}, t[2], nil
}

// InboxSubjects is everything on the INBOX stream of a project.
func InboxSubjects(project string) string { return "inbox." + project + ".>" }

// ActivateSubject asks the hosts of a class (queue group) to take an agent.
func ActivateSubject(project, class string) string { return "activate." + project + "." + class }

// HostSubject reaches one agent host by its id.
func HostSubject(project, host string) string { return "host." + project + "." + host }

// ClockSubject holds the next moment of a schedule, ClockDueSubject is where it fires to.
func ClockSubject(project, class, name, schedule string) string {
	return "clock.at." + project + "." + ScheduleKey(class, name, schedule)
}

// ClockDueSubject is where the moment of a schedule fires to.
func ClockDueSubject(project, class, name, schedule string) string {
	return "clock.due." + project + "." + ScheduleKey(class, name, schedule)
}

// ClockSubjectsOf covers the next moments of all schedules of a project.
func ClockSubjectsOf(project string) string { return "clock.at." + project + ".>" }

// ClockKey is the key of the schedule whose next moment a subject holds, in SchedulesBucket of the project; empty if the
// subject is none that ClockSubjectsOf covers.
func ClockKey(project, subject string) string {
	key, ok := strings.CutPrefix(subject, "clock.at."+project+".")
	if !ok {
		return ""
	}
	return key
}

// ClockSubjects, ClockArmSubjects and ClockDueSubjects cover all schedules of all projects: all of it, what is armed, and what has
// fired.
const (
	ClockSubjects    = "clock.>"
	ClockArmSubjects = "clock.at.>"
	ClockDueSubjects = "clock.due.>"
)

// ParseClockDueSubject is the inverse of ClockDueSubject.
func ParseClockDueSubject(subject string) (a Agent, schedule string, err error) {
	t := strings.SplitN(subject, ".", 4)
	if len(t) != 4 || t[0] != "clock" || t[1] != "due" {
		return a, "", fmt.Errorf("%w: subject %q: not of a schedule that came due", ErrName, subject)
	}
	class, name, schedule, err := ParseScheduleKey(t[3])
	if err := errors.Join(CheckProject(t[2]), err); err != nil {
		return a, "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return Agent{Project: t[2], Class: class, Name: name}, schedule, nil
}

// MaxShards is how many shards a project can have. Each is a stream of its own, with two consumers, on all of its replicas.
const MaxShards = 64

// Shard is the shard that an instance belongs to, fixed by its id: FNV-1a, so that any language can compute it.
func Shard(id string, shards int) int {
	if shards <= 1 {
		return 0
	}
	hash := uint32(2166136261)
	for i := range len(id) {
		hash = (hash ^ uint32(id[i])) * 16777619
	}
	return int(hash % uint32(shards))
}
