package protocol

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxCallChain bounds how many agents wait for each other in one chain of calls.
const MaxCallChain = 16

// Names of failures of calls, beside those that a method's own error has.
const (
	// FailureCallCycle refuses a call that would wait for itself.
	FailureCallCycle = "CallCycleError"
	// FailureResultLost says that a call was applied before, and that its result is not known any more.
	FailureResultLost = "ResultLostError"
)

// AgentCall is a call of an agent's method, as it travels to the agent's owner.
type AgentCall struct {
	// From is the project of the caller. A host that takes a call from outside sets it from the call's subject.
	From    string          `json:"from"`
	Method  string          `json:"method"`
	Payload json.RawMessage `json:"payload,omitempty"`
	// Within is how long the caller waits from now on.
	Within Duration `json:"within"`
	// Until is that moment on the clock of the caller, so that a copy that was held up is known for one.
	Until time.Time `json:"until,omitzero"`
	// Fresh makes the turn write although it changes nothing, so that its answer is not that of a former owner.
	Fresh bool `json:"fresh,omitempty"`
	// Keep says that the caller may repeat the call long after it was answered.
	Keep bool `json:"keep,omitempty"`
	// Chain is who waits for the call, the first caller first.
	Chain []CallLink `json:"chain,omitempty"`
	// Destroy is the life of the agent that is to end. Then there is no method.
	Destroy uint64 `json:"destroy,omitempty"`
	// Terminate lets Destroy terminate the workflows that the agent tracks.
	Terminate bool `json:"terminate,omitempty"`
}

// CallLink is one caller in a chain of calls.
type CallLink struct {
	// Agent is Agent.String.
	Agent string `json:"agent"`
	// Outside says that other turns of the agent run while it waits.
	Outside bool `json:"outside,omitempty"`
}

// Waits reports whether a turn of the agent waits for the call.
func (c AgentCall) Waits(agent string) bool {
	return slices.Contains(c.Chain, CallLink{Agent: agent})
}

// AppliedCall is what a record remembers of a call that was applied, until its caller has the answer.
type AppliedCall struct {
	// Until is when it may be forgotten.
	Until time.Time `json:"until"`
	// Open says that the call had not ended: only what it saved early is stored.
	Open bool `json:"open,omitempty"`
	// Result is that of a call; of an HTTP request, the HTTPResponse.
	Result json.RawMessage `json:"result,omitempty"`
	// Lost says that there was a result, too large to be kept.
	Lost bool `json:"lost,omitempty"`
}

// AppliedKeys are marks of mail with a key that was applied. A record has many: so those that may be forgotten at the same
// moment stand together, in the order in which they came.
type AppliedKeys struct {
	Until time.Time `json:"until"`
	// Marks is one CallMark after the other, without anything in between.
	Marks string `json:"marks"`
}

// CallMarkLen is how long every CallMark is.
const CallMarkLen = 16

// Has reports whether a CallMark is among the marks.
func (k AppliedKeys) Has(mark string) bool {
	for i := 0; i+CallMarkLen <= len(k.Marks); i += CallMarkLen {
		if k.Marks[i:i+CallMarkLen] == mark {
			return true
		}
	}
	return false
}

// Len is how many marks there are.
func (k AppliedKeys) Len() int { return len(k.Marks) / CallMarkLen }

// CallMark is the key, in a record, of a call or other mail with an id: short, whatever the id is.
func CallMark(id string) string {
	sum := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// OutgoingTell is mail to another agent.
type OutgoingTell struct {
	Project string `json:"project"`
	Class   string `json:"class"`
	Name    string `json:"name"`
	Mail    Mail   `json:"mail"`
}

// Agent is whom the mail is for.
func (t OutgoingTell) Agent() Agent { return Agent{Project: t.Project, Class: t.Class, Name: t.Name} }

// What TellSource and KeySource begin with.
const (
	SourcesOfAgents = "agent/"
	SourcesOfKeys   = "tell/"
)

// maxTellKey bounds the part of a source that stands for an agent: records have many.
const maxTellKey = 128

// TellSource is the source of what an agent tells others in one of its lives.
func (a Agent) TellSource(life uint64) string {
	key := AgentKey(a.Class, a.Name)
	if len(key) > maxTellKey {
		key = a.Class + ".=sha256-" + digest(a.Name)
	}
	return SourcesOfAgents + key + "/" + strconv.FormatUint(life, 10)
}

// maxTells bounds what one commit tells: more would not fit into TellNumber, nor into the record.
const maxTells = 1 << 16

// TellNumber is the number of the n-th entry of the outbox of a turn, as mail of TellSource. The error says that there
// are too many.
func TellNumber(turn uint64, n int) (uint64, error) {
	if n >= maxTells {
		return 0, fmt.Errorf("a turn asks for %d things, at most %d are allowed", n, maxTells)
	}
	return turn*maxTells + uint64(n), nil
}

// KeySource is the source of mail that has a key instead of a place in a row. A few sources share all of it, so that one
// message that fails does not hold up every other.
func KeySource(key string) string {
	sum := sha256.Sum256([]byte(key))
	return SourcesOfKeys + hex.EncodeToString(sum[:1])
}

// CallSubject is listened to by the hosts of a class (queue group): they bring calls from a project's processes that are
// no hosts of the agent. The caller's project is part of the name, so that permissions can bind it to its own.
func CallSubject(project, from, class string) string {
	return "call." + project + "." + from + "." + class
}

// CallSubjects covers the calls from all projects.
func CallSubjects(project, class string) string { return CallSubject(project, "*", class) }

// ParseCallSubject is the inverse of CallSubject.
func ParseCallSubject(subject string) (project, from, class string, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 4 || t[0] != "call" {
		return "", "", "", fmt.Errorf("%w: subject %q: not of a call", ErrName, subject)
	}
	if err := errors.Join(CheckProject(t[1]), CheckProject(t[2]), CheckClass(t[3])); err != nil {
		return "", "", "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return t[1], t[2], t[3], nil
}
