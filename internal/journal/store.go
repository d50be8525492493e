package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// Errors of reads and appends.
var (
	// ErrNotFound is returned by reads of something that is not stored.
	ErrNotFound = errors.New("not found")
	// ErrNoStream is what a read from the leader of a stream that does not exist comes to.
	ErrNoStream = errors.New("no such stream")
	// ErrConflict is wrapped by ConflictError: the subject has moved past the expectation of an append.
	ErrConflict = errors.New("the log has moved on")
	// ErrTooLarge is returned if a message is over the server's max_payload. Nothing was stored.
	ErrTooLarge = errors.New("message is over the server's max_payload")
	// ErrFull is what a publish to a subject comes to that holds as many messages as its stream allows. Nothing was stored.
	ErrFull = errors.New("the subject holds as many messages as are allowed")
	// ErrUnknownOutcome is wrapped if an append was given up before the server said whether it is stored.
	ErrUnknownOutcome = errors.New("not known whether it was stored")
)

// tryTimeout is how long the first tries of a request wait for an answer; the whole is bounded by the caller's context. It is below the
// 5 to 10 seconds that a cluster needs to elect a leader, so that the next try finds the new one soon.
const tryTimeout = 2 * time.Second

// Store reads and appends through one connection. It is safe for concurrent use.
type Store struct {
	inbox   string
	nc      *nats.Conn
	sub     Subscription
	reads   chan struct{} // has room for the reads that may be under way
	replies replies
	space   space

	mu      sync.Mutex
	next    uint64
	waiting map[string]*collector
}

// Open makes a Store on nc. The connection must not buffer while it reconnects (nats.ReconnectBufSize(-1)): what a
// caller has given up on must not be published later.
func Open(nc *nats.Conn) (*Store, error) {
	s, err := OpenOn(connection{nc})
	if err != nil {
		return nil, err
	}
	s.nc = nc
	return s, nil
}

// OpenOn makes a Store without a connection.
func OpenOn(network Transport) (*Store, error) {
	s := &Store{
		inbox: network.NewInbox(), reads: make(chan struct{}, maxReads), waiting: map[string]*collector{},
		replies: replies{network: network},
	}
	var err error
	if s.sub, err = network.Subscribe(s.inbox+".*", s.collect); err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	return s, nil
}

// Close ends the subscriptions of the Store. It does not close the connection.
func (s *Store) Close() error {
	s.replies.close()
	return s.sub.Unsubscribe()
}

// Conn is the connection that the Store uses, nil if it is on another transport.
func (s *Store) Conn() *nats.Conn { return s.nc }

// Message is a stored message.
type Message struct {
	Subject  string
	Sequence uint64
	Time     time.Time
	Header   nats.Header
	Data     []byte
}

// Last reads the newest message of subject (wildcards allowed) from the stream's leader: what was acknowledged
// before the call is seen. It returns ErrNotFound if there is none.
func (s *Store) Last(ctx context.Context, stream, subject string) (*Message, error) {
	return s.get(ctx, stream, map[string]any{"last_by_subj": subject})
}

// NextFromLeader reads the first message of subject at or after sequence from the stream's leader.
func (s *Store) NextFromLeader(ctx context.Context, stream, subject string, sequence uint64) (*Message, error) {
	return s.get(ctx, stream, map[string]any{"next_by_subj": subject, "seq": sequence})
}

// At reads the message of a sequence from the stream's leader. It returns ErrNotFound if there is none, or none any more.
func (s *Store) At(ctx context.Context, stream string, sequence uint64) (*Message, error) {
	return s.get(ctx, stream, map[string]any{"seq": sequence})
}

func (s *Store) get(ctx context.Context, stream string, request map[string]any) (*Message, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	for wait := (backoff{most: maxRead}); ; {
		m, err := s.tryGet(ctx, stream, body, wait.try())
		if err == nil || errors.Is(err, ErrNotFound) || !retryable(err) {
			return m, err
		}
		if err := wait.sleep(ctx, s.replies.network, err); err != nil {
			return nil, fmt.Errorf("read from stream %s: %w", stream, err)
		}
	}
}

