package agent

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// peers is what this host has seen of the leases of the others. It counts its own renewals, not time: while nobody can
// write, nobody is held for gone.
type peers struct {
	store  *journal.Store
	where  bucket
	id     string // of this host
	misses uint64

	mu   sync.Mutex // guards seen
	seen map[string]peer
}

type peer struct {
	sequence uint64
	beat     uint64 // own renewals when the row was first seen like this
}

// observe reads the rows of all hosts. The answer may be stale: it only makes others doubt, and a doubt about a row
// that has moved on is refused.
func (p *peers) observe(ctx context.Context, beat uint64) error {
	batch, err := p.store.LastOfMany(ctx, p.where.stream, []string{p.where.subject("*")})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := make(map[string]peer, len(batch.Messages))
	for _, m := range batch.Messages {
		id := strings.TrimPrefix(m.Subject, p.where.subject(""))
		before, known := p.seen[id]
		if !known || before.sequence != m.Sequence && !p.isOurDoubt(m) {
			before.beat = beat
		}
		now[id] = peer{sequence: m.Sequence, beat: before.beat}
	}
	p.seen = now
	return nil
}

// isOurDoubt reports whether the row is as this host wrote it: that is no sign of life. After the doubt of another, that one
// has the time of a lease to look after what the host has left.
func (p *peers) isOurDoubt(m journal.Message) bool {
	var row protocol.Host
	return json.Unmarshal(m.Data, &row) == nil && row.Doubted == p.id
}

// putOff makes a lease that is over count as renewed now.
func (p *peers) putOff(id string, beat uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seen, known := p.seen[id]; known {
		p.seen[id] = peer{sequence: seen.sequence, beat: beat}
	}
}

// expired returns the hosts whose leases have not changed for so many own renewals that they are over.
func (p *peers) expired(beat uint64) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for id, seen := range p.seen {
		if beat-seen.beat >= p.misses {
			ids = append(ids, id)
		}
	}
	return ids
}

// isExpired reports whether the row of a host, as it is at sequence, has been unchanged for long enough.
func (p *peers) isExpired(id string, sequence, beat uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen, known := p.seen[id]
	return known && seen.sequence == sequence && beat-seen.beat >= p.misses
}

// doubt declares a host gone by writing so into its row, if that is still at sequence. It reports whether it is gone:
// a refusal means that it has renewed its lease and lives.
func (p *peers) doubt(ctx context.Context, row protocol.Host, sequence uint64) (gone bool, err error) {
	row.Doubted = p.id
	body, err := json.Marshal(row)
	if err != nil {
		return false, err
	}
	_, err = p.store.Append(ctx, p.where.stream, p.where.subject(row.ID), sequence, body)
	if isConflict(err) {
		return false, nil
	}
	return err == nil, err
}
