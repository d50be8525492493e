package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// Listing is a part of the subjects of a stream.
type Listing struct {
	// Subjects are sorted.
	Subjects []string
	// Total is how many there are in all.
	Total int
	// Last is the sequence of the newest message of the stream.
	Last uint64
}

// State is what the leader of a stream says of it.
type State struct {
	// First and Last are the sequences of its oldest and newest message; of an empty stream, First is after Last.
	First, Last uint64
	Messages    uint64
	Bytes       uint64
	// FirstTime is when the oldest message was stored, Now the leader's time.
	FirstTime, Now time.Time
}

// State asks the leader of a stream. The error is ErrNoStream if there is no such stream.
func (s *Store) State(ctx context.Context, stream string) (State, error) {
	r, err := s.info(ctx, stream, map[string]any{})
	if err != nil {
		return State{}, err
	}
	return State{
		First: r.State.First, Last: r.State.Last, Messages: r.State.Messages, Bytes: r.State.Bytes,
		FirstTime: r.State.FirstTime, Now: r.Now,
	}, nil
}

// Subjects lists the subjects of a stream that a filter matches, as its leader has them: those from offset on, at most
// 100,000 of them. A stream that does not exist has none.
func (s *Store) Subjects(ctx context.Context, stream, filter string, offset int) (Listing, error) {
	r, err := s.info(ctx, stream, map[string]any{"subjects_filter": filter, "offset": offset})
	if errors.Is(err, ErrNoStream) {
		return Listing{}, nil
	}
	if err != nil {
		return Listing{}, err
	}
	return Listing{Subjects: slices.Sorted(maps.Keys(r.State.Subjects)), Total: r.Total, Last: r.State.Last}, nil
}

type streamInfo struct {
	Total int       `json:"total"`
	Now   time.Time `json:"ts"`
	State struct {
		Messages  uint64            `json:"messages"`
		Bytes     uint64            `json:"bytes"`
		First     uint64            `json:"first_seq"`
		FirstTime time.Time         `json:"first_ts"`
		Last      uint64            `json:"last_seq"`
		Subjects  map[string]uint64 `json:"subjects"`
	} `json:"state"`
	Error *ServerError `json:"error"`
}

func (s *Store) info(ctx context.Context, stream string, request map[string]any) (streamInfo, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return streamInfo{}, err
	}
	for wait := (backoff{most: maxRead}); ; {
		r, err := s.tryInfo(ctx, stream, body, wait.try())
		if err == nil {
			return r, nil
		}
		if !retryable(err) {
			return r, fmt.Errorf("info of stream %s: %w", stream, err)
		}
		if stop := wait.sleep(ctx, s.replies.network, err); stop != nil {
			return r, fmt.Errorf("info of stream %s: %w (last try: %w)", stream, stop, err)
		}
	}
}

func (s *Store) tryInfo(ctx context.Context, stream string, body []byte, patience time.Duration) (r streamInfo, err error) {
	answer, err := s.request(ctx, &nats.Msg{Subject: "$JS.API.STREAM.INFO." + stream, Data: body}, patience)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(answer.Data, &r); err != nil {
		return r, fmt.Errorf("answer %.80q: %w", answer.Data, err)
	}
	if r.Error != nil {
		return r, r.Error
	}
	return r, nil
}

// Progress is how far a durable consumer has come, by the sequences of its stream.
type Progress struct {
	// Floor is up to where everything is acknowledged, Delivered the newest message that was delivered.
	Floor, Delivered uint64
	// Unacked is how many were delivered and are not acknowledged.
	Unacked int
}

// Progress asks the leader of a consumer.
func (s *Store) Progress(ctx context.Context, stream, consumer string) (Progress, error) {
	for wait := (backoff{most: maxRead}); ; {
		p, err := s.tryProgress(ctx, stream, consumer, wait.try())
		if err == nil {
			return p, nil
		}
		if !retryable(err) {
			return p, fmt.Errorf("info of consumer %s of stream %s: %w", consumer, stream, err)
		}
		if stop := wait.sleep(ctx, s.replies.network, err); stop != nil {
			return p, fmt.Errorf("info of consumer %s of stream %s: %w (last try: %w)", consumer, stream, stop, err)
		}
	}
}

func (s *Store) tryProgress(ctx context.Context, stream, consumer string, patience time.Duration) (Progress, error) {
	answer, err := s.request(ctx, &nats.Msg{Subject: "$JS.API.CONSUMER.INFO." + stream + "." + consumer}, patience)
	if err != nil {
		return Progress{}, err
	}
	var r struct {
		AckFloor struct {
			Stream uint64 `json:"stream_seq"`
		} `json:"ack_floor"`
		Delivered struct {
			Stream uint64 `json:"stream_seq"`
		} `json:"delivered"`
		Unacked int          `json:"num_ack_pending"`
		Error   *ServerError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &r); err != nil {
		return Progress{}, fmt.Errorf("answer %.80q: %w", answer.Data, err)
	}
	if r.Error != nil {
		return Progress{}, r.Error
	}
	return Progress{Floor: r.AckFloor.Stream, Delivered: r.Delivered.Stream, Unacked: r.Unacked}, nil
}

const (
	// storedPause is how long it takes to ask a leader again whether it has stored what another replica has, storedLimit how
	// long it may be behind: by milliseconds, if it is well.
	storedPause = 10 * time.Millisecond
	storedLimit = time.Second
)

// ErrBehind says that the leader of a stream does not have a message that another replica has delivered. If there is only one
// replica, it has lost what it had acknowledged.
var ErrBehind = errors.New("the leader of the stream does not have what was delivered")

// AwaitStored waits until the leader of a stream has a message, or has had it. Each replica stores by itself what most of them
// have: the one that delivers can be ahead of the leader, which then says that there is no such message. The error is ErrBehind
// if that lasts.
func (s *Store) AwaitStored(ctx context.Context, stream string, sequence uint64) error {
	for waited := time.Duration(0); ; waited += storedPause {
		state, err := s.State(ctx, stream)
		if err != nil || state.Last >= sequence {
			return err
		}
		if waited >= storedLimit {
			return fmt.Errorf("%w: message %d of stream %s", ErrBehind, sequence, stream)
		}
		if err := s.Sleep(ctx, storedPause); err != nil {
			return err
		}
	}
}

// Sleep returns after d, or before that with the cause for which ctx ended: by the clock of the network below.
func (s *Store) Sleep(ctx context.Context, d time.Duration) error {
	return s.replies.network.Sleep(ctx, d)
}
