package porter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/skein-run/skein/pkg/protocol"
)

// What a caller says is taken apart, and put together again from what was checked: a field that is not named here is not handed on.

// ownInputs begin the ids of inputs that Skein derives and that a caller must not take from others.
var ownInputs = []string{"cron/", "call/", "end/", "="}

func checkInput(input string) error {
	switch {
	case input == "" || len(input) > protocol.MaxInput || !utf8.ValidString(input):
		return fmt.Errorf("input %.80q has %d bytes, allowed are 1 to %d of UTF-8", input, len(input), protocol.MaxInput)
	case slices.ContainsFunc(ownInputs, func(prefix string) bool { return strings.HasPrefix(input, prefix) }):
		return fmt.Errorf("input %q begins as those do that Skein derives", input)
	}
	return nil
}

// sourceKinds are those that another project can be.
var sourceKinds = []string{"agent", "program", "schedule", "step", "call"}

// checkSource returns who says it: always somebody of the caller.
func checkSource(caller string, s protocol.Source) (protocol.Source, error) {
	switch {
	case s.Project != caller || !slices.Contains(sourceKinds, s.Kind):
		return s, fmt.Errorf("source %q of project %q: allowed is one of %q of project %q", s.Kind, s.Project, sourceKinds, caller)
	case len(s.Class) > protocol.MaxAgentName || len(s.Name) > protocol.MaxAgentName || !utf8.ValidString(s.Class+s.Name):
		return s, fmt.Errorf("source: class and name have %d and %d bytes, allowed are %d of UTF-8", len(s.Class), len(s.Name), protocol.MaxAgentName)
	}
	return s, nil
}

// maxCall bounds the type of the event by which the caller of an instance is told of its end.
const maxCall = protocol.MaxStepName + 80

func checkParent(caller string, p *protocol.Parent) error {
	switch {
	case p == nil:
		return refused("parent is missing")
	case p.Project != caller:
		return refused("parent is of project %q, allowed is %q", p.Project, caller)
	case p.Incarnation == 0 || !strings.HasPrefix(p.Call, "=") || len(p.Call) > maxCall || !utf8.ValidString(p.Call):
		return refused("parent: no call of an instance has the type %.80q", p.Call)
	}
	if err := errors.Join(protocol.CheckWorkflow(p.Workflow), protocol.CheckInstance(p.ID)); err != nil {
		return refused("parent: %v", err)
	}
	return nil
}

func checkTracker(caller string, t *protocol.Tracker) error {
	if t.Project != caller {
		return fmt.Errorf("tracker is of project %q, allowed is %q", t.Project, caller)
	}
	if err := errors.Join(protocol.CheckClass(t.Class), protocol.CheckAgent(t.Name)); err != nil {
		return fmt.Errorf("tracker: %w", err)
	}
	return nil
}

// checkInline bounds what stands beside an object, or in its place.
func checkInline(what string, raw []byte, object *protocol.Object) error {
	if len(raw) > protocol.InlinePayload || object != nil && len(raw) > 0 {
		return fmt.Errorf("%s: %d bytes in the message, allowed are %d, and none beside an object", what, len(raw), protocol.InlinePayload)
	}
	return nil
}

// moment is when something was said: not in the future, whatever the clock of the caller shows.
func moment(said, now time.Time) time.Time {
	if said.IsZero() || said.After(now) {
		return now.UTC()
	}
	return said.UTC()
}

