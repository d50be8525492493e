package bench

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/agent"
)

// hall is the agent that clients have sockets to.
type hall struct{ agent.Base[meterState] }

// Classes of halls. Quiet ones leave memory soon.
const (
	hallClass  = "Hall"
	quietClass = "QuietHall"
	hallPath   = "/agents/hall/"
	quietPath  = "/agents/quiet-hall/"
)

var halls = agent.Bind[*hall](hallClass)

func hallOf(class string, idleAfter time.Duration) agent.Class {
	return agent.Define(class, func() *hall { return &hall{} }, agent.Clients((*hall).Set, (*hall).Look), agent.IdleAfter(idleAfter))
}

// Set stores another state and returns how many there were.
func (h *hall) Set(ctx context.Context, size int) (int, error) {
	n := h.State().N + 1
	return n, h.SetState(ctx, meterState{N: n, Pad: strings.Repeat("x", size)})
}

// Look tells how many there were.
func (h *hall) Look(context.Context) (int, error) { return h.State().N, nil }

// Rest does nothing.
func (h *hall) Rest(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }

// Say says something to all clients.
func (h *hall) Say(ctx context.Context, text string) (struct{}, error) {
	return struct{}{}, agent.Broadcast(ctx, agent.Text(text))
}

// talk says which hall to measure how often, and which other one of the same host.
type talk struct {
	To, Other string
	Rounds    int
	// Pause is what lies between two turns that are measured; twice as long, where clients may still be reading what was said.
	Pause time.Duration
	Text  string
}

// amid is what lies between a turn that follows what was said to clients and one in the midst of it: a thousand clients take some 10 ms.
const amid = 3 * time.Millisecond

// talked is how long turns took.
type talked struct {
	// Quiet say nothing to clients, Loud do, After are those of the other hall that follow at once, Amid those that follow when its host
	// is writing what was said to its clients.
	Quiet, Loud, After, Amid []time.Duration
}

// Talk has turns of a hall measured that write its record: those that say something to its clients, and in between those that do not.
func (m *meter) Talk(ctx context.Context, t talk) (took talked, err error) {
	measure := func(into *[]time.Duration, call func() error) {
		began := time.Now()
		err = errors.Join(err, call())
		*into = append(*into, time.Since(began))
	}
	rest := func(name string) func() error {
		return func() error {
			_, err := agent.Call(ctx, halls.Agent(name), (*hall).Rest, struct{}{}, agent.Fresh())
			return err
		}
	}
	for range t.Rounds {
		time.Sleep(t.Pause)
		measure(&took.Quiet, rest(t.To))
		if t.Text == "" {
			continue
		}
		time.Sleep(t.Pause)
		measure(&took.Loud, func() error {
			_, err := agent.Call(ctx, halls.Agent(t.To), (*hall).Say, t.Text)
			return err
		})
		measure(&took.After, rest(t.Other))
		time.Sleep(amid)
		measure(&took.Amid, rest(t.Other))
		time.Sleep(t.Pause)
	}
	return took, err
}
