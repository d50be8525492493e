package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/skein-run/skein/examples/contract"
	"github.com/skein-run/skein/examples/flightdesk"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Names in the example projects that the demo looks for.
const (
	userID      = "ada"
	agentClass  = "FlightDesk"
	agentName   = "ada"
	agentPath   = "/agents/flight-desk/" + agentName
	bindingName = "EMAIL_WORKFLOW"
	stepLoad    = "load user"
	stepBooking = "mail the booking"
	stepSleep   = "let them look around"
	stepWait    = "wait for answer"
	stepReceipt = "mail the receipt"
)

// poll is how often the demo looks.
const poll = 100 * time.Millisecond

// sight is what the demo has seen so far.
type sight struct {
	desk     flightdesk.Desk
	instance *workflow.Instance[contract.Report]
	status   workflow.Status
	// requested is when the agent was asked, killedAt when the runner with the id killed was.
	requested, killedAt time.Time
	killed              string
}

// job runs the main job, from the request to the agent's word that all is done.
func (d *demo) job(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		d.request, d.awaitInstance, d.killRunner, d.awaitOtherRunner, d.confirm, d.awaitAgent, d.awaitEndOfWatch,
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// until waits for a condition. It gives up if ctx ends, or a process that should not.
func (d *demo) until(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		ok, err := cond(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("waiting until %s: %w", what, context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("waiting until %s: %w", what, err)
		case ok:
			return nil
		}
		for _, c := range d.children() {
			if c.gone() && !c.killed {
				return fmt.Errorf("waiting until %s: process %s has ended: %v", what, c.name, c.err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

func (d *demo) awaitReady(ctx context.Context) error {
	for _, c := range d.children() {
		if d.told[c.name] {
			continue
		}
		if err := d.until(ctx, c.name+" is ready", func(ctx context.Context) (bool, error) { return c.ready(ctx), nil }); err != nil {
			return err
		}
		d.told[c.name] = true
		d.say("%s is ready (process %d)", c.name, c.pid())
	}
	return nil
}

// call sends a request to the agent.
func (d *demo) call(ctx context.Context, method, path string, want int) ([]byte, error) {
	url := "http://" + d.host.tap.facts().requests + path
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("user-id", userID)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, url, err)
	}
	if response.StatusCode != want {
		return nil, fmt.Errorf("%s %s: answer %d, want %d: %s", method, url, response.StatusCode, want, body)
	}
	return body, nil
}

// request asks the agent to book.
func (d *demo) request(ctx context.Context) error {
	d.seen.requested = time.Now()
	body, err := d.call(ctx, http.MethodPost, agentPath, http.StatusAccepted)
	if err != nil {
		return err
	}
	var task struct {
		Callback string
		Next     time.Time
	}
	if err := json.Unmarshal(body, &task); err != nil {
		return fmt.Errorf("answer to POST %s: %w", agentPath, err)
	}
	d.say("POST %s: the agent schedules its callback %s in %.1fs", agentPath, task.Callback, time.Until(task.Next).Seconds())
	return nil
}

// look asks the agent how things are.
func (d *demo) look(ctx context.Context) error {
	body, err := d.call(ctx, http.MethodGet, agentPath, http.StatusOK)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, &d.seen.desk)
}

func (d *demo) awaitInstance(ctx context.Context) error {
	err := d.until(ctx, "the agent's callback has started the workflow", func(ctx context.Context) (bool, error) {
		err := d.look(ctx)
		return d.seen.desk.Instance != "", err
	})
	if err != nil {
		return err
	}
	binding := workflow.Bind[contract.Trip, contract.Report](bindingName).In(d.project)
	err = d.until(ctx, "the instance exists", func(ctx context.Context) (bool, error) {
		var err error
		d.seen.instance, err = binding.Get(ctx, d.seen.desk.Instance)
		if errors.Is(err, workflow.ErrNotFound) {
			return false, nil // the agent's turn is stored, its outbox is on the way
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	d.say("the callback started instance %s of %s in project email-workflows, and a look at it every 2s", d.seen.instance.ID(), bindingName)
	return nil
}

// untilStatus waits for a status of the instance.
func (d *demo) untilStatus(ctx context.Context, what string, cond func(workflow.Status) bool) error {
	return d.until(ctx, what, func(ctx context.Context) (bool, error) {
		status, err := d.seen.instance.Status(ctx)
		if err != nil {
			return false, err
		}
		d.seen.status = status
		d.narrate(status)
		if status.State == workflow.Errored {
			return false, fmt.Errorf("the instance failed: %w", status.Error)
		}
		return cond(status), nil
	})
}

// killRunner kills the runner that executes the instance while the body of a step runs: the mail server has taken the
// mail and not answered yet.
func (d *demo) killRunner(ctx context.Context) error {
	defer d.mail.letGo()
	err := d.untilStatus(ctx, "a runner sends the first mail", func(s workflow.Status) bool {
		select {
		case <-d.mail.held:
			return openAttempt(s, stepBooking) != nil
		default:
			return false
		}
	})
	if err != nil {
		return err
	}
	id := openAttempt(d.seen.status, stepBooking).Runner
	victim := d.runner(id)
	if victim == nil {
		return fmt.Errorf("the instance is executed by %s, which is none of the demo's runners", id)
	}
	if err := victim.kill(); err != nil {
		return err
	}
	d.seen.killed, d.seen.killedAt = id, time.Now()
	d.say("kill -9 of %s (process %d) in the middle of %q: the mail has left, nobody has heard that it has", victim.name, victim.pid(), stepBooking)
	return nil
}

// openAttempt is the attempt of a step that runs now; nil if there is none.
func openAttempt(s workflow.Status, step string) *protocol.AttemptStatus {
	for _, st := range s.Steps {
		if n := len(st.Attempts); st.Name == step && n > 0 && st.Attempts[n-1].Finished == nil {
			return &st.Attempts[n-1]
		}
	}
	return nil
}

// runner finds a process by the id that its runner has in logs.
func (d *demo) runner(id string) *child {
	for _, c := range d.runners {
		if c.tap.facts().runner == id {
			return c
		}
	}
	return nil
}

// runnerName is what people call a runner.
func (d *demo) runnerName(id string) string {
	if c := d.runner(id); c != nil {
		return c.name
	}
	return id
}

func (d *demo) awaitOtherRunner(ctx context.Context) error {
	return d.untilStatus(ctx, "another runner takes over", func(s workflow.Status) bool {
		return len(s.Runs) > 0 && s.Runs[len(s.Runs)-1].Runner != d.seen.killed
	})
}

// confirm waits until the workflow waits for a person, and then is that person.
func (d *demo) confirm(ctx context.Context) error {
	err := d.untilStatus(ctx, "the workflow waits for the confirmation", func(s workflow.Status) bool {
		for _, st := range s.Steps {
			if st.Name == stepWait && s.State == workflow.Waiting {
				return true
			}
		}
		return false
	})
	if err != nil {
		return err
	}
	if d.Unconfirmed {
		return d.waitInVain(ctx)
	}
	if _, err := d.call(ctx, http.MethodPost, agentPath+"/confirm", http.StatusOK); err != nil {
		return err
	}
	d.say("POST %s/confirm: the agent sends the event \"confirmed\"", agentPath)
	return nil
}

// vainLimit is how long a demo goes on in which nobody confirms.
const vainLimit = 2 * time.Second

// waitInVain is for tests: the workflow must not end by itself.
func (d *demo) waitInVain(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, vainLimit, errors.New("nobody confirmed"))
	defer cancel()
	return d.awaitAgent(ctx)
}

// awaitAgent waits for the agent's own word, which it has from its cron schedule.
func (d *demo) awaitAgent(ctx context.Context) error {
	err := d.untilStatus(ctx, "the workflow is complete", func(s workflow.Status) bool { return s.State == workflow.Complete })
	if err != nil {
		return err
	}
	err = d.until(ctx, "the agent reports the instance complete", func(ctx context.Context) (bool, error) {
		err := d.look(ctx)
		return d.seen.desk.State == workflow.Complete, err
	})
	if err != nil {
		return err
	}
	d.say("GET %s: the agent reports the instance complete after %d looks", agentPath, d.seen.desk.Looks)
	return nil
}

// awaitEndOfWatch waits until the row of the agent's cron schedule is gone: it follows the agent's turn.
func (d *demo) awaitEndOfWatch(ctx context.Context) error {
	return d.until(ctx, "the agent's cron schedule is gone", func(ctx context.Context) (bool, error) {
		there, err := d.scheduleExists(ctx)
		return !there, err
	})
}
