package objects

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// manyKeepers stands for the keepers of a value that several agents have put: none of them can be told from the others.
const manyKeepers = "*"

// Known is what a store knows of a value, or of the try to put one.
type Known struct {
	Name string
	// Put is when the value was last put.
	Put time.Time
	// Deleted is set if nobody can get it: it was not put whole, or is being forgotten.
	Deleted bool
	// Keepers is set if agents' outboxes may refer to it. Keeper is the one, unless there are several.
	Keepers bool
	Keeper  Keeper

	info *jetstream.ObjectInfo
	at   uint64
}

// Size is how many bytes the value has.
func (k *Known) Size() int64 { return int64(k.info.Size) }

// Known tells what the store of a project knows of an object, nil if nothing.
func (s *Store) Known(ctx context.Context, project, name string) (*Known, error) {
	info, at, err := s.meta(ctx, project, name)
	if err != nil || info == nil {
		return nil, err
	}
	k := &Known{Name: name, Put: info.ModTime, Deleted: info.Deleted, info: info, at: at}
	if keeper := info.Metadata[keeperKey]; keeper != "" {
		k.Keepers = true
		if of, key, ok := strings.Cut(keeper, "/"); ok {
			k.Keeper = Keeper{Project: of, Key: key}
		}
	}
	return k, nil
}

// Forget takes away a value that nobody needs, unless it was put again since. Only who knows that no message refers to
// it, and none will, may call it.
func (s *Store) Forget(ctx context.Context, project string, k *Known) error {
	if err := s.forget(ctx, project, k); err != nil && !errors.Is(err, journal.ErrConflict) {
		return fmt.Errorf("forget object %q: %w", k.Name, err)
	}
	return nil
}

// forget first says that the value is deleted: who puts it from then on puts all of it. What is left after a crash is
// found by that message.
func (s *Store) forget(ctx context.Context, project string, k *Known) error {
	at := k.at
	if !k.Deleted {
		deleted := *k.info
		deleted.Deleted, deleted.ModTime = true, time.Time{}
		var err error
		if at, err = s.setMeta(ctx, project, &deleted, k.at); err != nil {
			return err
		}
	}
	s.cache.remove(project, k.Name)
	if err := s.purge(ctx, project, protocol.ObjectChunkSubject(project, k.info.NUID)); err != nil {
		return err
	}
	return s.journal.Purge(ctx, protocol.ObjectsStream(project), protocol.ObjectMetaSubject(project, k.Name), at+1)
}

// keptBy returns what is known of a value, with one more keeper; changed is false if it has that already.
func keptBy(info *jetstream.ObjectInfo, keeper Keeper) (changed bool) {
	was, is := info.Metadata[keeperKey], Value{Keeper: keeper}.metadata()[keeperKey]
	if is == "" || was == is || was == manyKeepers {
		return false
	}
	if was != "" {
		is = manyKeepers
	}
	info.Metadata = maps.Clone(info.Metadata)
	if info.Metadata == nil {
		info.Metadata = map[string]string{}
	}
	info.Metadata[keeperKey] = is
	return true
}
