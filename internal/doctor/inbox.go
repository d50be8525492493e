package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// scanInbox goes through the mail of all agents.
func (d *Doctor) scanInbox(ctx context.Context) error {
	if !d.hasAgents() {
		return nil
	}
	return d.each(ctx, protocol.InboxStream(d.Project.Name), ">", func(m *journal.Message) error {
		d.pace.advance(1)
		a, _, err := protocol.ParseInboxSubject(m.Subject)
		if err != nil {
			return nil // nobody can take it
		}
		var mail protocol.Mail
		_, served := d.Project.Agents[a.Class]
		if served && (json.Unmarshal(m.Data, &mail) != nil || mail.Life == 0) {
			return nil
		}
		return d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examineMail(ctx, m.Sequence) })
	})
}

// examineMail looks at mail that may be for nobody. What an agent has sent to itself is for the life that sent it; what others
// have sent brings the agent into being, as soon as there is a host of its class.
func (d *Doctor) examineMail(ctx context.Context, sequence uint64) ([]complaint, error) {
	stream := protocol.InboxStream(d.Project.Name)
	m, err := d.Store.At(ctx, stream, sequence)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, _, err := protocol.ParseInboxSubject(m.Subject)
	if err != nil {
		return nil, nil
	}
	c := complaint{Finding: Finding{Subject: fmt.Sprintf("%s (message %d)", m.Subject, sequence)}, evidence: fmt.Sprint(sequence)}
	if _, served := d.Project.Agents[a.Class]; !served {
		c.Kind, c.Problem = MailWithoutClass, fmt.Sprintf("no agent host of the project has ever served class %q: nobody takes the mail", a.Class)
		return []complaint{c}, nil
	}
	var mail protocol.Mail
	if json.Unmarshal(m.Data, &mail) != nil || mail.Life == 0 || mail.V > protocol.Version {
		return nil, nil
	}
	r, _, err := d.record(ctx, a.Class, a.Name)
	if err != nil || r != nil && r.Life == mail.Life {
		return nil, err
	}
	c.Kind, c.Problem = MailWithoutAgent, fmt.Sprintf("it is for a life of agent %s that is over", a)
	c.Remedy = "delete the message"
	c.mend = func(ctx context.Context) (string, error) {
		return fmt.Sprintf("deleted message %d", sequence), d.Store.Delete(ctx, stream, sequence)
	}
	return []complaint{c}, nil
}
