package objects

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// DefaultLimit is the most bytes that a value may have as JSON if the operator says nothing else: 64 MiB. It is held in
// memory whole, more than once while it is encoded and decoded.
const DefaultLimit = 64 << 20

const (
	// chunkSize is that of NATS clients. A server that takes inline values takes chunks.
	chunkSize = protocol.InlinePayload
	// freshFor is how long an object that is put again is left as it is: old ones get a new time, so that nobody takes
	// them for forgotten.
	freshFor = time.Hour
	// keeperKey names, in the metadata of an object, the message that may still refer to it although no instance does.
	// snapshotKey is set if it is the history of a snapshot, which a newer snapshot supersedes.
	keeperKey   = "keeper"
	snapshotKey = "snapshot"
)

// MissingError says that a value that a message refers to is not in the store, or is not what was put.
type MissingError struct {
	Project string
	Name    string
	Reason  string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("object %q in the store of project %q: %s", e.Name, e.Project, e.Reason)
}

// Value is what is put.
type Value struct {
	Owner protocol.ObjectOwner
	JSON  json.RawMessage
	// Keeper is set if the value is put long before the instance may exist: the outbox of an agent holds its create.
	Keeper Keeper
	// Snapshot is set if the value is the history of a snapshot of its owner.
	Snapshot bool
	// News is set if the owner is to be told of the value because it has asked for it, if it is behind a door.
	News bool
}

// metadata tells what an object is for, nil if it is a value of its owner like any other.
func (v Value) metadata() map[string]string {
	switch {
	case v.Keeper != (Keeper{}):
		return map[string]string{keeperKey: v.Keeper.Project + "/" + v.Keeper.Key}
	case v.Snapshot:
		return map[string]string{snapshotKey: "true"}
	}
	return nil
}

// Keeper is an agent whose outbox refers to a value.
type Keeper struct {
	// Project and Key are those of its record. The zero Keeper is none.
	Project string
	Key     string
}

// Store puts values into the object stores of projects and gets them back. It is safe for concurrent use.
type Store struct {
	journal *journal.Store
	doors   *door.Caller // nil: every project is reached directly
	cache   cache
}

// New makes a Store that works over a journal.
func New(j *journal.Store) *Store { return &Store{journal: j, cache: cache{limit: cacheSize}} }

// Put stores a value and returns what refers to it. It goes on through disconnects and leader elections until ctx ends;
// putting a value again is harmless. The caller must not change the value afterwards.
func (s *Store) Put(ctx context.Context, v Value) (*protocol.Object, error) {
	through, err := s.doors.Through(ctx, v.Owner.Project)
	if err != nil {
		return nil, err
	}
	if through {
		return s.handOver(ctx, v)
	}
	sum := sha256.Sum256(v.JSON)
	digest := hex.EncodeToString(sum[:])
	name := v.Owner.ObjectName(digest)
	p := &put{
		store: s, value: v, subject: protocol.ObjectMetaSubject(v.Owner.Project, name),
		info: jetstream.ObjectInfo{
			ObjectMeta: jetstream.ObjectMeta{
				Name: name, Metadata: v.metadata(), Opts: &jetstream.ObjectMetaOptions{ChunkSize: chunkSize},
			},
			Bucket: protocol.ObjectsBucket(v.Owner.Project), NUID: v.Owner.ChunksID(digest, uuid.NewString()),
			Size: uint64(len(v.JSON)), Chunks: uint32((len(v.JSON) + chunkSize - 1) / chunkSize),
			Digest: "SHA-256=" + base64.URLEncoding.EncodeToString(sum[:]),
		},
	}
	if err := p.run(ctx); err != nil {
		return nil, fmt.Errorf("put object %q: %w", name, err)
	}
	s.cache.add(v.Owner.Project, name, v.JSON)
	return &protocol.Object{Name: name, Size: int64(len(v.JSON))}, nil
}

