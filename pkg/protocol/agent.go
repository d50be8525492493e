package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxState is the most bytes that an agent's state may have as JSON.
	MaxState = 16 << 20
	// InlineState is the most that stand in the record itself: a larger state is an object.
	InlineState = 64 << 10
)

// Record is everything durable about one agent, written as a whole by compare-and-set: a turn is one write of it.
type Record struct {
	V     int    `json:"v"`
	Class string `json:"class"`
	Name  string `json:"name"`
	// Life is the sequence of the write that created the record; 0 in that write itself.
	Life uint64 `json:"life"`
	// Owner is the id of the host that may write, Epoch the sequence of the write in which it took the agent; 0 in
	// that write itself.
	Owner string `json:"owner,omitempty"`
	Epoch uint64 `json:"epoch"`
	// Turn counts the turns that were committed in this life.
	Turn uint64 `json:"turn"`
	// Commit is chosen once per write: whoever does not know whether it was stored compares it with the record.
	Commit  string          `json:"commit"`
	Updated time.Time       `json:"updated"`
	State   json.RawMessage `json:"state,omitempty"`
	// StateObject stands for a state that is over InlineState.
	StateObject *Object `json:"state_object,omitempty"`
	// Revision counts how often the state was changed in this life.
	Revision uint64 `json:"revision,omitempty"`
	// Large says that objects of earlier states may still be in the store.
	Large bool `json:"large,omitempty"`
	// Seen is the highest number applied, per source of mail. A source of the agent's own (a schedule) that is not
	// in here is unknown, and its mail is dropped.
	Seen map[string]uint64 `json:"seen,omitempty"`
	// Aged are marks as in Seen, of senders that were not heard of since AgedSince.
	Aged      map[string]uint64 `json:"aged,omitempty"`
	AgedSince *time.Time        `json:"aged_since,omitempty"`
	// Calls are the calls that were applied and may be repeated, by CallMark.
	Calls map[string]AppliedCall `json:"calls,omitempty"`
	// Keys are those of mail that was applied and may come again, the first to be forgotten first.
	Keys []AppliedKeys `json:"keys,omitempty"`
	// Outbox is what turns asked for and what may not yet be projected. Ids derive from life, turn and position.
	Outbox []Outgoing `json:"outbox,omitempty"`
	// Parked is the mail that failed and waits for another attempt.
	Parked []Parked `json:"parked,omitempty"`
	// Queue says what the agent has queued for itself; nil if nothing ever.
	Queue *Queue `json:"queue,omitempty"`
	// Condemned says that this life is over: whoever takes the agent only takes away what is left of it, this record last.
	Condemned bool `json:"condemned,omitempty"`
	// Workflows are those that the agent has started and is told of, the oldest first. Notices of others are dropped.
	Workflows []Tracked `json:"workflows,omitempty"`
	// Gateways are the hosts that hold sockets of clients, by their ids.
	Gateways map[string]Gateway `json:"gateways,omitempty"`
}

// Queue is what a record says of the agent's queue. The items are mail of SourceQueue, numbered without a gap; which of
// them are done says the mark of that source.
type Queue struct {
	// Last is the number of the newest item.
	Last uint64 `json:"last"`
	// Cancelled are the numbers of those items that are taken out and not passed yet.
	Cancelled []uint64 `json:"cancelled,omitempty"`
}

// SourceQueue is the source, in Record.Seen and Mail, of the items of an agent's queue.
const SourceQueue = "queue"

// Parked is mail whose last attempt failed. It stays in the inbox and holds up only what comes from the same source.
type Parked struct {
	// Sequence is that of the message in the inbox.
	Sequence uint64 `json:"sequence"`
	// Attempts counts those that failed.
	Attempts  int       `json:"attempts"`
	NotBefore time.Time `json:"not_before"`
}

// Retry says how often a callback is tried and how long it waits in between. What is 0 is the default of its class.
type Retry struct {
	// MaxAttempts counts the first one, too.
	MaxAttempts int      `json:"max_attempts,omitempty"`
	BaseDelay   Duration `json:"base_delay,omitempty"`
	MaxDelay    Duration `json:"max_delay,omitempty"`
}

