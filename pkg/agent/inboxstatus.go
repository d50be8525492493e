package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// InboxStatus says what waits for an agent.
type InboxStatus struct {
	// Waiting is how many messages are in the inbox, those that are parked included.
	Waiting uint64 `json:"waiting"`
	// Parked is how many of them have failed and wait for another attempt, Next when the first of these may be.
	Parked int        `json:"parked"`
	Next   *time.Time `json:"next,omitempty"`
	// Stopped is set if so many are parked that no new ones are tried.
	Stopped bool `json:"stopped"`
}

// Inbox returns what waits for an agent of a project. It does not wake the agent; one that does not exist has nothing
// waiting, or what others have sent it.
func Inbox(ctx context.Context, p *project.Project, class, name string) (InboxStatus, error) {
	if err := errors.Join(protocol.CheckClass(class), protocol.CheckAgent(name)); err != nil {
		return InboxStatus{}, err
	}
	id := protocol.Agent{Project: p.Config.Name, Class: class, Name: name}
	waiting, err := p.JS.Stream(ctx, protocol.InboxStream(id.Project))
	if err != nil {
		return InboxStatus{}, fmt.Errorf("inbox of agent %q: %w", id, err)
	}
	info, err := waiting.Info(ctx, jetstream.WithSubjectFilter(id.MailSubject()))
	if err != nil {
		return InboxStatus{}, fmt.Errorf("inbox of agent %q: %w", id, err)
	}
	var s InboxStatus
	for _, n := range info.State.Subjects {
		s.Waiting += n
	}
	bucket := bucketOf(protocol.AgentsBucket(id.Project))
	m, err := p.Journal().Last(ctx, bucket.stream, bucket.subject(protocol.AgentKey(class, name)))
	if errors.Is(err, journal.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("record of agent %q: %w", id, err)
	}
	var r protocol.Record
	if len(m.Data) > 0 {
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return s, fmt.Errorf("record of agent %q: %w", id, err)
		}
	}
	s.Parked, s.Stopped = len(r.Parked), len(r.Parked) >= maxParked
	for _, parked := range r.Parked {
		if s.Next == nil || parked.NotBefore.Before(*s.Next) {
			s.Next = &parked.NotBefore
		}
	}
	return s, nil
}