func checkCreate(v *visit, at protocol.Instance, now time.Time) (protocol.Create, error) {
	c := v.request.Create
	if c == nil {
		return protocol.Create{}, refused("create is missing")
	}
	if c.V < 1 || c.V > protocol.Version || c.Workflow != at.Workflow || c.ID != at.ID {
		return protocol.Create{}, refused("create: version %d of instance %q of workflow %q, allowed is %d, and %s", c.V, c.ID, c.Workflow, protocol.Version, at)
	}
	source, err := checkSource(v.Caller, c.Source)
	err = errors.Join(err, checkInline("params", c.Params, c.ParamsObject), checkRetention(c.Retention))
	switch {
	case c.Parent != nil:
		err = errors.Join(err, checkParent(v.Caller, c.Parent))
		if c.Input != c.Parent.CreateInput() {
			err = errors.Join(err, fmt.Errorf("input %q is not that of the call", c.Input))
		}
	case c.Source.Kind == "step": // its id may be derived from one that Skein has chosen
		err = errors.Join(err, checkInput(c.Input))
	default:
		err = errors.Join(err, checkInput(c.Input), protocol.CheckNewInstance(c.ID))
	}
	if c.Tracker != nil {
		err = errors.Join(err, checkTracker(v.Caller, c.Tracker))
	}
	if c.Carried != 0 || c.Schedule != nil {
		err = errors.Join(err, errors.New("carried and schedule are not for others"))
	}
	if !slices.Contains([]protocol.Existing{protocol.ExistingFail, protocol.ExistingReturn, protocol.ExistingRestart}, v.request.Existing) {
		err = errors.Join(err, fmt.Errorf("existing is %q", v.request.Existing))
	}
	if err != nil {
		return protocol.Create{}, refused("create: %v", err)
	}
	return protocol.Create{
		V: protocol.Version, Input: c.Input, Workflow: at.Workflow, ID: at.ID, Params: c.Params, ParamsObject: c.ParamsObject,
		Created: moment(c.Created, now), Source: source, Retention: c.Retention, Parent: c.Parent, Tracker: c.Tracker,
	}, nil
}

func checkRetention(r *protocol.Retention) error {
	if r == nil {
		return nil
	}
	for _, d := range []protocol.Duration{r.Success, r.Error} {
		if d < 0 || time.Duration(d) > protocol.MaxRetention {
			return fmt.Errorf("retention %s: allowed is 0 to %s", time.Duration(d), protocol.MaxRetention)
		}
	}
	return nil
}

func checkEvent(v *visit, now time.Time) (protocol.Event, error) {
	e := v.request.Event
	if e == nil {
		return protocol.Event{}, refused("event is missing")
	}
	err := errors.Join(
		protocol.CheckEventType(e.Type), protocol.CheckEventID(e.Input), checkInline("payload", e.Payload, e.PayloadObject),
	)
	if e.V < 1 || e.V > protocol.Version {
		err = errors.Join(err, fmt.Errorf("version %d, allowed is %d", e.V, protocol.Version))
	}
	if err != nil {
		return protocol.Event{}, refused("event: %v", err)
	}
	return protocol.Event{
		V: protocol.Version, Input: e.Input, Type: e.Type, Payload: e.Payload, PayloadObject: e.PayloadObject, Sent: moment(e.Sent, now),
	}, nil
}

// actions are those that others may ask for.
var actions = []protocol.Action{
	protocol.ActionPause, protocol.ActionResume, protocol.ActionTerminate, protocol.ActionRestart, protocol.ActionDelete,
}

func checkControl(v *visit, now time.Time) (protocol.Control, error) {
	c := v.request.Control
	if c == nil {
		return protocol.Control{}, refused("control is missing")
	}
	source, err := checkSource(v.Caller, c.Source)
	err = errors.Join(err, checkInput(c.Input))
	if c.V < 1 || c.V > protocol.Version || c.Expired || !slices.Contains(actions, c.Action) {
		err = errors.Join(err, fmt.Errorf("version %d, action %q, expired %t: allowed is %d, one of %q, and not expired", c.V, c.Action, c.Expired, protocol.Version, actions))
	}
	if c.Rollback && c.Action != protocol.ActionTerminate || c.Accept && c.Action != protocol.ActionResume || c.From != nil && c.Action != protocol.ActionRestart {
		err = errors.Join(err, fmt.Errorf("rollback, accept or from is not for action %q", c.Action))
	}
	if c.From != nil {
		err = errors.Join(err, protocol.CheckStep(c.From.Name))
		if c.From.Count < 1 || !slices.Contains([]protocol.Op{protocol.OpDo, protocol.OpSleep, protocol.OpEvent, protocol.OpCall, protocol.OpRace}, c.From.Op) {
			err = errors.Join(err, fmt.Errorf("there is no use %d of a step of kind %q", c.From.Count, c.From.Op))
		}
	}
	if err != nil {
		return protocol.Control{}, refused("control: %v", err)
	}
	return protocol.Control{
		V: protocol.Version, Input: c.Input, Action: c.Action, Sent: moment(c.Sent, now), Source: source, Rollback: c.Rollback, From: c.From,
		Accept: c.Accept, Incarnation: c.Incarnation,
	}, nil
}

