package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Projects that do not trust each other have an account of NATS each. What one of them, the caller, wants of another, the
// owner, it says at the owner's door: in requests that processes of the owner check and carry out. What the owner has to
// tell the caller of that, later, is news: the same with the parts exchanged. Who speaks stands in the subject, and the
// server sees to it that nobody else can say so.

// Kinds of doors: what a subject of a door is about.
const (
	// DoorWorkflow is for instances of a workflow, served by any runner of the owner.
	DoorWorkflow = "workflow"
	// DoorAgent is for agents of a class, served by any host of the owner.
	DoorAgent = "agent"
	// DoorRegistry tells what the owner has, served by any runner or host.
	DoorRegistry = "registry"
	// DoorValue takes the parts of a large value, served by the process that has begun to take it.
	DoorValue = "value"
)

// Ops at the door of a workflow.
const (
	DoorOpCreate  = "create"
	DoorOpEvent   = "event"
	DoorOpControl = "control"
	// DoorOpLook asks whether an instance is there, and how it has ended; DoorOpAwait waits for its end.
	DoorOpLook  = "look"
	DoorOpAwait = "await"
	// DoorOpAsk asks what a runner answers to an Ask: its body is one, and its answer an Answer.
	DoorOpAsk = "ask"
	// DoorOpPut begins to hand over a large value, DoorOpGet reads a part of one.
	DoorOpPut = "put"
	DoorOpGet = "get"
	// DoorOpEnd ends what a call has created, if that has not ended.
	DoorOpEnd = "end"
)

// Ops at the door of a class of agents. Whoever serves the class serves them.
const (
	// DoorOpMail puts mail into the inbox of an agent.
	DoorOpMail = "mail"
	// DoorOpCall calls a method of an agent. Each request has one answer: if there is none yet when the caller has waited long
	// enough, it is that the call was accepted, and the caller asks again under the same id.
	DoorOpCall = "call"
)

// Ops of news. They are about instances and agents of whom the news is for.
const (
	// NewsOpEnded tells an instance of the end of what it has called. Its large output is handed over by DoorOpPut.
	NewsOpEnded = "ended"
	// NewsOpNotice tells an agent what an instance makes known that it tracks.
	NewsOpNotice = "notice"
)

// DoorReplies begins every subject that a server makes for the answer to a request of another account. Whoever serves a door
// answers to no other: a caller may name any subject as its reply, and the server hides it behind one of these.
const DoorReplies = "_R_."

// IsServerHeader reports whether a header means something to the server, as those do that schedule, expect or remove messages.
func IsServerHeader(name string) bool {
	return len(name) > len(serverHeaders) && strings.EqualFold(name[:len(serverHeaders)], serverHeaders)
}

const serverHeaders = "Nats-"

// HeaderRequestInfo is set by the server on requests of other accounts.
const HeaderRequestInfo = "Nats-Request-Info"

const (
	doorPrefix = "door"
	newsPrefix = "news"
)

// Door names where one project speaks to another: at the door of its owner, or with News of what the owner has asked for.
type Door struct {
	News bool
	// Owner serves the door, Caller speaks.
	Owner, Caller string
}

func (d Door) subject(parts ...string) string {
	prefix := doorPrefix
	if d.News {
		prefix = newsPrefix
	}
	return strings.Join(append([]string{prefix, d.Owner, d.Caller}, parts...), ".")
}

// WorkflowSubject takes requests about instances of a workflow; "*" stands for all workflows or ops.
func (d Door) WorkflowSubject(workflow, op string) string {
	return d.subject(DoorWorkflow, workflow, op)
}

// AgentSubject takes requests about agents of a class; "*" stands for all classes or ops.
func (d Door) AgentSubject(class, op string) string { return d.subject(DoorAgent, class, op) }

// RegistrySubject is asked what the owner has.
func (d Door) RegistrySubject() string { return d.subject(DoorRegistry) }

// ValueSubject takes the parts of a large value for a process, by the id that it gives itself; "*" stands for all.
func (d Door) ValueSubject(server string) string {
	if server != "*" {
		server = Escape(server)
	}
	return d.subject(DoorValue, server)
}

// Subjects is all that is said there.
func (d Door) Subjects() string { return d.subject(">") }

// AnyCaller stands for all callers in the subjects that a process of the owner listens to.
const AnyCaller = "*"