type storedMessage struct {
	Message *struct {
		Subject  string    `json:"subject"`
		Sequence uint64    `json:"seq"`
		Header   []byte    `json:"hdrs"`
		Data     []byte    `json:"data"`
		Time     time.Time `json:"time"`
	} `json:"message"`
	Error *ServerError `json:"error"`
}

func (s *Store) tryGet(ctx context.Context, stream string, body []byte, patience time.Duration) (*Message, error) {
	answer, err := s.request(ctx, &nats.Msg{Subject: "$JS.API.STREAM.MSG.GET." + stream, Data: body}, patience)
	if err != nil {
		return nil, err
	}
	var r storedMessage
	if err := json.Unmarshal(answer.Data, &r); err != nil {
		return nil, fmt.Errorf("read from stream %s: answer: %w", stream, err)
	}
	if r.Error != nil {
		if r.Error.ErrCode == codeNoMessage {
			return nil, ErrNotFound
		}
		return nil, r.Error
	}
	m := &Message{Subject: r.Message.Subject, Sequence: r.Message.Sequence, Time: r.Message.Time, Data: r.Message.Data}
	if len(r.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(r.Message.Header); err != nil {
			return nil, fmt.Errorf("read from stream %s: headers: %w", stream, err)
		}
	}
	return m, nil
}

// request asks the JetStream API and waits for the answer, for as long as patience lasts.
func (s *Store) request(ctx context.Context, m *nats.Msg, patience time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.replies.network.RequestMsgWithContext(ctx, m)
}

// Batch is the answer of a replica to a read of many subjects: one state of the store.
type Batch struct {
	Messages []Message
	// UpTo is the sequence up to which the replica has read; 0 if it had nothing for any of the subjects, or if the
	// answer is Cut.
	UpTo uint64
	// Cut is set if the answer lacks something because it would have grown too large: ask for less.
	Cut bool

	pending uint64 // how many messages the replica did not send
	last    uint64 // sequence of the newest message of Messages
}

// LastOfMany reads the newest message of every subject that one of the filters matches, from whichever replica
// answers. The answer may be stale: the caller must check that UpTo reaches what made it ask. At most 1,024 subjects.
// An answer that would grow too large is cut short: it says nothing about what it lacks.
func (s *Store) LastOfMany(ctx context.Context, stream string, filters []string) (Batch, error) {
	b, err := s.direct(ctx, stream, directRequest{MultiLast: filters, MaxBytes: maxBatch})
	if b.pending > 0 {
		b.Cut, b.UpTo = true, 0
	}
	return b, err
}

// Page reads up to limit messages of subject from sequence on, from whichever replica answers, and reports whether
// there are more. Few at a time: a long read over scattered messages holds up appends to the stream.
func (s *Store) Page(ctx context.Context, stream, subject string, from uint64, limit int) ([]Message, bool, error) {
	request := directRequest{NextBySubject: subject, Sequence: max(from, 1), Batch: limit, MaxBytes: maxPage}
	b, err := s.direct(ctx, stream, request)
	if err != nil {
		return nil, false, err
	}
	return b.Messages, len(b.Messages) > 0 && b.pending > 0, nil
}

type directRequest struct {
	MultiLast     []string `json:"multi_last,omitempty"`
	NextBySubject string   `json:"next_by_subj,omitempty"`
	Sequence      uint64   `json:"seq,omitempty"`
	Batch         int      `json:"batch,omitempty"`
	MaxBytes      int      `json:"max_bytes,omitempty"`
}

// What a client has asked for and not yet taken counts against the server's max_pending, 64 MiB: beyond it the server
// closes the connection, and the same reads would begin again. So answers are bounded, and how many are under way.
const (
	maxBatch = 4 << 20
	maxPage  = 1 << 20
	maxReads = 12
)

// collector gathers the messages of one batch answer. done is closed when the end or an error arrived.
type collector struct {
	batch Batch
	err   error
	done  chan struct{}
}

