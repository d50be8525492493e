package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Purge removes the messages of subject (wildcards allowed) whose sequence is below before. It goes on through
// disconnects until ctx ends; removing what is gone is a success. There is no purge without a bound: it would take what
// another writer stores at this moment. What a durable consumer listens to is for DeleteEach.
func (s *Store) Purge(ctx context.Context, stream, subject string, before uint64) error {
	if before == 0 {
		return fmt.Errorf("purge %s: needs a bound", subject)
	}
	return s.purge(ctx, stream, subject, map[string]any{"filter": subject, "seq": before})
}

// DeleteEach removes the messages of subject (wildcards allowed) whose sequence is below before, as Purge does, but one by
// one: for subjects that a durable consumer listens to. A purge of a part of what a consumer listens to can move its ack
// floor past messages that were delivered and that nobody has acked, and those never come again (nats-server 2.15.2, if the
// floor was before the first message of the stream).
func (s *Store) DeleteEach(ctx context.Context, stream, subject string, before uint64) error {
	if before == 0 {
		return fmt.Errorf("delete each of %s: needs a bound", subject)
	}
	for next := uint64(1); ; {
		m, err := s.NextFromLeader(ctx, stream, subject, next)
		if errors.Is(err, ErrNotFound) || err == nil && m.Sequence >= before {
			return nil
		}
		if err == nil {
			err = s.Delete(ctx, stream, m.Sequence)
		}
		if err != nil {
			return fmt.Errorf("delete each of %s: %w", subject, err)
		}
		next = m.Sequence + 1
	}
}

// PurgeAll removes all messages of a stream whose sequence is below before: the server drops whole blocks and does not
// look for subjects.
func (s *Store) PurgeAll(ctx context.Context, stream string, before uint64) error {
	if before == 0 {
		return fmt.Errorf("purge stream %s: needs a bound", stream)
	}
	return s.purge(ctx, stream, "stream "+stream, map[string]any{"seq": before})
}

func (s *Store) purge(ctx context.Context, stream, what string, request map[string]any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return s.remove(ctx, "purge "+what, func(patience time.Duration) error {
		return s.tryRemove(ctx, "$JS.API.STREAM.PURGE."+stream, body, patience)
	})
}

// Delete removes the message of a sequence, whatever its subject. It goes on through disconnects until ctx ends; removing
// what is gone is a success.
func (s *Store) Delete(ctx context.Context, stream string, sequence uint64) error {
	body, err := json.Marshal(map[string]any{"seq": sequence, "no_erase": true})
	if err != nil {
		return err
	}
	return s.remove(ctx, fmt.Sprintf("delete message %d of stream %s", sequence, stream), func(patience time.Duration) error {
		err := s.tryRemove(ctx, "$JS.API.STREAM.MSG.DELETE."+stream, body, patience)
		if se, ok := errors.AsType[*ServerError](err); !ok || se.ErrCode != codeDeleteFailed && se.ErrCode != codeNoSequence {
			return err
		}
		// The server may call a message that is gone by the same code as one that it cannot remove.
		if _, readErr := s.tryGet(ctx, stream, fmt.Appendf(nil, `{"seq":%d}`, sequence), patience); errors.Is(readErr, ErrNotFound) {
			return nil
		}
		return err
	})
}

// remove tries to take something away until that is answered.
func (s *Store) remove(ctx context.Context, what string, try func(patience time.Duration) error) error {
	for wait := (backoff{most: maxRead}); ; {
		err := try(wait.try())
		if err == nil {
			return nil
		}
		if !retryable(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if stop := wait.sleep(ctx, s.replies.network, err); stop != nil {
			return fmt.Errorf("%s: %w (last try: %w)", what, stop, err)
		}
	}
}

func (s *Store) tryRemove(ctx context.Context, subject string, body []byte, patience time.Duration) error {
	answer, err := s.request(ctx, &nats.Msg{Subject: subject, Data: body}, patience)
	if err != nil {
		return err
	}
	var r struct {
		Success bool         `json:"success"`
		Error   *ServerError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &r); err != nil {
		return fmt.Errorf("answer %.80q: %w", answer.Data, err)
	}
	if r.Error != nil {
		return r.Error
	}
	if !r.Success {
		return errors.New("the server did not remove it")
	}
	return nil
}