// checkEnded wants the end of an instance of the caller's, told to the instance that the request is about.
func checkEnded(v *visit) (protocol.Ended, error) {
	e := v.request.Ended
	if e == nil {
		return protocol.Ended{}, refused("ended is missing")
	}
	p, d := e.Parent, e.Done
	if err := checkParent(v.Owner, &p); err != nil {
		return protocol.Ended{}, err
	}
	err := errors.Join(protocol.CheckWorkflow(d.Workflow), protocol.CheckInstance(d.ID), checkInline("output", d.Output, d.OutputObject))
	switch {
	case p.Workflow != v.Name || p.ID != v.request.ID:
		err = errors.Join(err, fmt.Errorf("parent is %s/%s", p.Workflow, p.ID))
	case d.V < 1 || d.V > protocol.Version || !d.State.Finished() || d.Incarnation == 0 || d.Epoch < 0:
		err = errors.Join(err, fmt.Errorf("version %d, state %q of %d: that is no end", d.V, d.State, d.Incarnation))
	}
	if err != nil {
		return protocol.Ended{}, refused("ended: %v", err)
	}
	done := protocol.Done{
		V: protocol.Version, Workflow: d.Workflow, ID: d.ID, Incarnation: d.Incarnation, Log: d.Log, State: d.State, Created: d.Created,
		Finished: d.Finished, Output: d.Output, OutputObject: d.OutputObject, Error: fit(d.Error), Mark: d.Mark, Epoch: d.Epoch, Expires: d.Expires,
	}
	if d.Rollback != nil {
		done.Rollback = &protocol.Rollback{Outcome: d.Rollback.Outcome, Error: fit(d.Rollback.Error)}
	}
	return protocol.Ended{Parent: p, Done: done}, nil
}

// fit cuts a failure to what may be stored.
func fit(f *protocol.Failure) *protocol.Failure {
	if f == nil {
		return nil
	}
	return protocol.NewFailure(f)
}

// checkNotice wants what an instance of the caller's makes known to an agent of the class that the request is about.
func checkNotice(v *visit) (protocol.Notify, error) {
	n := v.request.Notice
	if n == nil {
		return protocol.Notify{}, refused("notice is missing")
	}
	err := errors.Join(
		checkTracker(v.Owner, &n.Tracker), protocol.CheckWorkflow(n.Notice.Workflow), protocol.CheckInstance(n.Notice.ID),
		checkInline("value", n.Notice.Value, n.Notice.Object),
	)
	switch {
	case n.Tracker.Class != v.Name:
		err = errors.Join(err, fmt.Errorf("the tracker is of class %q", n.Tracker.Class))
	case n.Notice.Project != v.Caller:
		err = errors.Join(err, fmt.Errorf("it is of project %q, allowed is %q", n.Notice.Project, v.Caller))
	case !slices.Contains(protocol.NoticeKinds(), n.Notice.Kind) || n.Notice.Cursor.Sequence == 0:
		err = errors.Join(err, fmt.Errorf("kind %q, sequence %d", n.Notice.Kind, n.Notice.Cursor.Sequence))
	case len(n.Notice.Input) > protocol.MaxInput:
		err = errors.Join(err, fmt.Errorf("input has %d bytes", len(n.Notice.Input)))
	}
	if err != nil {
		return protocol.Notify{}, refused("notice: %v", err)
	}
	notice := n.Notice
	notice.Error = fit(notice.Error)
	return protocol.Notify{Tracker: n.Tracker, Notice: notice, Sent: n.Sent}, nil
}
