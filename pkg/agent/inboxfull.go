package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// InboxFullError says that as much mail of the sender's project waits for an agent as may.
type InboxFullError struct {
	Class string
	Agent string
	Limit int
}

func (e *InboxFullError) Error() string {
	return fmt.Sprintf("inbox of agent %q of class %q is full: %d messages of this project wait in it, more are not allowed",
		e.Agent, e.Class, e.Limit)
}

// Is makes it a kind of journal.ErrFull: there may be room later.
func (e *InboxFullError) Is(target error) bool { return target == journal.ErrFull }

// FailureName is how the error is called where it is stored or answered.
func (e *InboxFullError) FailureName() string { return "InboxFullError" }

// sendMail puts mail of project from into the inbox of an agent. It may be stored twice.
func sendMail(ctx context.Context, store *journal.Store, to protocol.Agent, from string, mail protocol.Mail) error {
	body, err := json.Marshal(mail)
	if err != nil {
		return fmt.Errorf("mail to agent %q: %w", to, err)
	}
	_, err = store.Publish(journal.Refusing(ctx), to.InboxSubject(from), nil, body)
	if errors.Is(err, journal.ErrFull) {
		return &InboxFullError{Class: to.Class, Agent: to.Name, Limit: protocol.MaxWaiting}
	}
	if err != nil {
		return fmt.Errorf("mail to agent %q: %w", to, err)
	}
	return nil
}
