package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// ledgers is how many agents each project has, ringing how many of them have schedules for ever.
const (
	ledgers = 40
	ringing = 3
	clerks  = 6 // clients of each project that ask agents, one request at a time
)

// clerk is a client of agents. What it asks for is numbered, one lane for itself.
type clerk struct {
	*Load
	rng     *rand.Rand
	project string
	lane    string
	number  int
}

// errAnswer is an answer of HTTP that is no success.
type errAnswer struct {
	status int
	text   string
}

func (e *errAnswer) Error() string { return fmt.Sprintf("%d: %s", e.status, e.text) }

// errNotDone says that nothing of the turn is stored.
var errNotDone = errors.New("nothing was done")

// Is makes an answer that says so errNotDone.
func (e *errAnswer) Is(target error) bool {
	return target == errNotDone && e.status == http.StatusServiceUnavailable
}

func ledger(n int) string { return fmt.Sprint("a", n) }

// clerks has agents asked, evenly over time, until so many requests were made.
func (l *Load) clerks(ctx context.Context, group *errgroup.Group) {
	each := l.Requests / (clerks * len(work.Projects()))
	for _, project := range work.Projects() {
		for n := range clerks {
			c := &clerk{Load: l, project: project, lane: fmt.Sprint("c", n), rng: rand.New(rand.NewPCG(l.Seed, uint64(1<<32+n)))}
			group.Go(func() error { return c.work(ctx, each) })
		}
	}
}

// hang has some agents make schedules that recur for ever.
func (l *Load) hang(ctx context.Context) error {
	for _, project := range work.Projects() {
		for n := range ringing {
			r := request{Note: notes.Note{Action: "hang", Project: project, Workflow: work.ClassLedger, ID: ledger(n)}}
			outcome, err := l.ask(ctx, r, func(ctx context.Context) (any, error) {
				return nil, agent.Exec(ctx, work.Ledgers.In(l.projects[project]).Agent(ledger(n)), (*work.Ledger).Hang, time.Duration(2+n)*time.Second, agent.Timeout(l.Patience))
			})
			if err != nil || outcome != notes.OK {
				return errors.Join(err, fmt.Errorf("schedules of %s: %s", ledger(n), outcome))
			}
		}
	}
	return nil
}

func (c *clerk) work(ctx context.Context, requests int) error {
	began := time.Now()
	for n := range requests {
		// Who had to wait for answers does not make up for all of it when the others are done.
		if err := pause(ctx, time.Until(began.Add(c.Over*time.Duration(n)/time.Duration(requests)))); err != nil || time.Since(began) > c.Over+c.Patience {
			return nil
		}
		if err := c.any(ctx); err != nil {
			return err
		}
	}
	return nil
}

// any asks one agent for one thing.
func (c *clerk) any(ctx context.Context) error {
	c.number++
	to := ledger(c.rng.IntN(ledgers))
	o := work.Order{Lane: c.lane, Number: c.number}
	switch n := c.rng.IntN(20); {
	case n < 5:
		return c.http(ctx, to, o)
	case n < 8:
		o.Lane += "t"
		return c.tell(ctx, to, o)
	case n < 12:
		o.Do, o.To, o.Other = "tell", ledger(c.rng.IntN(ledgers)), c.rng.IntN(3) == 0
	case n < 14:
		o.Do, o.Times = "queue", 1+c.rng.IntN(3)
	case n < 16:
		o.Do, o.Times = "plan", 1+c.rng.IntN(4)
	case n < 18:
		o.Do = "run"
	}
	return c.call(ctx, to, o)
}

func (c *clerk) note(action, to string, o work.Order, refusals ...error) request {
	n := notes.Note{Action: action, Project: c.project, Workflow: work.ClassLedger, ID: to, Lane: o.Lane, Number: o.Number}
	n.Do, n.To, n.Other, n.Times = o.Do, o.To, o.Other, o.Times
	return request{Note: n, refusals: refusals}
}

// call calls, and once more under the same id if the answer got lost.
func (c *clerk) call(ctx context.Context, to string, o work.Order) error {
	id := fmt.Sprintf("%s-%s-%d", c.project, o.Lane, o.Number)
	for range 2 {
		outcome, err := c.ask(ctx, c.note("call", to, o), func(ctx context.Context) (any, error) {
			return agent.Call(ctx, work.Ledgers.In(c.projects[c.project]).Agent(to), (*work.Ledger).Carry, o, agent.ID(id), agent.Timeout(c.Patience))
		})
		if err != nil || outcome != notes.Unknown {
			return err
		}
	}
	return nil
}

func (c *clerk) tell(ctx context.Context, to string, o work.Order) error {
	_, err := c.ask(ctx, c.note("tell", to, o), func(ctx context.Context) (any, error) {
		return nil, agent.Tell(ctx, work.Ledgers.In(c.projects[c.project]).Agent(to), (*work.Ledger).Note, o)
	})
	return err
}

// http asks over one of the hosts.
func (c *clerk) http(ctx context.Context, to string, o work.Order) error {
	hosts := c.Hosts(c.project)
	query := url.Values{"lane": {o.Lane}, "number": {strconv.Itoa(o.Number)}}
	target := hosts[c.rng.IntN(len(hosts))] + "/agents/ledger/" + to + "?" + query.Encode()
	_, err := c.ask(ctx, c.note("request", to, o, errNotDone), func(ctx context.Context) (any, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
		if err != nil {
			return nil, err
		}
		answer, err := c.client.Do(r)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(answer.Body)
		if err = errors.Join(err, answer.Body.Close()); err != nil {
			return nil, err
		}
		if answer.StatusCode != http.StatusOK {
			return nil, &errAnswer{answer.StatusCode, string(body)}
		}
		return strconv.Atoi(string(body))
	})
	return err
}

// calmAgents pauses the schedules of agents that recur for ever. The others fire.
func (l *Load) calmAgents(ctx context.Context, project string) error {
	schedules := agent.SchedulesOf(l.projects[project])
	for task, err := range schedules.List(ctx, agent.AgentTaskFilter{Class: work.ClassLedger}) {
		if err != nil {
			return err
		}
		if !task.Kind.Recurs() || task.Paused != nil {
			continue
		}
		if err := schedules.Pause(ctx, task.ID, "the lab is over"); err != nil {
			return err
		}
	}
	return nil
}
