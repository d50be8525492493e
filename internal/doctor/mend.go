package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// sourceKind is the kind of the Source of controls that a repair sends.
const sourceKind = "doctor"

// remedies say what a repair does, by kind.
var remedies = map[Kind]string{
	NoWake:         "pause the instance and resume it: it goes on under the wake of that",
	LeftPaused:     "resume the instance",
	NoTimer:        "nudge the instance: it looks at its waits, and parks again",
	NotQueued:      "nudge the instance: it takes a slot, or is queued again",
	LostInput:      "nudge the instance: it looks at its waits again",
	LostControl:    "send a control that asks for a snapshot: who gets it obeys all before it",
	EndNotTold:     "send a control in vain, which is answered by announcing the end",
	AnswerNotGiven: "send a control in vain to it: who gets it tells everybody of the end again",
	HalfDeleted:    "send a control in vain: who gets it goes on deleting",
	EmptyCreate:    "delete the create",
}

// mend repairs what is wrong with an instance. What it sends, it sends only if nobody else has sent something like it
// since the look: then that one is the wake that was missing.
func (d *Doctor) mend(ctx context.Context, kind Kind, f facts) (string, error) {
	switch kind {
	case NoWake:
		return d.wakeUp(ctx, f)
	case LeftPaused:
		return d.goOn(ctx, f, f.control)
	case NoTimer, NotQueued, LostInput:
		return d.nudge(ctx, f)
	case LostControl:
		return d.control(ctx, f, protocol.ActionCompact)
	case EndNotTold, AnswerNotGiven, HalfDeleted:
		return d.control(ctx, f, protocol.ActionResume)
	case EmptyCreate:
		err := d.Store.Delete(ctx, f.instance.Stream(), f.createAt)
		return fmt.Sprintf("deleted message %d", f.createAt), err
	}
	return "", fmt.Errorf("kind %q has no repair", kind)
}

// seen says that somebody else has seen to it.
const seen = "nothing: somebody else has sent something since"

// nudge stores a wake for a parked instance. A nudge that is newer than the park always makes it go on (P7).
func (d *Doctor) nudge(ctx context.Context, f facts) (string, error) {
	body, err := json.Marshal(protocol.Nudge{V: protocol.Version, Runner: sourceKind + "-" + uuid.NewString(), Park: f.Park})
	if err != nil {
		return "", err
	}
	sequence, err := d.Store.Append(ctx, f.instance.Stream(), f.instance.NudgeSubject(), f.nudge, body)
	if errors.Is(err, journal.ErrConflict) {
		return seen, nil
	}
	return fmt.Sprintf("sent nudge %d", sequence), err
}

// control sends a control after the newest one that was seen.
func (d *Doctor) control(ctx context.Context, f facts, action protocol.Action) (string, error) {
	sequence, err := d.send(ctx, f, action, f.control)
	if errors.Is(err, journal.ErrConflict) {
		return seen, nil
	}
	return fmt.Sprintf("sent %s %d", action, sequence), err
}

func (d *Doctor) send(ctx context.Context, f facts, action protocol.Action, after uint64) (uint64, error) {
	body, err := json.Marshal(protocol.Control{
		V: protocol.Version, Input: uuid.NewString(), Action: action, Sent: time.Now().UTC(), Incarnation: f.Incarnation,
		Source: protocol.Source{Kind: sourceKind, Project: d.Project.Name},
	})
	if err != nil {
		return 0, err
	}
	return d.Store.Append(ctx, f.instance.Stream(), f.instance.ControlSubject(), after, body)
}

// wakeUp gives a new wake to an instance that should execute. Only a control makes a running instance go on under another
// wake (P1), and pause and resume are those that change nothing else.
func (d *Doctor) wakeUp(ctx context.Context, f facts) (string, error) {
	paused, err := d.send(ctx, f, protocol.ActionPause, f.control)
	if errors.Is(err, journal.ErrConflict) {
		return seen, nil
	}
	if err != nil {
		return "", err
	}
	done, err := d.goOn(ctx, f, paused)
	return fmt.Sprintf("sent pause %d; %s", paused, done), err
}

// goOn resumes an instance after a pause of a repair, unless somebody has steered it since: then that one's word counts.
// Only what asks for snapshots is passed over.
func (d *Doctor) goOn(ctx context.Context, f facts, paused uint64) (string, error) {
	for after := paused; ; {
		sequence, err := d.send(ctx, f, protocol.ActionResume, after)
		conflict, ok := errors.AsType[*journal.ConflictError](err)
		if !ok {
			return fmt.Sprintf("sent resume %d", sequence), err
		}
		if conflict.Tail == nil {
			return seen, nil // it is deleted
		}
		m, err := d.Store.NextFromLeader(ctx, f.instance.Stream(), f.instance.ControlSubject(), after+1)
		if errors.Is(err, journal.ErrNotFound) {
			return seen, nil
		}
		if err != nil {
			return "", err
		}
		var c protocol.Control
		if json.Unmarshal(m.Data, &c) == nil && c.Action != protocol.ActionCompact {
			return seen, nil
		}
		after = m.Sequence
	}
}