// Fit puts a value into the store if it is too large for a message: then the object stands for it, else the value does.
func (s *Store) Fit(ctx context.Context, v Value) (json.RawMessage, *protocol.Object, error) {
	if len(v.JSON) <= protocol.InlinePayload {
		return v.JSON, nil, nil
	}
	object, err := s.Put(ctx, v)
	return nil, object, err
}

// put is one value on its way into the store. Its meta message first announces it as deleted, which no reader takes for
// an object: content whose writer died can be found by it, and its age be seen.
type put struct {
	store    *Store
	value    Value
	subject  string
	info     jetstream.ObjectInfo
	uploaded bool
}

func (p *put) run(ctx context.Context) error {
	for {
		there, at, err := p.store.meta(ctx, p.value.Owner.Project, p.info.Name)
		if err != nil {
			return err
		}
		err = p.step(ctx, there, at)
		if !errors.Is(err, journal.ErrConflict) {
			return err
		}
	}
}

// step does what is left to do over what the store holds. Somebody else who puts or deletes the same makes it a conflict.
func (p *put) step(ctx context.Context, there *jetstream.ObjectInfo, at uint64) error {
	if there != nil && !there.Deleted {
		if p.uploaded { // ours is not needed
			return p.store.purge(ctx, p.value.Owner.Project, protocol.ObjectChunkSubject(p.value.Owner.Project, p.info.NUID))
		}
		if !keptBy(there, p.value.Keeper) && time.Since(there.ModTime) < freshFor {
			return nil
		}
		there.ModTime = time.Time{}
		_, err := p.store.setMeta(ctx, p.value.Owner.Project, there, at)
		return err
	}
	if !p.uploaded {
		intent := p.info
		intent.Deleted = true
		var err error
		if at, err = p.store.setMeta(ctx, p.value.Owner.Project, &intent, at); err != nil {
			return err
		}
		if err := p.upload(ctx); err != nil {
			return err
		}
		p.uploaded = true
	}
	_, err := p.store.setMeta(ctx, p.value.Owner.Project, &p.info, at)
	return err
}

// upload stores the content. Each chunk follows the one before it, so that a repetition does not double one.
func (p *put) upload(ctx context.Context) error {
	project, rest := p.value.Owner.Project, p.value.JSON
	subject := protocol.ObjectChunkSubject(project, p.info.NUID)
	for last := uint64(0); len(rest) > 0; {
		chunk := rest[:min(len(rest), chunkSize)]
		rest = rest[len(chunk):]
		var err error
		last, err = p.store.journal.Append(ctx, protocol.ObjectsStream(project), subject, last, chunk)
		if errors.Is(err, journal.ErrConflict) {
			return fmt.Errorf("content: %v", err) // nobody else writes here: it is no conflict about the object
		}
		if err != nil {
			return fmt.Errorf("content: %w", err)
		}
	}
	return nil
}

// meta reads from the leader what the store knows of an object, and the sequence of that; nil if nothing.
func (s *Store) meta(ctx context.Context, project, name string) (*jetstream.ObjectInfo, uint64, error) {
	m, err := s.journal.Last(ctx, protocol.ObjectsStream(project), protocol.ObjectMetaSubject(project, name))
	if errors.Is(err, journal.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := parseMeta(m)
	return info, m.Sequence, err
}

func parseMeta(m *journal.Message) (*jetstream.ObjectInfo, error) {
	var info jetstream.ObjectInfo
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Subject, err)
	}
	info.ModTime = m.Time
	return &info, nil
}

func (s *Store) setMeta(ctx context.Context, project string, info *jetstream.ObjectInfo, expected uint64) (uint64, error) {
	body, err := json.Marshal(info)
	if err != nil {
		return 0, err
	}
	header := nats.Header{protocol.HeaderRollup: {protocol.RollupSubject}}
	return s.journal.AppendWith(ctx, protocol.ObjectsStream(project), protocol.ObjectMetaSubject(project, info.Name), expected, header, body)
}
