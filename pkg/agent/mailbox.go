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
	// maxLoaded and maxLoadedBytes bound the mail that is held with its payload, maxHeld all of it. With more, the rest
	// waits in the inbox.
	maxLoaded      = 1000
	maxLoadedBytes = 4 << 20
	maxHeld        = 20_000
)

// letter is one message of the agent's mail. Letters of one lane are applied in their order.
type letter struct {
	sequence  uint64
	from      string
	mail      protocol.Mail
	malformed error
	lane      string
	attempts  int // that failed
	notBefore time.Time
	// shed is set if the payload is not held: it is read again when the letter's time comes.
	shed bool
	// busy is set while its turn runs, or is outside: then its lane waits.
	busy bool
	// over is set if the agent forgets the schedule of its own that the letter stems from when it is applied.
	over bool
	// redrive is the id of the dead letter that this one is the second chance of.
	redrive string
}

// mailbox holds an agent's mail while the agent is in memory. Bells come from anywhere, letters from the stream: a
// bell only says that there is something to read, and how to ack it.
type mailbox struct {
	rung chan struct{} // takes one, without waiting

	mu     sync.Mutex // guards what follows
	closed bool
	bells  map[uint64]string
	fresh  []uint64 // bells that nobody has looked at
	// listeners are told of each bell, beside rung; without waiting.
	listeners map[chan struct{}]bool

	// The rest belongs to the actor's goroutine.
	opened  bool
	cursor  uint64   // everything before it was read
	ahead   []uint64 // bells for what is not read yet
	highest uint64   // of them
	held    map[uint64]*letter
	lanes   map[string][]*letter
	loaded  int // letters that are not shed, and the bytes of their payloads
	bytes   int
	parked  map[uint64]protocol.Parked // what the record says of letters that are not read yet
	settled map[uint64]bool            // applied, and not acked because something of it is not carried out
}

func newMailbox() *mailbox {
	return &mailbox{
		rung: make(chan struct{}, 1), bells: map[uint64]string{}, listeners: map[chan struct{}]bool{}, cursor: 1, held: map[uint64]*letter{},
		lanes: map[string][]*letter{}, parked: map[uint64]protocol.Parked{}, settled: map[uint64]bool{},
	}
}

// resume takes what the record says of earlier attempts.
func (m *mailbox) resume(parked []protocol.Parked) {
	for _, p := range parked {
		m.parked[p.Sequence] = p
	}
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
	if _, known := m.bells[b.Sequence]; !known {
		m.fresh = append(m.fresh, b.Sequence)
	}
	m.bells[b.Sequence] = b.Ack
	m.tell(m.rung)
	for listener := range m.listeners {
		m.tell(listener)
	}
	return true
}

func (m *mailbox) tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// newest is the highest sequence that was rung and not read; 0 if there is none. Bells of what is read and neither
// held nor settled are for mail that was applied: they are acked. However many wait, each bell is looked at once when it
// is new, and once when everything that was rung is read.
func (m *mailbox) newest(nc *nats.Conn) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sequence := range m.fresh {
		if sequence < m.cursor {
			m.ackApplied(nc, sequence)
			continue
		}
		m.ahead = append(m.ahead, sequence)
		m.highest = max(m.highest, sequence)
	}
	m.fresh = m.fresh[:0]
	if m.highest >= m.cursor {
		return m.highest
	}
	for _, sequence := range m.ahead {
		m.ackApplied(nc, sequence)
	}
	m.ahead = m.ahead[:0]
	return 0
}

// ackApplied acks the bell of what is read, unless it is still to be applied. The mailbox is locked.
func (m *mailbox) ackApplied(nc *nats.Conn, sequence uint64) {
	subject, waits := m.bells[sequence]
	if waits && m.held[sequence] == nil && !m.settled[sequence] {
		send(nc, subject, ack)
		delete(m.bells, sequence)
	}
}

func (m *mailbox) isFull() bool {
	return m.loaded >= maxLoaded || m.bytes >= maxLoadedBytes || len(m.held) >= maxHeld
}

