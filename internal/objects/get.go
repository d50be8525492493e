package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// pageChunks is how many chunks one read brings: with the server's limit on answers in mind.
const pageChunks = 8

// Load returns a value that a message holds, or that it refers to: raw if object is nil. The value may be shared: it
// must not be changed.
func (s *Store) Load(ctx context.Context, project string, raw json.RawMessage, object *protocol.Object) (json.RawMessage, error) {
	if object == nil {
		return raw, nil
	}
	return s.Get(ctx, project, *object)
}

// Get returns a value from the store of a project. It goes on through disconnects and leader elections until ctx ends.
// A value that is not there, or not what was put, is a *MissingError. The value may be shared: it must not be changed.
func (s *Store) Get(ctx context.Context, project string, object protocol.Object) (json.RawMessage, error) {
	if value, ok := s.cache.get(project, object.Name); ok {
		return value, nil
	}
	through, err := s.doors.Through(ctx, project)
	if err != nil {
		return nil, fmt.Errorf("get object %q: %w", object.Name, err)
	}
	if through {
		return s.fetch(ctx, project, object)
	}
	digest, err := protocol.ObjectDigest(object.Name)
	if err != nil {
		return nil, &MissingError{Project: project, Name: object.Name, Reason: err.Error()}
	}
	for seen := ""; ; {
		info, _, err := s.meta(ctx, project, object.Name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("get object %q: %w", object.Name, err)
		case info == nil || info.Deleted:
			return nil, &MissingError{Project: project, Name: object.Name, Reason: "is not there"}
		case info.Size != uint64(object.Size):
			return nil, &MissingError{Project: project, Name: object.Name,
				Reason: fmt.Sprintf("has %d bytes, %d were put", info.Size, object.Size)}
		}
		value, err := s.content(ctx, project, info.NUID, info.Size)
		if err != nil {
			return nil, fmt.Errorf("get object %q: %w", object.Name, err)
		}
		if sum := sha256.Sum256(value); hex.EncodeToString(sum[:]) == digest {
			s.cache.add(project, object.Name, value)
			return value, nil
		}
		if seen == info.NUID { // it was not replaced while we read
			return nil, &MissingError{Project: project, Name: object.Name,
				Reason: fmt.Sprintf("its content is damaged: %d of %d bytes", len(value), info.Size)}
		}
		seen = info.NUID
	}
}

// content reads chunks up to a size. It goes to the leader for what a replica does not have, and returns what is there.
func (s *Store) content(ctx context.Context, project, id string, size uint64) ([]byte, error) {
	value := make([]byte, 0, size)
	stream, subject := protocol.ObjectsStream(project), protocol.ObjectChunkSubject(project, id)
	last := uint64(0)
	for uint64(len(value)) < size {
		page, err := s.page(ctx, stream, subject, last, pageChunks)
		if len(page) == 0 || err != nil {
			return value, err
		}
		for _, m := range page {
			value, last = append(value, m.Data...), m.Sequence
		}
	}
	return value, nil
}

// page reads some of what a subject holds after a sequence: from the leader, if a replica does not have it.
func (s *Store) page(ctx context.Context, stream, subject string, after uint64, limit int) ([]journal.Message, error) {
	page, _, err := s.journal.Page(ctx, stream, subject, after+1, limit)
	if len(page) > 0 || err != nil {
		return page, err
	}
	m, err := s.journal.NextFromLeader(ctx, stream, subject, after+1)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []journal.Message{*m}, nil
}