// DoorSubject is a subject of a door, taken apart.
type DoorSubject struct {
	Door
	// Kind is DoorWorkflow, DoorAgent, DoorRegistry or DoorValue.
	Kind string
	// Name is that of the workflow or class, or the id of the process.
	Name string
	Op   string
}

// ParseDoorSubject splits a subject of a door. It does not judge the op.
func ParseDoorSubject(subject string) (DoorSubject, error) {
	bad := func(err error) (DoorSubject, error) {
		return DoorSubject{}, fmt.Errorf("subject %q: of no door: %w", subject, err)
	}
	t := strings.Split(subject, ".")
	if len(t) < 4 || t[0] != doorPrefix && t[0] != newsPrefix {
		return bad(ErrName)
	}
	s := DoorSubject{Door: Door{News: t[0] == newsPrefix, Owner: t[1], Caller: t[2]}, Kind: t[3]}
	if err := errors.Join(CheckProject(s.Owner), CheckProject(s.Caller)); err != nil {
		return bad(err)
	}
	var err error
	switch {
	case s.Kind == DoorWorkflow && len(t) == 6:
		s.Name, s.Op, err = t[4], t[5], CheckWorkflow(t[4])
	case s.Kind == DoorAgent && len(t) == 6:
		s.Name, s.Op, err = t[4], t[5], CheckClass(t[4])
	case s.Kind == DoorRegistry && len(t) == 4:
	case s.Kind == DoorValue && len(t) == 5:
		if s.Name, err = Unescape(t[4]); s.Name == "*" {
			err = ErrName
		}
	default:
		err = ErrName
	}
	if err != nil {
		return bad(err)
	}
	return s, nil
}

// DoorRequest is what is said at a door, but for DoorOpAsk and what is said to agents. What an op does not need is not read.
type DoorRequest struct {
	V int `json:"v"`
	// ID is that of the instance, or the name of the agent.
	ID string `json:"id,omitempty"`
	// Create and Existing are for DoorOpCreate, Event for DoorOpEvent, Control for DoorOpControl.
	Create   *Create  `json:"create,omitempty"`
	Existing Existing `json:"existing,omitempty"`
	Event    *Event   `json:"event,omitempty"`
	Control  *Control `json:"control,omitempty"`
	// Incarnation and Wait are for DoorOpAwait: which instance is meant, and how long the answer may wait.
	Incarnation uint64   `json:"incarnation,omitempty"`
	Wait        Duration `json:"wait,omitempty"`
	// Parent is for DoorOpEnd: the call whose child is to end.
	Parent *Parent `json:"parent,omitempty"`
	// Put is for DoorOpPut, Part for DoorValue, Get for DoorOpGet.
	Put  *DoorPut  `json:"put,omitempty"`
	Part *DoorPart `json:"part,omitempty"`
	Get  *DoorGet  `json:"get,omitempty"`
	// Mail is for DoorOpMail. Call is for DoorOpCall, CallID its id; Wait is how long the answer may wait.
	Mail   *Mail      `json:"mail,omitempty"`
	Call   *AgentCall `json:"call,omitempty"`
	CallID string     `json:"call_id,omitempty"`
	// Ended is for NewsOpEnded, Notice for NewsOpNotice.
	Ended  *Ended  `json:"ended,omitempty"`
	Notice *Notify `json:"notice,omitempty"`
}

