//go:build linux

package world

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Ailment is one thing that a NATS server says is wrong with it.
type Ailment struct {
	// Stream and Consumer are whose replica on that server is meant, if it is one.
	Stream   string `json:"stream,omitempty"`
	Consumer string `json:"consumer,omitempty"`
	Problem  string `json:"error"`
}

func (a Ailment) String() string {
	switch {
	case a.Consumer != "":
		return fmt.Sprintf("consumer %s of %s: %s", a.Consumer, a.Stream, a.Problem)
	case a.Stream != "":
		return fmt.Sprintf("%s: %s", a.Stream, a.Problem)
	}
	return a.Problem
}

// Ailments asks a NATS server what is wrong with it: nothing if it is healthy. One that does not answer has that as its ailment.
func (p *Process) Ailments(ctx context.Context) []Ailment {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.ready+"?details=true", nil)
	if err != nil {
		return []Ailment{{Problem: err.Error()}}
	}
	answer, err := client.Do(request)
	if err != nil {
		return []Ailment{{Problem: err.Error()}}
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	var told struct {
		Errors []Ailment `json:"errors"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&told); err != nil || len(told.Errors) == 0 {
		return []Ailment{{Problem: p.ready + " says " + answer.Status}}
	}
	return told.Errors
}