func (s *Store) direct(ctx context.Context, stream string, request directRequest) (Batch, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return Batch{}, err
	}
	for wait := (backoff{most: maxRead}); ; {
		b, err := s.tryDirect(ctx, "$JS.API.DIRECT.GET."+stream, body, wait.try())
		if err == nil || !retryable(err) {
			return b, err
		}
		if err := wait.sleep(ctx, s.replies.network, err); err != nil {
			return Batch{}, fmt.Errorf("read from stream %s: %w", stream, err)
		}
	}
}

func (s *Store) tryDirect(ctx context.Context, subject string, body []byte, patience time.Duration) (Batch, error) {
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-ctx.Done():
		return Batch{}, context.Cause(ctx)
	}
	c := &collector{done: make(chan struct{})}
	s.mu.Lock()
	s.next++
	token := strconv.FormatUint(s.next, 36)
	s.waiting[token] = c
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, token)
		s.mu.Unlock()
	}()
	if err := s.replies.network.PublishMsg(&nats.Msg{Subject: subject, Reply: s.inbox + "." + token, Data: body}); err != nil {
		return Batch{}, err
	}
	expired, stop := s.replies.network.Timeout(patience)
	defer stop()
	select {
	case <-c.done:
		return c.batch, c.err
	case <-expired:
		return Batch{}, nats.ErrTimeout
	case <-ctx.Done():
		return Batch{}, context.Cause(ctx)
	}
}

// collect runs in the goroutine of the subscription: the only writer of every collector until done is closed.
func (s *Store) collect(m *nats.Msg) {
	token := m.Subject[len(s.inbox)+1:]
	s.mu.Lock()
	c := s.waiting[token]
	s.mu.Unlock()
	if c == nil {
		return
	}
	end, err := c.add(m)
	if !end {
		return
	}
	c.err = err
	s.mu.Lock()
	delete(s.waiting, token)
	s.mu.Unlock()
	close(c.done)
}

func (c *collector) add(m *nats.Msg) (end bool, err error) {
	switch status := m.Header.Get(protocol.HeaderStatus); status {
	case "":
	case "204":
		c.batch.UpTo, _ = strconv.ParseUint(m.Header.Get(protocol.HeaderUpToSequence), 10, 64)
		c.batch.pending, _ = strconv.ParseUint(m.Header.Get(protocol.HeaderPending), 10, 64)
		return true, c.follows(m)
	case "404":
		return true, nil
	case "503":
		return true, nats.ErrNoResponders
	default:
		code, _ := strconv.Atoi(status)
		return true, &ServerError{Code: code, Description: "direct get: status " + status + " " + m.Header.Get("Description")}
	}
	if err := c.follows(m); err != nil {
		return true, err
	}
	stored := Message{Subject: m.Header.Get(protocol.HeaderSubject), Header: m.Header, Data: m.Data}
	if stored.Sequence, err = strconv.ParseUint(m.Header.Get(protocol.HeaderSequence), 10, 64); err != nil {
		return true, fmt.Errorf("direct get: sequence: %w", err)
	}
	if stored.Time, err = time.Parse(time.RFC3339Nano, m.Header.Get(protocol.HeaderTime)); err != nil {
		return true, fmt.Errorf("direct get: time: %w", err)
	}
	c.batch.Messages, c.batch.last = append(c.batch.Messages, stored), stored.Sequence
	return false, nil
}

// follows reports an error if a message was lost between m and the one before it, as when the connection moved to
// another server meanwhile: a log with a hole would be replayed as if a step had never run.
func (c *collector) follows(m *nats.Msg) error {
	before, err := strconv.ParseUint(m.Header.Get(protocol.HeaderLastSequence), 10, 64)
	if err != nil {
		return fmt.Errorf("direct get: last sequence: %w", err)
	}
	if before != c.batch.last {
		return fmt.Errorf("direct get: a message was lost after sequence %d", c.batch.last)
	}
	return nil
}
