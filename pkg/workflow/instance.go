package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// State is what an instance is doing.
type State = protocol.State

// States of an instance.
const (
	Queued   = protocol.StateQueued
	Running  = protocol.StateRunning
	Waiting  = protocol.StateWaiting
	Complete = protocol.StateComplete
	Errored  = protocol.StateErrored
)

// Status is what is known of an instance, its steps so far included.
type Status = protocol.Status

// Instance is a handle to one instance of a workflow with result R.
type Instance[R any] struct {
	at      protocol.Instance
	project *project.Project
	reader  runner.Reader
	// created is set on the handle of the call that started the instance.
	created bool
}

// ID is the instance's id.
func (i *Instance[R]) ID() string { return i.at.ID }

// drafted reports whether the turn in ctx, or an outbox not yet published, is what creates the instance.
func (i *Instance[R]) drafted(ctx context.Context) bool {
	t, ok := turn.From(ctx)
	if !ok {
		return false
	}
	_, ok = t.Drafted(i.at)
	return ok
}

// askTimeout bounds the wait for one runner's answer.
const askTimeout = 2 * time.Second

// Status tells what is known of the instance now. It asks any runner of the owning project, and reads the log itself
// if none is there. An instance that the current turn starts is queued.
func (i *Instance[R]) Status(ctx context.Context) (Status, error) {
	if t, ok := turn.From(ctx); ok {
		if create, ok := t.Drafted(i.at); ok {
			return Status{Workflow: i.at.Workflow, ID: i.at.ID, State: Queued, Created: create.Created}, nil
		}
	}
	status, err := i.ask(ctx)
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		status, err = i.reader.Status(ctx, i.at.Workflow, i.at.ID)
	}
	if errors.Is(err, journal.ErrNotFound) {
		return Status{}, &NotFoundError{Workflow: i.at.Workflow, ID: i.at.ID}
	}
	if err != nil {
		return Status{}, fmt.Errorf("status of instance %s: %w", i.at, err)
	}
	return status, nil
}

func (i *Instance[R]) ask(ctx context.Context) (Status, error) {
	question, err := json.Marshal(protocol.Ask{V: protocol.Version, Workflow: i.at.Workflow, ID: i.at.ID})
	if err != nil {
		return Status{}, err
	}
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := i.project.NC.RequestWithContext(askCtx, protocol.AskSubject(i.at.Project), question)
	if err != nil {
		return Status{}, err
	}
	var answer protocol.Answer
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return Status{}, fmt.Errorf("answer of a runner: %w", err)
	}
	switch {
	case answer.Status != nil:
		return *answer.Status, nil
	case answer.Error != nil && answer.Error.Name == protocol.FailureNotFound:
		return Status{}, journal.ErrNotFound
	case answer.Error != nil:
		return Status{}, answer.Error
	}
	return Status{}, errors.New("a runner answered with nothing")
}

// Result waits until the instance has ended, or ctx ends. An instance that did not complete is an [*InstanceError].
// In an agent's turn it returns ErrWouldBlock.
func (i *Instance[R]) Result(ctx context.Context) (R, error) {
	var zero R
	if _, ok := turn.From(ctx); ok {
		return zero, fmt.Errorf("result of instance %s: %w", i.at, ErrWouldBlock)
	}
	done, err := i.await(ctx)
	if err != nil {
		return zero, fmt.Errorf("result of instance %s: %w", i.at, err)
	}
	if done.Error != nil {
		return zero, &InstanceError{Workflow: i.at.Workflow, ID: i.at.ID, Failure: done.Error}
	}
	output, err := i.project.Objects().Load(ctx, i.at.Project, done.Output, done.OutputObject)
	if err != nil {
		return zero, fmt.Errorf("result of instance %s: %w", i.at, err)
	}
	return decode[R](output, fmt.Sprintf("result of workflow %q", i.at.Workflow))
}

// Polling is only the net below what is heard: a core message can be lost.
const (
	firstPoll = 20 * time.Millisecond
	maxPoll   = 5 * time.Second
)

// await waits for the announcement of the end. The stream repeats it to subscribers after it has stored it, so that
// what is heard counts as much as what is read from the leader.
func (i *Instance[R]) await(ctx context.Context) (*protocol.Done, error) {
	heard := make(chan *nats.Msg, 8)
	sub, err := i.project.NC.ChanSubscribe(i.at.EndedSubject(), heard)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	// On one connection the server takes the subscription before the read that follows it: an end that the read does
	// not see is heard. An instance that was just created has hardly ended: it is listened for first.
	read := !i.created
	timer := time.NewTimer(firstPoll)
	defer timer.Stop()
	for poll := firstPoll; ; read = true {
		if read {
			done, err := i.end(ctx)
			if done != nil || err != nil {
				return done, err
			}
		}
		poll = min(2*poll, maxPoll)
		timer.Reset(poll)
		select {
		case m := <-heard:
			return decodeDone(m.Data)
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// end reads the announcement of the end; nil if there is none.
func (i *Instance[R]) end(ctx context.Context) (*protocol.Done, error) {
	m, err := i.project.Journal().Last(ctx, protocol.WorkflowsStream(i.at.Project), i.at.DoneSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeDone(m.Data)
}

func decodeDone(data []byte) (*protocol.Done, error) {
	var done protocol.Done
	if err := json.Unmarshal(data, &done); err != nil {
		return nil, fmt.Errorf("announcement of the end: %w", err)
	}
	return &done, nil
}

// SendEvent sends an event to the instance: its oldest wait for the type takes it, now or later. The payload travels
// as JSON of at most max_value_size. It returns when the event is durable; in an agent's turn the event is part of the
// turn's commit. An instance that has ended gives ErrFinished.
func (i *Instance[R]) SendEvent(ctx context.Context, eventType string, payload any) error {
	if err := protocol.CheckEventType(eventType); err != nil {
		return err
	}
	raw, err := encode(payload, fmt.Sprintf("payload of event %q", eventType), maxValue(i.project))
	if err != nil {
		return err
	}
	event := protocol.Event{V: protocol.Version, Input: uuid.NewString(), Type: eventType, Sent: time.Now().UTC()}
	if !i.drafted(ctx) {
		done, err := i.end(ctx)
		if err != nil {
			return fmt.Errorf("send event %q to instance %s: %w", eventType, i.at, err)
		}
		if done != nil {
			return fmt.Errorf("send event %q to instance %s: %w", eventType, i.at, ErrFinished)
		}
	}
	if event.Payload, event.PayloadObject, err = fitPayload(ctx, i.project, i.at, raw); err != nil {
		return fmt.Errorf("send event %q to instance %s: %w", eventType, i.at, err)
	}
	if t, ok := turn.From(ctx); ok {
		return t.SendEvent(i.at, event)
	}
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	if _, err := i.project.Journal().Publish(ctx, i.at.EventSubject(), nil, body); err != nil {
		return fmt.Errorf("send event %q to instance %s: %w", eventType, i.at, err)
	}
	return nil
}
