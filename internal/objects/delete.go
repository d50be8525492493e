package objects

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// DeleteInstance takes away everything that an incarnation of an instance, or one state of an agent, owns. Only who knows
// that nothing can refer to its values any more may call it. Deleting again is harmless. Values behind the door of another
// project stay: its janitor takes what nobody needs.
func (s *Store) DeleteInstance(ctx context.Context, owner protocol.ObjectOwner) error {
	if through, err := s.doors.Through(ctx, owner.Project); through || err != nil {
		return err
	}
	if err := s.deleteAll(ctx, owner); err != nil {
		return fmt.Errorf("delete the objects of %s/%s: %w", owner.Workflow, owner.ID, err)
	}
	return nil
}

// deleteAll goes by the content: that goes last, so that what is left after a crash is found again.
func (s *Store) deleteAll(ctx context.Context, owner protocol.ObjectOwner) error {
	stream := protocol.ObjectsStream(owner.Project)
	var names []string
	var last uint64
	for offset, total := 0, 1; offset < total; {
		l, err := s.journal.Subjects(ctx, stream, owner.ChunkSubjects(), offset)
		if err != nil {
			return err
		}
		for _, subject := range l.Subjects {
			digest, err := owner.ParseChunkDigest(subject)
			if err != nil {
				return err
			}
			names = append(names, owner.ObjectName(digest))
		}
		if len(l.Subjects) == 0 {
			break
		}
		offset, total, last = offset+len(l.Subjects), l.Total, l.Last
	}
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		s.cache.remove(owner.Project, name)
		if err := s.journal.Purge(ctx, stream, protocol.ObjectMetaSubject(owner.Project, name), last+1); err != nil {
			return err
		}
	}
	return s.journal.Purge(ctx, stream, owner.ChunkSubjects(), last+1)
}

// purge takes away everything under a literal subject.
func (s *Store) purge(ctx context.Context, project, subject string) error {
	m, err := s.journal.Last(ctx, protocol.ObjectsStream(project), subject)
	if errors.Is(err, journal.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.journal.Purge(ctx, protocol.ObjectsStream(project), subject, m.Sequence+1)
}

// Copy makes a value of one owner one of another's, so that it does not go with the first.
func (s *Store) Copy(ctx context.Context, project string, object protocol.Object, to protocol.ObjectOwner) (*protocol.Object, error) {
	value, err := s.Get(ctx, project, object)
	if err != nil {
		return nil, err
	}
	return s.Put(ctx, Value{Owner: to, JSON: value})
}
