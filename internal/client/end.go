package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Polling is only the net below what is heard: a core message can be lost.
const (
	firstPoll = 20 * time.Millisecond
	maxPoll   = 5 * time.Second
	// freshPoll is firstPoll of whoever listens since the instance began: a busy server is not asked for what it is about
	// to say.
	freshPoll = 100 * time.Millisecond
)

// Await waits for the end of the instance that goes by incarnation, or until ctx ends. The error is ErrNotFound if the
// instance is gone. With fresh, the caller has just created the instance and steered it by nothing since: the first
// announcement is its end, and one read is saved.
func (c Client) Await(ctx context.Context, at protocol.Instance, incarnation uint64, fresh bool) (*protocol.Done, error) {
	behind, err := c.behind(ctx, at)
	if err != nil {
		return nil, err
	}
	if behind {
		return c.awaitBehind(ctx, at, incarnation)
	}
	heard := make(chan *nats.Msg, 8)
	sub, err := c.Store.Conn().ChanSubscribe(at.EndedSubject(), heard)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	// On one connection the server takes the subscription before the read that follows it: an end that the read does
	// not see is heard. An instance that was just created has hardly ended: it is listened for first.
	poll := firstPoll
	if fresh {
		poll = freshPoll
	}
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for read := !fresh; ; read = true {
		if read {
			done, err := c.ended(ctx, at, incarnation)
			if done != nil || err != nil {
				return done, err
			}
		}
		timer.Reset(poll)
		poll = min(2*poll, maxPoll)
		select {
		case m := <-heard:
			if done, ok := first(m, incarnation); ok && fresh {
				return done, nil
			}
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// first reads an announcement as it was stored, and reports whether it is the first of its instance: then no restart
// can have made it void before it was said.
func first(m *nats.Msg, incarnation uint64) (*protocol.Done, bool) {
	done, err := decodeDone(m.Data)
	ok := err == nil && done.Incarnation == incarnation && done.State != protocol.StateDeleted && !expired(done, time.Now())
	return done, ok && m.Header.Get(protocol.HeaderLastSequence) == "0"
}

// ended is end for somebody who waits: an instance that is gone is an error.
func (c Client) ended(ctx context.Context, at protocol.Instance, incarnation uint64) (*protocol.Done, error) {
	p, err := c.Look(ctx, at)
	if err == nil && p.Incarnation != incarnation {
		err = ErrNotFound
	}
	return p.Done, err
}

// end reads how an instance has ended; nil if it has not, or has begun again since.
func (c Client) end(ctx context.Context, at protocol.Instance, incarnation uint64) (*protocol.Done, error) {
	stream := at.Stream()
	m, err := c.Store.Last(ctx, stream, at.DoneSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	newest, err := decodeDone(m.Data)
	if err != nil {
		return nil, err
	}
	restarted, err := c.restarted(ctx, at, incarnation, newest.Mark)
	if err != nil {
		return nil, err
	}
	if newest.Incarnation == incarnation && (restarted <= newest.Mark || c.inVain(ctx, at, newest, restarted)) {
		return newest, nil
	}
	// An announcement may come again, late: after that of a newer end.
	for next := incarnation; ; next++ {
		m, err := c.Store.NextFromLeader(ctx, stream, at.DoneSubject(), next)
		if errors.Is(err, journal.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		done, err := decodeDone(m.Data)
		if err == nil && done.Incarnation == incarnation && done.Mark >= restarted {
			return done, nil
		}
		next = m.Sequence
	}
}

// restarted is the sequence of the newest control after mark that lets the instance begin again; 0 if there is none. One
// that changes nothing counts, too: the end is announced once more when that has turned out.
func (c Client) restarted(ctx context.Context, at protocol.Instance, incarnation, mark uint64) (uint64, error) {
	newest := uint64(0)
	for after := max(mark, incarnation); ; {
		m, err := c.Store.NextFromLeader(ctx, at.Stream(), at.ControlSubject(), after+1)
		if errors.Is(err, journal.ErrNotFound) {
			return newest, nil
		}
		if err != nil {
			return 0, err
		}
		if control, ok := readControl(m, incarnation); ok && control.Action == protocol.ActionRestart {
			newest = m.Sequence
		}
		after = m.Sequence
	}
}

// readControl reads a control, unless it is not for the instance that goes by incarnation.
func readControl(m *journal.Message, incarnation uint64) (protocol.Control, bool) {
	var control protocol.Control
	err := json.Unmarshal(m.Data, &control)
	meant := control.Incarnation == 0 || control.Incarnation == incarnation
	return control, err == nil && m.Sequence > incarnation && meant
}

func decodeDone(data []byte) (*protocol.Done, error) {
	var done protocol.Done
	if err := json.Unmarshal(data, &done); err != nil {
		return nil, fmt.Errorf("announcement of the end: %w", err)
	}
	return &done, nil
}
