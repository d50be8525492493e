package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// DeadLetters are the callbacks that a project's agents gave up on: see DeadLettersOf.
type DeadLetters struct{ project *project.Project }

// DeadLettersOf gives access to the dead letters of a project. What is asked of it happens at once, also in a turn.
func DeadLettersOf(p *project.Project) DeadLetters { return DeadLetters{p} }

// DeadLetter is a callback that an agent gave up on.
type DeadLetter struct {
	// ID names it in its project: "<class>/<agent>/<number>".
	ID    string `json:"id"`
	Class string `json:"class"`
	Agent string `json:"agent"`
	// Source says where it came from: "schedule/<id>" for the agent's own schedules. From is the sender's project.
	Source   string          `json:"source"`
	From     string          `json:"from"`
	Callback string          `json:"callback,omitempty"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	// Cut is set if the payload had no room: then it is lost.
	Cut bool `json:"cut,omitempty"`
	// Planned is when a schedule wanted to call it.
	Planned *time.Time `json:"planned,omitempty"`
	// Attempts were made; Error is what the last one ended with, Time when.
	Attempts int               `json:"attempts"`
	Error    *protocol.Failure `json:"error"`
	Time     time.Time         `json:"time"`

	revision uint64
}

// DeadFilter says which dead letters to list. The zero value takes all.
type DeadFilter struct {
	// Class of the agents.
	Class string
	// Agent is the name of one agent of the class.
	Agent string
}

// DeadLetterError says why nothing can be done with a dead letter.
type DeadLetterError struct {
	ID     string
	Reason string
	Err    error
}

func (e *DeadLetterError) Error() string { return fmt.Sprintf("dead letter %q: %s", e.ID, e.Reason) }

// Unwrap returns what the error stems from.
func (e *DeadLetterError) Unwrap() error { return e.Err }

// FailureName is how the error is called where it is stored or answered.
func (e *DeadLetterError) FailureName() string { return "DeadLetterError" }

// ErrNoDeadLetter is wrapped if there is no dead letter of an id: it was dropped, or redriven and applied.
var ErrNoDeadLetter = errors.New("no such dead letter")

// List returns the dead letters, by class, agent and number. One that is put there or taken away meanwhile may be
// missing.
func (d DeadLetters) List(ctx context.Context, filter DeadFilter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		if filter.Class == "" && filter.Agent != "" {
			yield(DeadLetter{}, &DeadLetterError{ID: "/" + filter.Agent, Reason: "the agent's class is missing"})
			return
		}
		bucket := bucketOf(protocol.DeadBucket(d.project.Config.Name))
		wanted := bucket.subject(protocol.DeadKeys(filter.Class, filter.Agent))
		for m, err := range rowsOf(ctx, d.project.Journal(), bucket, wanted) {
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			if !yield(parseDead(bucket, m)) {
				return
			}
		}
	}
}

func parseDead(bucket bucket, m journal.Message) (DeadLetter, error) {
	class, name, number, err := protocol.ParseDeadKey(strings.TrimPrefix(m.Subject, bucket.subject("")))
	var row protocol.DeadLetter
	if err == nil {
		err = json.Unmarshal(m.Data, &row)
	}
	if err != nil {
		return DeadLetter{}, fmt.Errorf("dead letter at %s: %w", m.Subject, err)
	}
	if n := row.Mail.Notice; n != nil {
		row.Mail.Payload = n.Value
	}
	return DeadLetter{
		ID: class + "/" + name + "/" + number, Class: class, Agent: name, Source: row.Mail.Source, From: row.From,
		Callback: row.Mail.Callback, Payload: row.Mail.Payload, Cut: row.Cut, Planned: row.Mail.Planned,
		Attempts: row.Attempts, Error: row.Error, Time: row.Time, revision: m.Sequence,
	}, nil
}

// Get returns one dead letter. The error is a *DeadLetterError if there is none.
func (d DeadLetters) Get(ctx context.Context, id string) (DeadLetter, error) {
	bucket, subject, err := d.find(id)
	if err != nil {
		return DeadLetter{}, err
	}
	m, err := d.project.Journal().Last(ctx, bucket.stream, subject)
	if errors.Is(err, journal.ErrNotFound) || errors.Is(err, journal.ErrNoStream) {
		return DeadLetter{}, &DeadLetterError{ID: id, Err: ErrNoDeadLetter,
			Reason: fmt.Sprintf("project %q has none of this id: it was dropped, or redriven and applied", d.project.Config.Name)}
	}
	if err != nil {
		return DeadLetter{}, fmt.Errorf("read dead letter %q: %w", id, err)
	}
	return parseDead(bucket, *m)
}

// find is where the dead letter of an id stands.
func (d DeadLetters) find(id string) (bucket, string, error) {
	class, rest, _ := strings.Cut(id, "/")
	slash := strings.LastIndexByte(rest, '/')
	err := protocol.CheckClass(class)
	if err == nil && slash >= 0 {
		err = protocol.CheckAgent(rest[:slash])
	}
	if err != nil || slash < 0 || rest[slash+1:] == "" {
		return bucket{}, "", &DeadLetterError{ID: id, Err: err, Reason: "is no id; wanted is <class>/<agent>/<number>, as List has it"}
	}
	where := bucketOf(protocol.DeadBucket(d.project.Config.Name))
	return where, where.subject(protocol.DeadKey(class, rest[:slash], rest[slash+1:])), nil
}

// Redrive lets the agent try a dead letter again, in a turn as at the first time. It stays where it is until it is
// applied; if it fails again as often as its Retry allows, it is replaced by one with a new id. Redriving it twice applies
// it once.
func (d DeadLetters) Redrive(ctx context.Context, id string) error {
	letter, err := d.Get(ctx, id)
	if err != nil {
		return err
	}
	if letter.Callback == "" {
		return &DeadLetterError{ID: id, Reason: "was no mail of Skein: there is nothing to call; it can be dropped"}
	}
	if letter.Cut {
		return &DeadLetterError{ID: id, Reason: "has lost its payload, which had no room; it can be dropped"}
	}
	number := id[strings.LastIndexByte(id, '/')+1:]
	to := protocol.Agent{Project: d.project.Config.Name, Class: letter.Class, Name: letter.Agent}
	return sendMail(ctx, d.project.Journal(), to, to.Project, protocol.Mail{
		V: protocol.Version, Source: protocol.RedriveSource(number), Number: letter.revision, Sent: time.Now().UTC(),
	})
}

// Drop removes a dead letter for good. One that is being redriven may be applied all the same.
func (d DeadLetters) Drop(ctx context.Context, id string) error {
	letter, err := d.Get(ctx, id)
	if err != nil {
		return err
	}
	bucket, subject, err := d.find(id)
	if err != nil {
		return err
	}
	return d.project.Journal().Purge(ctx, bucket.stream, subject, letter.revision+1)
}
