package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Answers to a message of a consumer, published to its ack subject.
var (
	ack = []byte("+ACK")
	nak = []byte("-NAK")
)

const (
	mailPage = 16
	// maxLetters bounds what is held of an agent's mail. With so many that wait for another attempt, the rest waits
	// in the inbox, where it is seen.
	maxLetters = 1000
)

// letter is one message of the agent's mail. Letters of one lane are applied in their order.
type letter struct {
	sequence  uint64
	from      string
	mail      protocol.Mail
	malformed error
	lane      string
	attempts  int
	notBefore time.Time
}

// mailbox holds an agent's mail while the agent is in memory. Bells come from anywhere, letters from the stream: a
// bell only says that there is something to read, and how to ack it.
type mailbox struct {
	rung chan struct{} // takes one, without waiting

	mu     sync.Mutex // guards what follows
	closed bool
	bells  map[uint64]string

	// The rest belongs to the actor's goroutine.
	opened  bool
	cursor  uint64 // everything before it was read
	letters []*letter
	settled map[uint64]bool // applied, and not acked because something of it is not carried out
}

func newMailbox() *mailbox {
	return &mailbox{rung: make(chan struct{}, 1), bells: map[uint64]string{}, cursor: 1, settled: map[uint64]bool{}}
}

// ring notes that a message is there and how to ack it; the newest way counts. It returns false if nobody will come to
// look any more.
func (m *mailbox) ring(b protocol.Bell) bool {
	if !strings.HasPrefix(b.Ack, protocol.AckPrefix) {
		return true // whoever sent this wants us to publish somewhere else
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.bells[b.Sequence] = b.Ack
	select {
	case m.rung <- struct{}{}:
	default:
	}
	return true
}

// newest is the highest sequence that was rung and not read; 0 if there is none. Bells of what is read and neither
// held nor settled are for mail that was applied: they are acked.
func (m *mailbox) newest(nc *nats.Conn) uint64 {
	held := map[uint64]bool{}
	for _, l := range m.letters {
		held[l.sequence] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var newest uint64
	for sequence, subject := range m.bells {
		switch {
		case sequence >= m.cursor:
			newest = max(newest, sequence)
		case !held[sequence] && !m.settled[sequence]:
			send(nc, subject, ack)
			delete(m.bells, sequence)
		}
	}
	return newest
}

// load reads the mail that was rung for, and what is older; the first time, everything.
func (m *mailbox) load(ctx context.Context, in inbox, id protocol.Agent) error {
	newest := m.newest(in.store.Conn())
	for (newest >= m.cursor || !m.opened) && len(m.letters) < maxLetters {
		messages, more, err := in.store.Page(ctx, in.stream, id.MailSubject(), m.cursor, mailPage)
		if err != nil {
			return &endError{fmt.Errorf("read mail of agent %q: %w", id, err)}
		}
		for _, message := range messages {
			m.add(in, message)
		}
		if more {
			continue
		}
		m.opened = true
		if newest >= m.cursor {
			if err := m.loadFromLeader(ctx, in, id, newest); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadFromLeader reads what a replica did not have yet, up to and including sequence.
func (m *mailbox) loadFromLeader(ctx context.Context, in inbox, id protocol.Agent, sequence uint64) error {
	for m.cursor <= sequence && len(m.letters) < maxLetters {
		message, err := in.store.NextFromLeader(ctx, in.stream, id.MailSubject(), m.cursor)
		if isNotFound(err) || err == nil && message.Sequence > sequence {
			m.cursor = sequence + 1 // it was acked before
			return nil
		}
		if err != nil {
			return &endError{fmt.Errorf("read mail of agent %q: %w", id, err)}
		}
		m.add(in, *message)
	}
	return nil
}

func (m *mailbox) add(in inbox, message journal.Message) {
	if message.Sequence < m.cursor {
		return
	}
	m.cursor = message.Sequence + 1
	m.letters = append(m.letters, parseLetter(in.project, message))
}

func parseLetter(project string, message journal.Message) *letter {
	l := &letter{sequence: message.Sequence}
	_, from, err := protocol.ParseInboxSubject(message.Subject)
	if err == nil {
		l.from = from
		err = json.Unmarshal(message.Data, &l.mail)
	}
	switch {
	case err != nil:
	case l.mail.V > protocol.Version:
		err = fmt.Errorf("mail has version %d, this program knows %d", l.mail.V, protocol.Version)
	case l.mail.Source == "" || l.mail.Number == 0:
		err = fmt.Errorf("mail has source %q and number %d; both are needed", l.mail.Source, l.mail.Number)
	}
	if err != nil {
		l.malformed = err
		l.mail = protocol.Mail{V: protocol.Version, Payload: asJSON(message.Data)}
	}
	l.lane = l.mail.Source
	if l.from != project {
		// No project may pass for another, nor for a schedule of the agent's own.
		l.lane = l.from + ":" + l.mail.Source
	}
	return l
}

// asJSON keeps bytes that are no JSON as a text.
func asJSON(data []byte) json.RawMessage {
	if json.Valid(data) {
		return data
	}
	text, err := json.Marshal(strings.ToValidUTF8(string(data), "\uFFFD"))
	if err != nil {
		return nil
	}
	return text
}

// next is the first letter that can be applied now. Without one, due says when one can be tried again.
func (m *mailbox) next(now time.Time) (l *letter, due time.Time) {
	seen := map[string]bool{}
	for _, l := range m.letters {
		if seen[l.lane] {
			continue
		}
		seen[l.lane] = true
		if !l.notBefore.After(now) {
			return l, time.Time{}
		}
		due = earliest(due, l.notBefore)
	}
	return nil, due
}

// settle takes a letter out that needs no further attempt. It is acked when everything is carried out.
func (m *mailbox) settle(l *letter) {
	for i, other := range m.letters {
		if other == l {
			m.letters = append(m.letters[:i], m.letters[i+1:]...)
			break
		}
	}
	m.settled[l.sequence] = true
}

// ackSettled acks everything that is applied. What has not rung yet is acked when it does.
func (m *mailbox) ackSettled(nc *nats.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for sequence := range m.settled {
		if subject, ok := m.bells[sequence]; ok {
			send(nc, subject, ack)
			delete(m.bells, sequence)
		}
	}
	clear(m.settled)
}

// close takes no more bells. If handBack is set, what is not applied rings elsewhere at once; else when its time is
// over, as is right if the agent failed.
func (m *mailbox) close(nc *nats.Conn, handBack bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for sequence, subject := range m.bells {
		if handBack && !m.settled[sequence] {
			send(nc, subject, nak)
		}
	}
	clear(m.bells)
}

// send publishes without waiting. What is lost rings again.
func send(nc *nats.Conn, subject string, body []byte) {
	if err := nc.Publish(subject, body); err != nil {
		return // not connected: the server redelivers
	}
}