// DoorPut begins to hand over a large value of an instance.
type DoorPut struct {
	// Token is that of the owner of the value (see ObjectOwner).
	Token string `json:"token"`
	// Digest is the SHA-256 of the value in hex, Size its bytes.
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// DoorPart is a part of a large value. The parts come in their order, each after the answer to the one before.
type DoorPart struct {
	Transfer string `json:"transfer"`
	// From is where in the value Data begins.
	From int64  `json:"from"`
	Data []byte `json:"data"`
}

// MaxDoorPart is the most bytes of a value in one request or answer at a door: with base64 and all else it stays below the
// NATS server's default max_payload.
const MaxDoorPart = 4 * InlinePayload

// DoorGet reads a part of a large value of an instance.
type DoorGet struct {
	Object Object `json:"object"`
	// Try and After are those of the answer before; empty for the first part.
	Try   string `json:"try,omitempty"`
	After uint64 `json:"after,omitempty"`
}

// Ended tells the caller of an instance of its end.
type Ended struct {
	// Parent is the call, Done the end of what it has called. That is of the project which says so.
	Parent Parent `json:"parent"`
	Done   Done   `json:"done"`
}

// Event is how the instance that has called learns of the end of one of project.
func (e Ended) Event(project string) (Event, error) {
	payload, err := json.Marshal(e.Done)
	child := Instance{Project: project, Workflow: e.Done.Workflow, ID: e.Done.ID}
	return Event{
		V: Version, Input: CallbackInput(child, e.Done), Type: e.Parent.Call, Payload: payload, Sent: e.Done.Finished,
	}, err
}

// Notify tells an agent what an instance makes known.
type Notify struct {
	Tracker Tracker        `json:"tracker"`
	Notice  WorkflowNotice `json:"notice"`
	Sent    time.Time      `json:"sent"`
}

// DoorAnswer answers a DoorRequest.
type DoorAnswer struct {
	V int `json:"v"`
	// Error says that it was not done, and why.
	Error *Failure `json:"error,omitempty"`
	// Outcome is that of a create: empty if the instance is new, else OutcomeFound or OutcomeRestarted.
	Outcome string `json:"outcome,omitempty"`
	// Incarnation is the number by which the instance goes, Input that of its create. Done is how it has ended.
	Incarnation uint64 `json:"incarnation,omitempty"`
	Input       string `json:"input,omitempty"`
	Done        *Done  `json:"done,omitempty"`
	// Object is the value that was handed over. Without it, Transfer and Server name where its parts are to go, and From is
	// where the next one begins.
	Object   *Object `json:"object,omitempty"`
	Transfer string  `json:"transfer,omitempty"`
	Server   string  `json:"server,omitempty"`
	From     int64   `json:"from,omitempty"`
	// Reply is the answer to a call.
	Reply *Reply `json:"reply,omitempty"`
	// Data is a part of a value. Try and After are for the next.
	Data  []byte `json:"data,omitempty"`
	Try   string `json:"try,omitempty"`
	After uint64 `json:"after,omitempty"`
	// Workflows and Agents answer at DoorRegistry: what there is for the caller, workflows with their classes.
	Workflows map[string]string `json:"workflows,omitempty"`
	Agents    []string          `json:"agents,omitempty"`
}

// Outcomes of a create that made nothing new.
const (
	OutcomeFound     = "found"
	OutcomeRestarted = "restarted"
)

// Names of the failures of a DoorAnswer, beside FailureNotFound and FailureExists.
const (
	// FailureRefused says that a request is not allowed or makes no sense: no repetition mends that.
	FailureRefused = "RefusedError"
	// FailureBusy says that it can be done later.
	FailureBusy = "BusyError"
	// FailureNoValue says that the object that a request names was not handed over, or is not what the request says.
	FailureNoValue = "NoValueError"
)

// MaxInput is the most bytes that the id of an input may have.
const MaxInput = 1024

// PostStream holds what runners of a project have to say at the doors of others, until it is answered. It is made when it is
// first needed.
func PostStream(project string) string { return "POST_" + project }

// PostSubjects is everything on the POST stream of a project.
func PostSubjects(project string) string { return "post." + project + ".>" }

// PostSubjectsTo is what is to be said to one other project.
func PostSubjectsTo(project, to string) string { return "post." + project + "." + to + ".>" }

// PostSubject holds what is to be said to a project about one instance or agent, in its order: kind, name and id are those
// of its door.
func PostSubject(project, to, kind, name, id string) string {
	return "post." + project + "." + to + "." + kind + "." + name + "." + Escape(id)
}

// ParsePostSubject tells for whom the message of a subject is that PostSubjects covers.
func ParsePostSubject(subject string) (project, to string, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 6 || t[0] != "post" {
		return "", "", fmt.Errorf("%w: subject %q: of no post", ErrName, subject)
	}
	return t[1], t[2], errors.Join(CheckProject(t[1]), CheckProject(t[2]))
}

// Post is one request that waits for its answer.
type Post struct {
	V int `json:"v"`
	// Kind, Name and Op are those of the subject of the door, News whether it is news.
	News    bool        `json:"news,omitempty"`
	Kind    string      `json:"kind"`
	Name    string      `json:"name"`
	Op      string      `json:"op"`
	Request DoorRequest `json:"request"`
	Posted  time.Time   `json:"posted"`
}