// OutgoingKind says what an entry of an outbox asks for.
type OutgoingKind string

// Kinds of outbox entries.
const (
	OutgoingCreate         OutgoingKind = "create"
	OutgoingEvent          OutgoingKind = "event"
	OutgoingControl        OutgoingKind = "control"
	OutgoingSchedule       OutgoingKind = "schedule"
	OutgoingCancelSchedule OutgoingKind = "cancel-schedule"
	OutgoingDead           OutgoingKind = "dead"
	OutgoingDropDead       OutgoingKind = "drop-dead"
	OutgoingMail           OutgoingKind = "tell"
	OutgoingQueue          OutgoingKind = "queue"
	OutgoingFrames         OutgoingKind = "frames"
)

// Outgoing is one entry of an outbox. Exactly the field named by Kind is set.
type Outgoing struct {
	// ID is "<life>.<turn>.<n>": projecting it again is harmless.
	ID       string          `json:"id"`
	Kind     OutgoingKind    `json:"kind"`
	Instance *OutgoingTarget `json:"instance,omitempty"`
	Create   *Create         `json:"create,omitempty"`
	// Existing comes with Create: what to do if its id is taken.
	Existing Existing `json:"existing,omitempty"`
	Event    *Event   `json:"event,omitempty"`
	Control  *Control `json:"control,omitempty"`
	// Of comes with Control if the incarnation is not known: the input of the create of the instance that is meant.
	Of       string    `json:"of,omitempty"`
	Schedule *Schedule `json:"schedule,omitempty"`
	// Cancel is the id of the schedule to cancel.
	Cancel string      `json:"cancel,omitempty"`
	Dead   *DeadLetter `json:"dead,omitempty"`
	// DropDead is the id of the dead letter to remove.
	DropDead string        `json:"drop_dead,omitempty"`
	Tell     *OutgoingTell `json:"tell,omitempty"`
	// Queued is the mail that the agent sends itself.
	Queued *Mail `json:"queued,omitempty"`
	// Frames is what goes to clients over their sockets.
	Frames *SocketBatch `json:"frames,omitempty"`
}

// OutgoingTarget names the instance that a create, event or control goes to.
type OutgoingTarget struct {
	Project  string `json:"project"`
	Shard    int    `json:"shard"`
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
}

// OutgoingID is the id of the n-th entry that a turn put into the outbox.
func OutgoingID(life, turn uint64, n int) string {
	return strconv.FormatUint(life, 10) + "." + strconv.FormatUint(turn, 10) + "." + strconv.Itoa(n)
}

// OutgoingLife is the life of the agent that made the id of an outbox entry; 0 if it is no such id.
func OutgoingLife(id string) uint64 {
	first, _, _ := strings.Cut(id, ".")
	life, err := parseCanonical(first)
	if err != nil {
		return 0
	}
	return life
}

// ScheduleKind says how a schedule finds its moments.
type ScheduleKind string

// Kinds of schedules.
const (
	ScheduleDelay ScheduleKind = "delay"
	ScheduleDate  ScheduleKind = "date"
	ScheduleCron  ScheduleKind = "cron"
	// ScheduleInterval fires at its creation plus every multiple of its interval.
	ScheduleInterval ScheduleKind = "interval"
)

// Recurs reports whether schedules of the kind fire more than once.
func (k ScheduleKind) Recurs() bool { return k == ScheduleCron || k == ScheduleInterval }

// Overlap says what becomes of a moment of a schedule that comes while what an earlier one has started is not done.
type Overlap string

// Policies. Without one, a schedule of an agent has OverlapBufferAll, that of a workflow OverlapAllowAll.
const (
	OverlapSkip          Overlap = "skip"
	OverlapBufferOne     Overlap = "buffer_one"
	OverlapBufferAll     Overlap = "buffer_all"
	OverlapCancelRunning Overlap = "cancel_running"
	OverlapAllowAll      Overlap = "allow_all"
)

