package backup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// pageSize is how many messages one read brings.
	pageSize = 512
	// spoolBuffer is how much of a tape is written at a time.
	spoolBuffer = 1 << 20
	// chaseLimit is how long the end of a stream is followed that moves on.
	chaseLimit = time.Minute
)

// tape is what was read of one stream so far, in the order of the stream, in a file of its own. What was read stays, whatever
// becomes of it in the stream.
type tape struct {
	store  *journal.Store
	stream string
	kind   protocol.StreamKind
	// project is empty for streams that all projects share.
	project string
	// direct is set if any replica may be asked.
	direct bool
	// calm has it rest after each read, for as long as that took: reads hold up who writes.
	calm bool
	// see is called with each message. Nil: nobody is.
	see func(journal.Message)

	file *os.File
	to   *bufio.Writer
	arc  *archive.Writer
	// at is the sequence up to which the stream was read, count how many messages that were.
	at    uint64
	count int
	// late are messages that were read out of turn, after all others.
	late []journal.Message
}

// open begins the tape, or begins it anew.
func (t *tape) open(path string) (err error) {
	if t.file != nil {
		if err := t.file.Close(); err != nil {
			return err
		}
	}
	if t.file, err = os.Create(path); err != nil {
		return err
	}
	t.to = bufio.NewWriterSize(t.file, spoolBuffer)
	t.arc, t.at, t.count, t.late = archive.NewWriter(t.to), 0, 0, nil
	return nil
}

// reach reads until all that the stream held when it was called is read. What is overwritten or taken away meanwhile may be missing.
func (t *tape) reach(ctx context.Context) error {
	s, err := t.store.State(ctx, t.stream)
	if err != nil {
		return err
	}
	return t.upTo(ctx, s.Last)
}

// upTo reads until message last, which the stream is known to have held, and what else the last read brings.
func (t *tape) upTo(ctx context.Context, last uint64) (err error) {
	for err == nil && t.at < last {
		_, err = t.page(ctx, last)
	}
	return err
}

// advance reads until the end of the stream, at some moment: then each key is on the tape with what it held at that moment. If
// the end moves on, only what one read brings may lie before it: else a key that is written again and again could be missed.
func (t *tape) advance(ctx context.Context) error {
	for began := time.Now(); ; {
		s, err := t.store.State(ctx, t.stream)
		if err != nil || t.at >= s.Last {
			return err
		}
		pages, more := 0, false
		for ; t.at < s.Last; pages++ {
			if more, err = t.page(ctx, s.Last); err != nil {
				return err
			}
		}
		if pages == 1 && !more && t.direct {
			return nil
		}
		if time.Since(began) > chaseLimit && !t.calm {
			return fmt.Errorf("stream %s: its end was not reached within %s: it is written to faster than it can be read", t.stream, chaseLimit)
		}
	}
}

// page reads some messages. The stream is known to have held message last.
func (t *tape) page(ctx context.Context, last uint64) (more bool, err error) {
	began := time.Now()
	var page []journal.Message
	if t.direct {
		if page, more, err = t.store.Page(ctx, t.stream, ">", t.at+1, pageSize); err != nil {
			return false, err
		}
	}
	if len(page) == 0 { // a replica may not have stored them yet
		m, err := t.store.NextFromLeader(ctx, t.stream, ">", t.at+1)
		if errors.Is(err, journal.ErrNotFound) {
			t.at = max(t.at, last)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		page, more = []journal.Message{*m}, true
	}
	for _, m := range page {
		if err := t.add(m); err != nil {
			return false, err
		}
	}
	if t.calm {
		err = t.store.Sleep(ctx, time.Since(began))
	}
	return more, err
}

func (t *tape) add(m journal.Message) error {
	strip(m.Header)
	if err := writeMessage(t.arc, m); err != nil {
		return fmt.Errorf("write what was read of stream %s: %w", t.stream, err)
	}
	t.at, t.count = m.Sequence, t.count+1
	if t.see != nil {
		t.see(m)
	}
	return nil
}

// addLate takes a message out of turn.
func (t *tape) addLate(m journal.Message) {
	strip(m.Header)
	t.late = append(t.late, m)
	if t.see != nil {
		t.see(m)
	}
}

// each goes through all messages on the tape, in the order of the stream.
func (t *tape) each(do func(*entry) error) error {
	if err := t.to.Flush(); err != nil {
		return err
	}
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	late := slices.SortedFunc(slices.Values(t.late), func(a, b journal.Message) int { return int(int64(a.Sequence) - int64(b.Sequence)) })
	before := func(sequence uint64) error {
		for ; len(late) > 0 && (sequence == 0 || late[0].Sequence <= sequence); late = late[1:] {
			if late[0].Sequence == sequence {
				continue
			}
			if err := do(entryOf(late[0])); err != nil {
				return err
			}
		}
		return nil
	}
	in := archive.NewReader(t.file)
	for {
		e, err := readEntry(in)
		if errors.Is(err, io.EOF) {
			return before(0)
		}
		if err == nil {
			err = before(e.Sequence)
		}
		if err == nil {
			err = do(e)
		}
		if err != nil {
			return fmt.Errorf("what was read of stream %s: %w", t.stream, err)
		}
	}
}

func (t *tape) close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// entry is a message of a stream, as it stands in an archive.
type entry struct {
	Subject  string
	Sequence uint64
	Time     int64
	// Header is as the server keeps it, empty if there is none.
	Header []byte
	Data   []byte
}

func entryOf(m journal.Message) *entry {
	return &entry{Subject: m.Subject, Sequence: m.Sequence, Time: m.Time.UnixNano(), Header: encodeHeader(m.Header), Data: m.Data}
}

func (e *entry) write(to *archive.Writer) error {
	h := &archive.Header{
		Name: e.Subject, Timestamp: e.Time, Sequence: e.Sequence, HeaderSize: int64(len(e.Header)), PayloadSize: int64(len(e.Data)),
	}
	if err := to.WriteHeader(h); err != nil {
		return err
	}
	for _, part := range [][]byte{e.Header, e.Data} {
		if _, err := to.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func writeMessage(to *archive.Writer, m journal.Message) error { return entryOf(m).write(to) }

func readEntry(in *archive.Reader) (*entry, error) {
	h, err := in.Next()
	if err != nil {
		return nil, err
	}
	all, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	if int64(len(all)) != h.HeaderSize+h.PayloadSize {
		return nil, fmt.Errorf("entry %q has %d bytes, %d were written", h.Name, len(all), h.HeaderSize+h.PayloadSize)
	}
	return &entry{Subject: h.Name, Sequence: h.Sequence, Time: h.Timestamp, Header: all[:h.HeaderSize], Data: all[h.HeaderSize:]}, nil
}

// readHeaders are those that an answer to a read has beside the message's own.
var readHeaders = [...]string{
	protocol.HeaderStream, protocol.HeaderSubject, protocol.HeaderSequence, protocol.HeaderTime, protocol.HeaderPending,
	protocol.HeaderLastSequence,
}

func strip(header nats.Header) {
	for _, name := range readHeaders {
		delete(header, name)
	}
}

// encodeHeader writes a header as the server keeps it.
func encodeHeader(header nats.Header) []byte {
	if len(header) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("NATS/1.0\r\n")
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			b.WriteString(name + ": " + value + "\r\n")
		}
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}
