//go:build npm

package clients

import (
	"context"
	"errors"
	"net/http"

	"github.com/skein-run/skein/pkg/agent"
)

// room is the agent of the clients. Its class has a name that they write with a hyphen before every capital letter.
type room struct {
	agent.Base[roomState]
	release <-chan struct{}
}

type roomState struct {
	N int `json:"n"`
}

func (r *room) OnConnect(ctx context.Context, c *agent.Connection, q *http.Request) error {
	switch q.URL.Query().Get("as") {
	case "stranger":
		return &agent.Error{Status: http.StatusForbidden, Message: "strangers are not let in"}
	case "reader":
		return c.SetReadonly(ctx, true)
	}
	return nil
}

func (r *room) OnMessage(ctx context.Context, c *agent.Connection, m agent.Message) error {
	return agent.Broadcast(ctx, m, agent.Except(c.ID()))
}

func (r *room) OnRequest(w http.ResponseWriter, q *http.Request) error {
	_, err := w.Write([]byte("room " + q.URL.Path))
	return err
}

func (r *room) ValidateStateChange(_ context.Context, next roomState) error {
	if next.N < 0 {
		return errors.New("n is below 0")
	}
	return nil
}

func (r *room) Add(ctx context.Context, n int) (int, error) {
	err := r.Update(ctx, func(s *roomState) error { s.N += n; return nil })
	return r.State().N, err
}

// Count answers in chunks, and breaks off before 4.
func (r *room) Count(ctx context.Context, out *agent.Chunks[int], to int) (string, error) {
	for n := range to {
		if n == 3 {
			return "", errors.New("it goes no further")
		}
		if err := out.Send(ctx, n+1); err != nil {
			return "", err
		}
	}
	return "done", nil
}

func (r *room) Fail(context.Context) error { return errors.New("the room is taken") }

func (r *room) Hidden(context.Context) error { return nil }

// Wait is a call that is under way until the test lets it go.
func (r *room) Wait(ctx context.Context) error {
	return agent.Outside(ctx, func(ctx context.Context) error {
		select {
		case <-r.release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

func (r *room) People(ctx context.Context) (int, error) {
	all, err := agent.Connections(ctx)
	return len(all), err
}

func (r *room) Leave(ctx context.Context, code int) error {
	c, _ := agent.CurrentConnection(ctx)
	return c.Close(ctx, code, "you wanted to")
}

func rooms(release <-chan struct{}) agent.Class {
	return agent.Define("HTTPRoom", func() *room { return &room{release: release} },
		agent.Clients((*room).Add, (*room).Fail, (*room).People, (*room).Leave, (*room).Wait, (*room).Count))
}
