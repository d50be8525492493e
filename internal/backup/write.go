package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go/jetstream"
)

// A file is an archive as nats-server 2.15 makes and takes them: the state of the stream, its consumers, its messages, and an
// empty entry.
const (
	stateEntry     = "state.json"
	consumerPrefix = "consumers"
)

// perMessage is about what a message takes in a stream beside its text.
const perMessage = 32

// summed counts and sums up what goes through it.
type summed struct {
	to   io.Writer
	size int64
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	s.size += int64(n)
	return n, err
}

// summary is what there is to say of the messages of a stream before they come.
type summary struct {
	messages, bytes, first, last uint64
}

func (s *summary) add(e *entry) {
	if s.messages == 0 {
		s.first = e.Sequence
	}
	s.messages, s.last = s.messages+1, e.Sequence
	s.bytes += uint64(len(e.Subject) + len(e.Header) + len(e.Data) + perMessage)
}

// state is how a stream with these messages begins and ends. No sequence up to end is given out again.
func (s summary) state(end uint64, consumers int) server.StreamState {
	state := server.StreamState{Msgs: s.messages, Bytes: s.bytes, FirstSeq: s.first, LastSeq: max(end, s.last), Consumers: consumers}
	if s.messages == 0 {
		state.FirstSeq = state.LastSeq + 1
	}
	return state
}

// writeFile writes what is kept of a tape to its file.
func writeFile(dir string, t *tape, config jetstream.StreamConfig, end uint64, consumers []consumer, keep func(*entry) bool) (s Stream, err error) {
	s = Stream{Name: t.stream, Config: config, File: fileOf(t.stream), End: end, Consumers: consumers}
	var sum summary
	if err := t.each(func(e *entry) error {
		if keep(e) {
			sum.add(e)
		}
		return nil
	}); err != nil {
		return s, err
	}
	s.Messages, s.First, s.Last = sum.messages, sum.first, sum.last
	f, err := os.Create(filepath.Join(dir, s.File))
	if err != nil {
		return s, err
	}
	hash := sha256.New()
	out := &summed{to: io.MultiWriter(f, hash)}
	packed := s2.NewWriter(out)
	err = writeArchive(packed, sum.state(end, len(consumers)), consumers, func(w *archive.Writer) error {
		return t.each(func(e *entry) error {
			if !keep(e) {
				return nil
			}
			return e.write(w)
		})
	})
	if err := errors.Join(err, packed.Close(), f.Sync(), f.Close()); err != nil {
		return s, fmt.Errorf("write %s: %w", s.File, err)
	}
	s.Size, s.SHA256 = out.size, hex.EncodeToString(hash.Sum(nil))
	return s, nil
}

// writeArchive writes state and consumers, then what messages writes, then the end.
func writeArchive(to io.Writer, state server.StreamState, consumers []consumer, messages func(*archive.Writer) error) error {
	w := archive.NewWriter(to)
	now := time.Now().UnixNano()
	body, err := json.Marshal(state)
	if err == nil {
		err = (&entry{Subject: stateEntry, Time: now, Data: body}).write(w)
	}
	for _, c := range consumers {
		if err != nil {
			return err
		}
		// Delivered is what is acknowledged: everything after that is delivered again.
		floor := server.SequencePair{Consumer: c.Count, Stream: c.Floor}
		body, err = json.Marshal(map[string]any{"config": c.Config, "state": server.ConsumerState{Delivered: floor, AckFloor: floor}})
		if err == nil {
			err = (&entry{Subject: path.Join(consumerPrefix, c.Config.Durable), Time: now, Data: body}).write(w)
		}
	}
	if err == nil {
		err = messages(w)
	}
	if err == nil {
		err = (&entry{}).write(w)
	}
	return errors.Join(err, w.Close())
}
