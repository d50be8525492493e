package protocol

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrName is wrapped by every error about a name that Skein cannot use.
var ErrName = errors.New("invalid name")

// NameError says what is wrong with a name that a user chose. It wraps ErrName.
type NameError struct {
	// What the name is for, as "instance id", and the name.
	What, Name string
	// Limit is how many bytes it may have.
	Limit int
	// Reason says what is wrong with it, and what is allowed.
	Reason string
}

func (e *NameError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%v: %s is empty", ErrName, e.What)
	}
	return fmt.Sprintf("%v: %s %q: %s", ErrName, e.What, e.Name, e.Reason)
}

// Unwrap makes errors.Is(err, ErrName) true.
func (e *NameError) Unwrap() error { return ErrName }

// Limits of names, in bytes. Source of the defaults: the limits of Cloudflare Workflows, whose users we serve.
const (
	MaxProjectName  = 64
	MaxWorkflowName = 64
	MaxInstanceID   = 100
	MaxEventType    = 100
	MaxEventID      = 256
	MaxClassName    = 64
	// MaxAgentName counts the bytes before escaping.
	MaxAgentName = 1024
	MaxStepName  = 256
)

// CheckProject reports whether name can be the name of a project.
func CheckProject(name string) error { return checkToken("project", name, MaxProjectName) }

// CheckWorkflow reports whether name can be the name of a workflow.
func CheckWorkflow(name string) error { return checkToken("workflow", name, MaxWorkflowName) }

// CheckBinding reports whether name can be the name by which a project reaches a workflow.
func CheckBinding(name string) error { return checkToken("binding", name, MaxWorkflowName) }

// CheckInstance reports whether id can be the id of an instance.
func CheckInstance(id string) error { return checkToken("instance id", id, MaxInstanceID) }

// reservedInstances are ids that have a meaning of their own where ids are written in paths and commands.
var reservedInstances = [...]string{"batch", "latest", "terminate", "terminateAll"}

// ReservedInstances begins the ids of instances that Skein makes for reasons of its own.
const ReservedInstances = "skein_"

// CheckNewInstance reports whether users can choose id for a new instance: CheckInstance, and it is not reserved.
func CheckNewInstance(id string) error {
	if err := CheckInstance(id); err != nil {
		return err
	}
	if slices.Contains(reservedInstances[:], id) || strings.HasPrefix(id, ReservedInstances) {
		return &NameError{"instance id", id, MaxInstanceID, fmt.Sprintf("reserved are %q and what begins with %q", reservedInstances, ReservedInstances)}
	}
	return nil
}

// CheckEventID reports whether id can be the idempotency key of an event: 1 to MaxEventID bytes of UTF-8 that do not
// begin as the ids do that Skein makes.
func CheckEventID(id string) error {
	if err := checkText("event id", id, MaxEventID); err != nil {
		return err
	}
	if strings.ContainsAny(id[:1], "#=") {
		return &NameError{"event id", id, MaxEventID, fmt.Sprintf("begins with %q", id[:1])}
	}
	return nil
}

// CheckEventType reports whether name can be the type of an event.
func CheckEventType(name string) error { return checkToken("event type", name, MaxEventType) }

// CheckClass reports whether name can be the name of a class, of agents or of workflows.
func CheckClass(name string) error { return checkToken("class", name, MaxClassName) }

// CheckAgent reports whether name can be the name of an agent: any text of 1 to MaxAgentName bytes.
func CheckAgent(name string) error { return checkText("agent", name, MaxAgentName) }

// CheckStep reports whether name can be the name of a step: 1 to MaxStepName bytes without control characters.
func CheckStep(name string) error {
	if err := checkText("step", name, MaxStepName); err != nil {
		return err
	}
	if i := strings.IndexFunc(name, unicode.IsControl); i >= 0 {
		return &NameError{"step", name, MaxStepName, fmt.Sprintf("has a control character at byte %d", i)}
	}
	return nil
}

// checkText wants UTF-8: JSON would replace other bytes, and the name read back would not be the name given.
func checkText(what, name string, limit int) error {
	if err := checkLength(what, name, limit); err != nil {
		return err
	}
	for i, r := range name {
		if r != utf8.RuneError {
			continue
		}
		if _, size := utf8.DecodeRuneInString(name[i:]); size == 1 {
			return &NameError{what, name, limit, fmt.Sprintf("is not UTF-8 at byte %d", i)}
		}
	}
	return nil
}

func checkLength(what, name string, limit int) error {
	switch {
	case name == "":
		return &NameError{what, name, limit, "is empty"}
	case len(name) > limit:
		return &NameError{what, name, limit, fmt.Sprintf("is %d bytes long, at most %d are allowed", len(name), limit)}
	}
	return nil
}

// checkToken wants one subject token of letters, digits, dashes and underscores that does not start with a dash.
func checkToken(what, name string, limit int) error {
	if err := checkLength(what, name, limit); err != nil {
		return err
	}
	for i, c := range name {
		if c < utf8.RuneSelf && isPlain(byte(c)) && (i > 0 || c != '-') {
			continue
		}
		return &NameError{what, name, limit, fmt.Sprintf("%q at byte %d; allowed are letters, digits, \"_\" and (not first) \"-\"", c, i)}
	}
	return nil
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