// Overlaps are all policies.
func Overlaps() []Overlap {
	return []Overlap{OverlapSkip, OverlapBufferOne, OverlapBufferAll, OverlapCancelRunning, OverlapAllowAll}
}

// Schedule is the row of one schedule of an agent or a workflow: it carries its whole meaning, so that whoever reads the
// newest revision needs no older one.
type Schedule struct {
	V     int          `json:"v"`
	ID    string       `json:"id"`
	Class string       `json:"class"`
	Name  string       `json:"name"`
	Life  uint64       `json:"life"`
	Kind  ScheduleKind `json:"kind"`
	// At is the moment of a delay or date.
	At *time.Time `json:"at,omitempty"`
	// Cron is the line of a cron schedule: five fields, six with seconds first, or a descriptor. Zone is its IANA
	// time zone; empty is UTC.
	Cron string `json:"cron,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Lines come in place of Cron if a cron schedule has several lines: it fires at the moments of each, once.
	Lines []string `json:"lines,omitempty"`
	// Interval is that of an interval schedule: MinInterval to MaxInterval.
	Interval Duration `json:"interval,omitempty"`
	// From and Until bound the moments of a schedule that recurs; both are moments that may be. The moments of an interval
	// schedule count from From, if that is set.
	From  *time.Time `json:"from,omitempty"`
	Until *time.Time `json:"until,omitempty"`
	// Times is how often a schedule that recurs fires; 0: without end.
	Times int `json:"times,omitempty"`
	// Jitter bounds by how much a firing is delayed after its moment. The delay follows from agent, schedule and moment.
	Jitter Duration `json:"jitter,omitempty"`
	// CatchUp is how many of the moments that nobody could serve in time fire late, the oldest first; nil: 1.
	CatchUp *int `json:"catch_up,omitempty"`
	// Overlap is for schedules that recur; empty: the default.
	Overlap Overlap `json:"overlap,omitempty"`
	// Paused is set while the schedule does not fire. Resumed is when it was resumed last: of a schedule that recurs, what
	// was planned until then does not fire any more. Neither changes what the schedule is.
	Paused  *Pause     `json:"paused,omitempty"`
	Resumed *time.Time `json:"resumed,omitempty"`
	// Callback is the name of the agent's method, Payload its argument.
	Callback string          `json:"callback"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	Retry    *Retry          `json:"retry,omitempty"`
	Created  time.Time       `json:"created"`
	// Workflow comes in place of Callback: the schedule starts instances of that workflow of the project, with Payload as
	// their params. Class is ClassCron, Name the workflow.
	Workflow string `json:"workflow,omitempty"`
	// Updated is when what decides the moments of the schedule was changed last, or anything of the schedule of a workflow. It
	// is still the same schedule, and goes on where it stood.
	Updated *time.Time `json:"updated,omitempty"`
	// Origin is set on the row of an agent's schedule that was updated: what Made was before that. Moved is when other moments
	// were put in the place of those that it had, if they were: of what was planned until then, only what was armed still fires.
	Origin string     `json:"origin,omitempty"`
	Moved  *time.Time `json:"moved,omitempty"`
}

// SetVersion sets the version of the row: one that an older program would misread has a newer one, and waits for a program that
// knows it.
func (s *Schedule) SetVersion() {
	switch {
	case s.Origin != "" || s.Overlap != "":
		s.V = ScheduleVersion
	case len(s.Lines) > 0 || s.From != nil || s.Until != nil || s.Times != 0 || s.Jitter != 0 || s.CatchUp != nil || s.Workflow != "" || s.Paused != nil || s.Resumed != nil:
		s.V = scheduleVersionBounds
	default:
		s.V = Version
	}
}

// ScheduleSource is the source, in Record.Seen and Mail, of the firings of a schedule.
func ScheduleSource(id string) string { return "schedule/" + id }

