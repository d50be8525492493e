package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

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

// Subjects lists the subjects of a stream that a filter matches, as its leader has them: those from offset on, at most
// 100,000 of them. A stream that does not exist has none.
func (s *Store) Subjects(ctx context.Context, stream, filter string, offset int) (Listing, error) {
	body, err := json.Marshal(map[string]any{"subjects_filter": filter, "offset": offset})
	if err != nil {
		return Listing{}, err
	}
	for wait := (backoff{}); ; {
		l, err := s.trySubjects(ctx, stream, body)
		if err == nil {
			return l, nil
		}
		if se, ok := errors.AsType[*ServerError](err); ok && se.ErrCode == codeNoStream {
			return Listing{}, nil
		}
		if !retryable(err) {
			return Listing{}, fmt.Errorf("subjects of stream %s: %w", stream, err)
		}
		if stop := wait.sleep(ctx, s.replies.network); stop != nil {
			return Listing{}, fmt.Errorf("subjects of stream %s: %w (last try: %w)", stream, stop, err)
		}
	}
}

func (s *Store) trySubjects(ctx context.Context, stream string, body []byte) (Listing, error) {
	answer, err := s.request(ctx, &nats.Msg{Subject: "$JS.API.STREAM.INFO." + stream, Data: body})
	if err != nil {
		return Listing{}, err
	}
	var r struct {
		Total int `json:"total"`
		State struct {
			LastSequence uint64            `json:"last_seq"`
			Subjects     map[string]uint64 `json:"subjects"`
		} `json:"state"`
		Error *ServerError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &r); err != nil {
		return Listing{}, fmt.Errorf("answer %.80q: %w", answer.Data, err)
	}
	if r.Error != nil {
		return Listing{}, r.Error
	}
	return Listing{Subjects: slices.Sorted(maps.Keys(r.State.Subjects)), Total: r.Total, Last: r.State.LastSequence}, nil
}
