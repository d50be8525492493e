package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// maxTries is how often a value is handed over from the beginning, if whoever takes it goes away meanwhile.
const maxTries = 5

// Behind lets values of projects that are behind a door be put and got there.
func (s *Store) Behind(doors *door.Caller) *Store {
	s.doors = doors
	return s
}

// handOver gives a value to the owner of a door, part by part to the process that has begun to take it. The owner checks
// the whole before it stores it.
func (s *Store) handOver(ctx context.Context, v Value) (*protocol.Object, error) {
	at := s.doors.To(v.Owner.Project)
	if v.News {
		at = s.doors.News(v.Owner.Project)
	}
	sum := sha256.Sum256(v.JSON)
	request := protocol.DoorRequest{ID: v.Owner.ID, Put: &protocol.DoorPut{
		Token: v.Owner.Token, Digest: hex.EncodeToString(sum[:]), Size: int64(len(v.JSON)),
	}}
	for try := 1; ; try++ {
		answer, err := s.doors.Do(ctx, at, at.WorkflowSubject(v.Owner.Workflow, protocol.DoorOpPut), request)
		for err == nil && answer.Object == nil {
			if answer.From < 0 || answer.From >= int64(len(v.JSON)) {
				return nil, fmt.Errorf("hand over a value to project %q: it asks for what is after byte %d of %d", at.Owner, answer.From, len(v.JSON))
			}
			part := v.JSON[answer.From:min(answer.From+protocol.MaxDoorPart, int64(len(v.JSON)))]
			transfer, server := answer.Transfer, answer.Server
			answer, err = s.doors.Hasty().Do(ctx, at, at.ValueSubject(server), protocol.DoorRequest{
				Part: &protocol.DoorPart{Transfer: transfer, From: answer.From, Data: part},
			})
			answer.Transfer, answer.Server = transfer, server
		}
		if err == nil {
			return answer.Object, nil
		}
		if lost := errors.Is(err, journal.ErrUnknownOutcome) || door.Is(err, protocol.FailureNotFound) || door.Is(err, protocol.FailureBusy); !lost || try == maxTries || ctx.Err() != nil {
			return nil, fmt.Errorf("hand over a value to project %q: %w", at.Owner, err)
		}
	}
}

// fetch reads a value at the door of its owner, part by part.
func (s *Store) fetch(ctx context.Context, project string, object protocol.Object) (json.RawMessage, error) {
	missing := func(reason string) error { return &MissingError{Project: project, Name: object.Name, Reason: reason} }
	owner, digest, err := protocol.ParseObjectName(project, object.Name)
	if err != nil {
		return nil, missing(err.Error())
	}
	at := s.doors.To(project)
	get := protocol.DoorGet{Object: object}
	var value []byte
	for int64(len(value)) < object.Size {
		answer, err := s.doors.Do(ctx, at, at.WorkflowSubject(owner.Workflow, protocol.DoorOpGet), protocol.DoorRequest{ID: owner.ID, Get: &get})
		if door.Is(err, protocol.FailureNoValue) {
			return nil, missing(err.Error())
		}
		if err != nil {
			return nil, fmt.Errorf("get object %q of project %q: %w", object.Name, project, err)
		}
		if len(answer.Data) == 0 {
			return nil, missing(fmt.Sprintf("its content ends after %d of %d bytes", len(value), object.Size))
		}
		value = append(value, answer.Data...)
		get.Try, get.After = answer.Try, answer.After
	}
	if sum := sha256.Sum256(value); hex.EncodeToString(sum[:]) != digest {
		return nil, missing("its content is damaged")
	}
	s.cache.add(project, object.Name, value)
	return value, nil
}

// Part is a part of a value, for somebody who has no access to the store.
type Part struct {
	Data []byte
	// Try and After are where the next part follows.
	Try   string
	After uint64
}

// Part reads some of a value of a project, at most protocol.MaxDoorPart: from its beginning, or what follows another part. A value that
// is not there, or not any more, is a *MissingError. Its content is not checked: who puts the parts together can.
func (s *Store) Part(ctx context.Context, project string, get protocol.DoorGet) (Part, error) {
	missing := func(reason string) error {
		return &MissingError{Project: project, Name: get.Object.Name, Reason: reason}
	}
	owner, digest, err := protocol.ParseObjectName(project, get.Object.Name)
	if err != nil {
		return Part{}, missing(err.Error())
	}
	if get.Try == "" {
		info, _, err := s.meta(ctx, project, get.Object.Name)
		switch {
		case err != nil:
			return Part{}, err
		case info == nil || info.Deleted:
			return Part{}, missing("is not there")
		case info.Size != uint64(get.Object.Size):
			return Part{}, missing(fmt.Sprintf("has %d bytes, not %d", info.Size, get.Object.Size))
		}
		get.Try, get.After = info.NUID[strings.LastIndexByte(info.NUID, '.')+1:], 0
	}
	if len(get.Try) > 64 || protocol.Escape(get.Try) != get.Try {
		return Part{}, missing("no such try to put it")
	}
	p := Part{Try: get.Try, After: get.After}
	subject := protocol.ObjectChunkSubject(project, owner.ChunksID(digest, get.Try))
	page, err := s.page(ctx, protocol.ObjectsStream(project), subject, get.After, protocol.MaxDoorPart/chunkSize)
	if err != nil {
		return Part{}, err
	}
	if len(page) == 0 {
		return Part{}, missing("there is no more of it")
	}
	for _, m := range page {
		if len(p.Data)+len(m.Data) > protocol.MaxDoorPart {
			break
		}
		p.Data, p.After = append(p.Data, m.Data...), m.Sequence
	}
	return p, nil
}

// Refresh lets a value of the own project pass for one that was just put, if it is there: nobody takes it for forgotten.
func (s *Store) Refresh(ctx context.Context, project string, object protocol.Object) error {
	for {
		info, at, err := s.meta(ctx, project, object.Name)
		if err != nil || info == nil || info.Deleted || time.Since(info.ModTime) < freshFor {
			return err
		}
		info.ModTime = time.Time{}
		if _, err = s.setMeta(ctx, project, info, at); !errors.Is(err, journal.ErrConflict) {
			return err
		}
	}
}