// NextInterval is the first moment after t of an interval schedule: moments count from its creation, so they do not drift
// with the lateness of firings, or from From.
func (s *Schedule) NextInterval(t time.Time) time.Time {
	interval := max(time.Duration(s.Interval), MinInterval)
	next := s.Created.Add(interval)
	if s.From != nil {
		next = *s.From
	}
	if late := t.Sub(next); late >= 0 {
		next = next.Add((late/interval + 1) * interval)
	}
	return next.UTC()
}

// FiringNumber is the number, among the mail of its schedule, of a planned moment. It is at least 1: an agent takes 0
// for "none yet".
func FiringNumber(planned time.Time) uint64 { return uint64(max(planned.UnixMilli(), 1)) }

// AloneSource is the source of a firing that waits for no other one of its schedule: the n-th. Its mail has the key
// AloneKey. 256 firings in a row have different sources.
func AloneSource(schedule string, n int) string {
	sum := sha256.Sum256([]byte(schedule))
	return SourcesOfKeys + hex.EncodeToString([]byte{sum[0] + byte(n)})
}

// AloneKey is the key of such a firing.
func AloneKey(schedule string, planned time.Time) string {
	return ScheduleSource(schedule) + " " + strconv.FormatUint(FiringNumber(planned), 10)
}

// SourcesOfBackfills is what BackfillSource begins with.
const SourcesOfBackfills = "backfill/"

// BackfillSource is the source, in Record.Seen and Mail, of the firings of a backfill of a schedule: numbered as in time, so
// that an order which is repeated adds nothing.
func BackfillSource(id, schedule string, from, until time.Time) string {
	h := sha256.New()
	for _, part := range []string{id, schedule, from.UTC().Format(time.RFC3339Nano), until.UTC().Format(time.RFC3339Nano)} {
		_, _ = h.Write([]byte(strconv.Itoa(len(part)) + ":" + part)) // a hash takes everything
	}
	return SourcesOfBackfills + hex.EncodeToString(h.Sum(nil)[:12])
}

// RedriveSource is the source, in Mail, of the second chance of a dead letter. Such mail names the letter and brings
// nothing else: what is to be done stands in the letter.
func RedriveSource(id string) string { return "redrive/" + id }

// Tick is the body of a message schedule on the CLOCK stream, before and after it fires.
type Tick struct {
	V int `json:"v"`
	// Revision is the sequence of the schedule's row that this moment was computed from.
	Revision uint64 `json:"revision"`
	// Definition is a digest of what the schedule was made as: a row that was put again has another revision but the same
	// definition, and goes on from the moment that is armed.
	Definition string    `json:"definition"`
	Planned    time.Time `json:"planned"`
	// Progress is what the schedule has done before Planned; nil: nothing that counts.
	Progress *Progress `json:"progress,omitempty"`
	// Parked says that the moment is kept without a timer, because the schedule is paused or over.
	Parked bool `json:"parked,omitempty"`
	// Over says that the schedule has no moment any more. What one of a workflow has done is kept, as it may be changed. One of
	// an agent is taken away when this comes due.
	Over bool `json:"over,omitempty"`
	// Since is when the moment began to wait for the end of what an earlier one has started, of a workflow. It is armed again
	// until that has ended.
	Since *time.Time `json:"since,omitempty"`
	// Bounds is Bounds of the row that this moment was computed from: if that was changed, the moment may be another.
	Bounds string `json:"bounds,omitempty"`
}

// Progress is what a schedule has done so far. It travels with the moment that is armed, so whoever fires that and arms
// the next one counts on, once.
type Progress struct {
	// Runs counts firings, Missed moments that did not fire because nobody could serve them in time.
	Runs   int `json:"runs,omitempty"`
	Missed int `json:"missed,omitempty"`
	// Skipped counts moments that did not fire because what an earlier one had started was not done.
	Skipped int `json:"skipped,omitempty"`
	// CaughtUp counts the last firings in a row that were so late that the next moment had passed.
	CaughtUp int `json:"caught_up,omitempty"`
	// LastSkipped is the moment that was skipped last.
	LastSkipped *time.Time `json:"last_skipped,omitempty"`
	// Last is the moment that fired last, Previous the one before. Previous and Mail, the sequence of the mail of Last in the
	// inbox, are kept of schedules that look at what is not done.
	Last     *time.Time `json:"last,omitempty"`
	Previous *time.Time `json:"previous,omitempty"`
	Mail     uint64     `json:"mail,omitempty"`
}

