package agent_test

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
)

// Reminder keeps a list and reads it out every morning.
type Reminder struct {
	agent.Base[[]string]
	// What the factory sets is not stored.
	Send func(ctx context.Context, text string) error
}

// OnRequest adds the text of the query, and makes sure of the morning's reminder.
func (r *Reminder) OnRequest(w http.ResponseWriter, q *http.Request) error {
	text := q.URL.Query().Get("text")
	if text == "" {
		return &agent.Error{Status: http.StatusBadRequest, Message: "text is missing"}
	}
	if err := r.Update(q.Context(), func(list *[]string) error { *list = append(*list, text); return nil }); err != nil {
		return err
	}
	task, err := agent.Schedule(q.Context(), agent.Cron("0 7 * * *", "Europe/Oslo"), r.Remind, "Good morning!")
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(task) // leaves when the turn is stored
}

// Remind is the callback of the schedule. If it fails, it is tried again.
func (r *Reminder) Remind(ctx context.Context, greeting string) error {
	for _, text := range r.State() {
		if err := r.Send(ctx, greeting+" "+text); err != nil {
			return err
		}
	}
	return r.SetState(ctx, nil)
}

// Cart is called by others.
type Cart struct{ agent.Base[[]string] }

// Add is a method that can be called.
func (c *Cart) Add(ctx context.Context, item string) (int, error) {
	err := c.Update(ctx, func(items *[]string) error { *items = append(*items, item); return nil })
	return len(c.State()), err
}

// Clear is one that can be told, too.
func (c *Cart) Clear(ctx context.Context, _ string) error { return c.SetState(ctx, nil) }

// Size only looks: it runs beside the turns.
func (c *Cart) Size(context.Context, struct{}) (int, error) { return len(c.State()), nil }

func ExampleCall() {
	carts := agent.Bind[*Cart]("Cart")
	cart := agent.Define("Cart", func() *Cart { return &Cart{} },
		agent.Reads((*Cart).Size), agent.Callable((*Cart).Add, (*Cart).Size))
	_ = agent.Host(cart)

	shop := func(ctx context.Context) error { // in a turn, a workflow, or with carts.In(project) a program
		n, err := agent.Call(ctx, carts.Agent("ada"), (*Cart).Add, "a lamp", agent.Timeout(5*time.Second))
		if err != nil || n < 10 {
			return err
		}
		return agent.Tell(ctx, carts.Agent("ada"), (*Cart).Clear, "too much")
	}
	_ = shop
}

func Example() {
	send := func(context.Context, string) error { return nil }
	reminder := agent.Define("Reminder", func() *Reminder { return &Reminder{Send: send} },
		agent.IdleAfter(5*time.Minute))
	project.Main(agent.Host(reminder)) // serves /agents/reminder/<name>
}