// load reads the mail that was rung for, and what is older; the first time, everything.
func (m *mailbox) load(ctx context.Context, in inbox, id protocol.Agent) error {
	newest := m.newest(in.store.Conn())
	for (newest >= m.cursor || !m.opened) && !m.isFull() {
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
	// A leader can be behind the replica that rang, and what it does not have yet was not acked.
	if err := in.store.AwaitStored(ctx, in.stream, sequence); err != nil {
		return &endError{fmt.Errorf("read mail of agent %q: %w", id, err)}
	}
	for m.cursor <= sequence && !m.isFull() {
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
	m.take(parseLetter(in.project, message))
}

// take puts a letter at the end of its lane.
func (m *mailbox) take(l *letter) {
	if p, ok := m.parked[l.sequence]; ok {
		l.attempts, l.notBefore = p.Attempts, p.NotBefore
		delete(m.parked, l.sequence)
	}
	m.held[l.sequence] = l
	lane := append(m.lanes[l.lane], l)
	m.lanes[l.lane] = lane
	m.count(l, 1)
	m.overtake(l)
	if lane[0].attempts > 0 {
		m.shed(l)
	}
}

// count adds a letter with its payload to what is loaded, or with -1 takes it out.
func (m *mailbox) count(l *letter, sign int) {
	if l.shed {
		return
	}
	m.loaded += sign
	m.bytes += sign * len(l.mail.Payload)
	if l.mail.Notice != nil {
		m.bytes += sign * len(l.mail.Notice.Value)
	}
}

// shed lets the payload of a letter go.
func (m *mailbox) shed(l *letter) {
	m.count(l, -1)
	l.shed = true
	l.mail = withoutPayload(l.mail)
}

// withoutPayload is mail without what it brings.
func withoutPayload(mail protocol.Mail) protocol.Mail {
	mail.Payload = nil
	if mail.Notice != nil {
		n := *mail.Notice
		n.Value = nil
		mail.Notice = &n
	}
	return mail
}

// fetch reads a letter again. It returns nil if the message is no more.
func (m *mailbox) fetch(ctx context.Context, in inbox, id protocol.Agent, l *letter) (*protocol.Mail, error) {
	message, err := in.store.NextFromLeader(ctx, in.stream, id.MailSubject(), l.sequence)
	if isNotFound(err) || err == nil && message.Sequence != l.sequence {
		return nil, nil
	}
	if err != nil {
		return nil, &endError{fmt.Errorf("read mail of agent %q: %w", id, err)}
	}
	return &parseLetter(in.project, *message).mail, nil
}

// fill gives a letter its content.
func (m *mailbox) fill(l *letter, mail protocol.Mail) {
	m.count(l, -1)
	l.mail, l.shed = mail, false
	m.count(l, 1)
}

// park puts a letter off. Until it is applied, nothing of its lane is needed in memory.
func (m *mailbox) park(l *letter, notBefore time.Time) {
	l.notBefore = notBefore
	for _, other := range m.lanes[l.lane] {
		if !other.shed {
			m.shed(other)
		}
	}
}

// hasten makes the first letters of lanes due that have become void while they were parked.
func (m *mailbox) hasten(isVoid func(*letter) bool) {
	for _, lane := range m.lanes {
		if head := lane[0]; !head.notBefore.IsZero() && isVoid(head) {
			head.notBefore = time.Time{}
		}
	}
}

// lost returns what the record says of letters that are in the inbox no more: somebody has removed them.
func (m *mailbox) lost() (sequences []uint64) {
	for sequence := range m.parked {
		if sequence < m.cursor {
			sequences = append(sequences, sequence)
			delete(m.parked, sequence)
		}
	}
	return sequences
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
	case l.mail.Key != "" && l.mail.Source != "":
		l.mail.Number = message.Sequence
	case l.mail.Source == "" || l.mail.Number == 0:
		err = fmt.Errorf("mail has source %q and number %d; both are needed", l.mail.Source, l.mail.Number)
	case l.mail.Notice != nil:
		n := l.mail.Notice
		if want := protocol.TrackedSource(n.Project, n.Workflow, n.ID); l.mail.Source != want {
			err = fmt.Errorf("mail has source %q and tells of %q", l.mail.Source, want)
		}
	}
	if err != nil {
		l.malformed = err
		l.mail = protocol.Mail{V: protocol.Version, Payload: asJSON(message.Data)}
	}
	l.redrive = redriven(project, l.from, l.mail)
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

// next is the first letter that can be applied now. Without one, due says when one can be tried again. If stopped is
// set, only what was tried before counts.
func (m *mailbox) next(now time.Time, stopped bool) (l *letter, due time.Time) {
	for _, lane := range m.lanes {
		head := lane[0]
		_, waits := m.waitsForAlone(head)
		switch {
		case head.busy || waits:
		case head.notBefore.After(now):
			due = earliest(due, head.notBefore)
		case stopped && head.attempts == 0:
		case l == nil || head.sequence < l.sequence:
			l = head
		}
	}
	if l != nil {
		due = time.Time{}
	}
	return l, due
}

// settle takes a letter out, the first of its lane, that needs no further attempt. It is acked when everything is
// carried out.
func (m *mailbox) settle(l *letter) {
	m.count(l, -1)
	delete(m.held, l.sequence)
	if rest := m.lanes[l.lane][1:]; len(rest) > 0 {
		m.lanes[l.lane] = rest
	} else {
		delete(m.lanes, l.lane)
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

// close takes no more bells. If handBack is set, what is not applied rings elsewhere at once, or when its lane is due;
// else when its time is over, as is right if the agent failed.
func (m *mailbox) close(nc *nats.Conn, handBack bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	now := time.Now()
	for sequence, subject := range m.bells {
		if !handBack || m.settled[sequence] {
			continue
		}
		body := nak
		if l := m.held[sequence]; l != nil {
			head := m.lanes[l.lane][0]
			until, waits := m.waitsForAlone(head)
			if !waits {
				until = head.notBefore
			}
			body = nakUntil(until, now)
		}
		send(nc, subject, body)
	}
	clear(m.bells)
}

// nakUntil returns a message to its consumer until a moment.
func nakUntil(moment, now time.Time) []byte {
	wait := moment.Sub(now)
	if moment.IsZero() || wait <= 0 {
		return nak
	}
	return fmt.Appendf(nil, `%s {"delay": %d}`, nak, wait.Nanoseconds())
}

// send publishes without waiting. What is lost rings again.
func send(nc *nats.Conn, subject string, body []byte) {
	if err := nc.Publish(subject, body); err != nil {
		return // not connected: the server redelivers
	}
}
