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

func Example() {
	send := func(context.Context, string) error { return nil }
	reminder := agent.Define("Reminder", func() *Reminder { return &Reminder{Send: send} },
		agent.IdleAfter(5*time.Minute))
	project.Main(agent.Host(reminder)) // serves /agents/reminder/<name>
}
