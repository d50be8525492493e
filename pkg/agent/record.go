package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/quiesce"
	"github.com/skein-run/skein/pkg/protocol"
)

// bucket is a key-value bucket as the stream that it is: records are written by compare-and-append.
type bucket struct{ name, stream string }

func bucketOf(name string) bucket { return bucket{name: name, stream: protocol.KVStream(name)} }

func (b bucket) subject(key string) string { return protocol.KVSubject(b.name, key) }

// records reads and writes the records of a project's agents.
type records struct {
	store *journal.Store
	where bucket
	// gate holds writes up while a backup looks for a moment.
	gate *quiesce.Gate
}

// version is a record and the sequence that the next write of it must name. Without a record, only that.
type version struct {
	record   protocol.Record
	sequence uint64
	exists   bool
}

func isConflict(err error) bool { return errors.Is(err, journal.ErrConflict) }

func (r *records) subject(id protocol.Agent) string {
	return r.where.subject(protocol.AgentKey(id.Class, id.Name))
}

// read asks the leader for the record of an agent.
func (r *records) read(ctx context.Context, id protocol.Agent) (version, error) {
	m, err := r.store.Last(ctx, r.where.stream, r.subject(id))
	if errors.Is(err, journal.ErrNotFound) {
		return version{}, nil
	}
	if err != nil {
		return version{}, fmt.Errorf("read record of agent %q: %w", id, err)
	}
	return parseRecord(m)
}

func parseRecord(m *journal.Message) (version, error) {
	v := version{sequence: m.Sequence}
	if m.Header.Get(protocol.HeaderKVOperation) != "" {
		return v, nil // the marker of a deleted record
	}
	if err := json.Unmarshal(m.Data, &v.record); err != nil {
		return v, fmt.Errorf("record at %s: %w", m.Subject, err)
	}
	if v.record.V > protocol.Version {
		return v, fmt.Errorf("record at %s: has version %d, this program knows %d", m.Subject, v.record.V, protocol.Version)
	}
	v.exists = true
	v.complete()
	return v, nil
}

// complete fills in what the write itself could not know: its own sequence.
func (v *version) complete() {
	if v.record.Life == 0 {
		v.record.Life = v.sequence
	}
	if v.record.Epoch == 0 {
		v.record.Epoch = v.sequence
	}
}

// write stores the record if the newest one is still at sequence, and returns what is then stored.
func (r *records) write(ctx context.Context, id protocol.Agent, sequence uint64, record protocol.Record) (version, error) {
	body, err := record.Encode()
	if err != nil {
		return version{}, fmt.Errorf("encode record of agent %q: %w", id, err)
	}
	if err := r.gate.Pass(ctx); err != nil {
		return version{}, fmt.Errorf("write record of agent %q: %w", id, err)
	}
	stored, err := r.store.Append(ctx, r.where.stream, r.subject(id), sequence, body)
	if err != nil {
		return version{}, fmt.Errorf("write record of agent %q: %w", id, err)
	}
	v := version{record: record, sequence: stored, exists: true}
	v.complete()
	return v, nil
}

// remove takes the record away unless it was written after sequence. It leaves no marker: whoever asks for agents that
// do not exist must not fill the bucket.
func (r *records) remove(ctx context.Context, id protocol.Agent, sequence uint64) error {
	if err := r.gate.Pass(ctx); err != nil {
		return err
	}
	return r.store.Purge(ctx, r.where.stream, r.subject(id), sequence+1)
}

// recordsPage is how many records are read at a time.
const recordsPage = 256

// each calls f with the records that there are when it begins. It rests after each page for as long as that took: many
// records read at once would hold up what else happens here and at the server, and overrun the connection.
func (r *records) each(ctx context.Context, f func(*journal.Message) error) error {
	state, err := r.store.State(ctx, r.where.stream)
	if err != nil {
		return fmt.Errorf("read all records: %w", err)
	}
	for cursor := state.First; cursor <= state.Last; {
		began := time.Now()
		page, err := r.page(ctx, cursor)
		if err != nil {
			return fmt.Errorf("read all records: %w", err)
		}
		if len(page) == 0 {
			return nil
		}
		for _, m := range page {
			if err := f(&m); err != nil {
				return err
			}
		}
		cursor = page[len(page)-1].Sequence + 1
		if err := ctxtime.Sleep(ctx, time.Since(began)); err != nil {
			return err
		}
	}
	return nil
}

// page reads records from a sequence on; there are no more if it returns none.
func (r *records) page(ctx context.Context, from uint64) ([]journal.Message, error) {
	const all = ">" // what only says the same of this stream, as the prefix of all records does, costs the server ten times as much
	messages, _, err := r.store.Page(ctx, r.where.stream, all, from, recordsPage)
	if err != nil || len(messages) > 0 {
		return messages, err
	}
	next, err := r.store.NextFromLeader(ctx, r.where.stream, all, from) // a replica may lag behind
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []journal.Message{*next}, nil
}
