package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Tell puts a call of a method into the mail of an agent and does not wait for it. The agent applies it in a turn, once,
// however often it is delivered or tried; what keeps failing ends among the dead letters of the agent's project.
//
// In a turn it is part of the turn: it is sent if the turn is stored, and what one agent tells another is applied in the
// order in which it was told. In workflow code, between steps, it is a step, called "tell" and the class and method.
// Elsewhere the mail is stored when Tell returns. If too much of it waits for the agent, the error is an *InboxFullError; what
// a turn tells waits with its agent.
func Tell[A, P any](ctx context.Context, ref Ref[A], method func(A, context.Context, P) error, payload P, options ...TellOption) error {
	var o callOptions
	for _, option := range options {
		if err := option.applyTell(&o); err != nil {
			return err
		}
	}
	target, p, err := ref.resolve(ctx)
	if err != nil {
		return err
	}
	name, raw, err := callOf[A](method, payload)
	if err != nil {
		return err
	}
	mail := protocol.Mail{V: protocol.Version, Callback: name, Payload: raw, Key: o.id, Keep: o.id != "", Sent: time.Now().UTC()}
	if d, err := anyDraft(ctx); err == nil {
		return d.tell(target, mail)
	}
	if _, err := execution.From(ctx); err != nil {
		return post(ctx, p, target, mail)
	}
	return workflow.Exec(ctx, fmt.Sprintf("tell %s.%s", target.Class, name), func(ctx context.Context) error {
		if mail.Key == "" {
			mail.Key, mail.Keep = workflow.Step(ctx).IdempotencyKey, true
		}
		return post(ctx, p, target, mail)
	})
}

// tell drafts mail to another agent.
func (d *draft) tell(target protocol.Agent, mail protocol.Mail) error {
	if mail.Key != "" {
		return errors.New("tell: an id is for programs; what a turn tells is sent once anyway")
	}
	return d.change(func() error {
		number, err := protocol.TellNumber(d.number(), len(d.out)+1)
		if err != nil {
			return fmt.Errorf("tell: %w", err)
		}
		mail.Source, mail.Number = d.agent.TellSource(d.stored.Life), number
		d.put(protocol.Outgoing{Kind: protocol.OutgoingMail, Tell: &protocol.OutgoingTell{
			Project: target.Project, Class: target.Class, Name: target.Name, Mail: mail,
		}})
		return nil
	})
}

// post puts mail into the inbox of an agent. Until ctx ends, or for as long as a call takes, it goes on trying: what it
// stores twice has one key.
func post(ctx context.Context, p *project.Project, target protocol.Agent, mail protocol.Mail) error {
	if mail.Key == "" {
		mail.Key = uuid.NewString()
	}
	mail.Source = protocol.KeySource(mail.Key)
	ctx, cancel := context.WithTimeout(ctx, defaultCallTimeout)
	defer cancel()
	through, err := p.Doors().Through(ctx, target.Project)
	if err == nil && through {
		err = mailAtDoor(ctx, p, p.Doors(), target, mail)
	} else if err == nil {
		err = (&caller{project: p, target: target}).checkTarget(ctx)
	}
	if err != nil {
		return fmt.Errorf("tell agent %q: %w", target, err)
	}
	if through {
		return nil
	}
	return sendMail(ctx, p.Journal(), target, p.Config.Name, mail)
}