// Mail is a message in an agent's inbox.
type Mail struct {
	V int `json:"v"`
	// Source and Number identify it: numbers of one source rise, and each is applied once.
	Source string `json:"source"`
	Number uint64 `json:"number"`
	// ID is that of an item of the agent's queue.
	ID string `json:"id,omitempty"`
	// Life is set if the mail stems from the agent itself: another life drops it.
	Life uint64 `json:"life,omitempty"`
	// Key is set on mail that has no place in a row: then the sequence in the inbox is its number, and it is applied once
	// per key.
	Key string `json:"key,omitempty"`
	// Keep says that the sender may send mail of this key again long after it was applied.
	Keep bool `json:"keep,omitempty"`
	// Notice comes in place of a callback from a workflow that the agent tracks.
	Notice   *WorkflowNotice `json:"notice,omitempty"`
	Callback string          `json:"callback"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	Retry    *Retry          `json:"retry,omitempty"`
	// Planned is when a schedule wanted to fire, Sent when the mail was put into the inbox.
	Planned *time.Time `json:"planned,omitempty"`
	Sent    time.Time  `json:"sent"`
	// Last says that the schedule never fires again: its agent forgets it. Bounds comes with it from a scheduler: what
	// Schedule.Bounds was of the row that it had. If the row is there and has others, it goes on, and the agent is told anew.
	Last   bool   `json:"last,omitempty"`
	Bounds string `json:"bounds,omitempty"`
	// Schedule is the id of the schedule that an operator has triggered with this mail, or that has Overlap: then it has a key.
	// Or it is of a backfill of the schedule.
	Schedule string `json:"schedule,omitempty"`
	// Overlap is OverlapAllowAll if this is a firing that waits for no other one of its schedule, OverlapCancelRunning if it
	// cancels those before it that are not done.
	Overlap Overlap `json:"overlap,omitempty"`
}

// DeadLetter is mail that an agent gave up on, with the reason. It never changes; its id is that of the outbox entry
// that made it.
type DeadLetter struct {
	V        int       `json:"v"`
	Class    string    `json:"class"`
	Name     string    `json:"name"`
	Mail     Mail      `json:"mail"`
	From     string    `json:"from"`
	Attempts int       `json:"attempts"`
	Error    *Failure  `json:"error"`
	Time     time.Time `json:"time"`
	// Cut is set if the payload had no room.
	Cut bool `json:"cut,omitempty"`
}

// Request is what a host sends to the owner of an agent, or a caller to any host. At most one of HTTP, Bell, Call, Confirm,
// Socket and Attach is set.
type Request struct {
	V int `json:"v"`
	// ID is chosen once per request: an owner that gets it again, because the first answer was late, does not start
	// it again.
	ID   string       `json:"id,omitempty"`
	HTTP *HTTPRequest `json:"http,omitempty"`
	Bell *Bell        `json:"bell,omitempty"`
	Call *AgentCall   `json:"call,omitempty"`
	// Confirm is the id of a call or HTTP request whose answer its caller has: it will not be repeated.
	Confirm string        `json:"confirm,omitempty"`
	Socket  *SocketUp     `json:"socket,omitempty"`
	Attach  *SocketAttach `json:"attach,omitempty"`
	// Sent tells a gateway what it was sent, in case it missed that.
	Sent []SocketSent `json:"sent,omitempty"`
	// Identity comes with HTTP: what the host that took the request has found out about who sent it.
	Identity json.RawMessage `json:"identity,omitempty"`
	// Again says that another host, or this one, has begun with the HTTP request of this ID: only its answer is wanted.
	Again bool `json:"again,omitempty"`
	// Word is about the parts of the answer to the HTTP request, or call of a client, of this ID.
	Word *StreamWord `json:"word,omitempty"`
	// Part is one of the body of the HTTP request of this ID.
	Part *BodyPart `json:"part,omitempty"`
	// Activate asks the receiving host to take the agent. On a host's own subject it says which agent HTTP or Bell
	// is for, on the subject of calls the same of Call or Confirm.
	Activate *Activate `json:"activate,omitempty"`
}

// Activate names the agent to take.
type Activate struct {
	Class string `json:"class"`
	Name  string `json:"name"`
}

// Bell hands a rung inbox message to the owner: its sequence and the subject that acks it.
type Bell struct {
	Sequence uint64 `json:"sequence"`
	Ack      string `json:"ack"`
}

// HTTPRequest is a request relayed to the owner.
type HTTPRequest struct {
	Method string              `json:"method"`
	URL    string              `json:"url"`
	Host   string              `json:"host"`
	Remote string              `json:"remote,omitempty"`
	Header map[string][]string `json:"header,omitempty"`
	Body   []byte              `json:"body,omitempty"`
	// Until is when the host that has passed the request on gives up, on its clock.
	Until time.Time `json:"until,omitzero"`
	// Length is set if the body comes in parts, once the request is accepted: its length, −1 if that is not known.
	Length int64 `json:"length,omitempty"`
}

// Reply is an answer of an owner or host to Request.
type Reply struct {
	V int `json:"v"`
	// Accepted is sent at once and repeated while the answer is not ready.
	Accepted bool `json:"accepted,omitempty"`
	// Moved says that this host does not own the agent (any more).
	Moved bool `json:"moved,omitempty"`
	// Begun comes with Moved if the request may have been carried out all the same.
	Begun bool `json:"begun,omitempty"`
	// Owner names the host that owns the agent, in answers to Activate; with Accepted, the host that takes the parts of the
	// request's body or words about those of the answer. The agent has taken Taken of the body. Sent is how many parts of the answer it has sent before.
	Owner string        `json:"owner,omitempty"`
	Taken int           `json:"taken,omitempty"`
	Sent  int           `json:"sent,omitempty"`
	HTTP  *HTTPResponse `json:"http,omitempty"`
	Error *Failure      `json:"error,omitempty"`
	// Stream makes this a part of an answer that leaves while its turn goes on. Status and header stand in HTTP of the first.
	Stream *StreamPart `json:"stream,omitempty"`
	// Result is that of a call. Kept says that the record remembers the call or HTTP request until it is confirmed.
	Result json.RawMessage `json:"result,omitempty"`
	Kept   bool            `json:"kept,omitempty"`
	// Busy comes with Accepted while the agent is busy with something else.
	Busy string `json:"busy,omitempty"`
	// Socket answers Socket, Attached answers Attach.
	Socket   *SocketAck      `json:"socket,omitempty"`
	Attached *SocketAttached `json:"attached,omitempty"`
}

// HTTPResponse is the answer of a turn.
type HTTPResponse struct {
	Status int                 `json:"status"`
	Header map[string][]string `json:"header,omitempty"`
	Body   []byte              `json:"body,omitempty"`
}

// StreamPart is a part of a streamed answer, or says how it ended.
type StreamPart struct {
	// Number counts the parts from 1, the end among them: who misses one can ask for it until it says that it has it.
	Number int    `json:"number"`
	Data   []byte `json:"data,omitempty"`
	// Place is, in a part of an answer to a client, what the client was sent before.
	Place SocketPlace `json:"place,omitzero"`
	// Host is, in the first part, the host that takes words.
	Host string `json:"host,omitempty"`
	// End says that this was all. Broken says why there is no more, though it was not.
	End    bool   `json:"end,omitempty"`
	Broken string `json:"broken,omitempty"`
}

// StreamWord is what the host that takes a streamed answer says, after each part and now and then.
type StreamWord struct {
	// Taken is the number of the last part that was passed on.
	Taken int `json:"taken"`
	// Gone says that nobody takes more.
	Gone bool `json:"gone,omitempty"`
	// Missing asks for all parts again that are not taken.
	Missing bool `json:"missing,omitempty"`
}
