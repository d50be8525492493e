package emailworkflows

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/wneessen/go-mail"
)

// Message is one e-mail.
type Message struct {
	// ID is the Message-ID, without angle brackets.
	ID            string
	To            string
	Subject, Text string
}

// Mailer sends e-mail.
type Mailer interface {
	Send(ctx context.Context, m Message) error
}

// messageID makes a Message-ID of a step's idempotency key, which has characters that a Message-ID must not have.
func messageID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12]) + "@flights.example.com"
}

const sender = "desk@flights.example.com"

// compose writes the message as RFC 5322 wants it.
func compose(m Message) (*mail.Msg, error) {
	msg := mail.NewMsg()
	if err := msg.FromFormat("Flight desk", sender); err != nil {
		return nil, fmt.Errorf("sender %q: %w", sender, err)
	}
	if err := msg.To(m.To); err != nil {
		return nil, fmt.Errorf("recipient %q: %w", m.To, err)
	}
	msg.SetMessageIDWithValue(m.ID)
	msg.SetDate()
	msg.Subject(m.Subject)
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	return msg, nil
}

// SMTP sends through the server at an address such as "127.0.0.1:1025", without encryption: for a relay next door.
type SMTP string

// Send hands the message to the server.
func (addr SMTP) Send(ctx context.Context, m Message) error {
	host, port, err := net.SplitHostPort(string(addr))
	if err != nil {
		return fmt.Errorf("SMTP server %q: %w", string(addr), err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("SMTP server %q: port: %w", string(addr), err)
	}
	msg, err := compose(m)
	if err != nil {
		return err
	}
	client, err := mail.NewClient(host, mail.WithPort(number), mail.WithTLSPolicy(mail.NoTLS))
	if err != nil {
		return fmt.Errorf("SMTP server %q: %w", string(addr), err)
	}
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("mail to %q through %q: %w", m.To, string(addr), err)
	}
	return nil
}

// Print writes messages to W instead of sending them, for trying things out.
type Print struct{ W io.Writer }

// Send writes the message.
func (p Print) Send(_ context.Context, m Message) error {
	msg, err := compose(m)
	if err != nil {
		return err
	}
	_, err = msg.WriteTo(p.W)
	return err
}
