// Command mainjob has the cluster of this folder do the main job of Skein once, through its load balancer: a desk books a
// flight, its callback starts a workflow of another project, the traveller confirms, the workflow ends, and the desk sees it.
//
// It must never call the job done before the desk, asked through the balancer, says so.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/examples/flightdesk"
	"github.com/skein-run/skein/pkg/workflow"
)

// poll is how often the desk is asked.
const poll = 250 * time.Millisecond

func main() {
	url := flag.String("url", "http://127.0.0.1:8700", "address of the load balancer")
	limit := flag.Duration("limit", 2*time.Minute, "how long the job may take, waiting for the cluster included")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	user := "traveller-" + uuid.NewString()[:8]
	j := &job{base: strings.TrimSuffix(*url, "/") + "/agents/flight-desk/" + user, user: user, start: time.Now()}
	if err := j.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\nnext: docker compose ps, docker compose logs\n", err)
		os.Exit(1) // all that is deferred ends with the process
	}
}

type job struct {
	base, user string
	start      time.Time
}

func (j *job) say(format string, args ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(j.start).Seconds(), fmt.Sprintf(format, args...))
}

func (j *job) run(ctx context.Context) error {
	j.say("%s books a flight at its desk", j.user)
	if err := j.until(ctx, "the desk takes the booking", func() (bool, error) { return j.post(ctx, j.base) }); err != nil {
		return err
	}
	j.say("booked; the desk starts the workflow in 3 seconds")
	if err := j.untilDesk(ctx, "the workflow runs", func(d flightdesk.Desk) bool { return d.Instance != "" }); err != nil {
		return err
	}
	j.say("the workflow has started in project email-workflows")
	if err := j.until(ctx, "the desk takes the confirmation", func() (bool, error) { return j.post(ctx, j.base+"/confirm") }); err != nil {
		return err
	}
	j.say("%s has confirmed", j.user)
	if err := j.untilDesk(ctx, "the workflow is complete", func(d flightdesk.Desk) bool { return d.State == workflow.Complete }); err != nil {
		return err
	}
	j.say("the workflow is complete, and the desk knows it: the main job is done")
	return nil
}

// until tries until it is done or time is up. Faults on the way are those of a cluster that starts.
func (j *job) until(ctx context.Context, what string, try func() (done bool, err error)) error {
	for {
		done, err := try()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w; last: %w", what, context.Cause(ctx), err)
		case <-time.After(poll):
		}
	}
}

func (j *job) untilDesk(ctx context.Context, what string, cond func(flightdesk.Desk) bool) error {
	return j.until(ctx, what, func() (bool, error) {
		body, err := j.ask(ctx, http.MethodGet, j.base)
		if err != nil {
			return false, err
		}
		var desk flightdesk.Desk
		if err := json.Unmarshal(body, &desk); err != nil {
			return false, err
		}
		return cond(desk), fmt.Errorf("the desk says %s", body)
	})
}

// post is done once the desk has taken it. What it has taken before is refused as a conflict, and was done, too.
func (j *job) post(ctx context.Context, url string) (bool, error) {
	_, err := j.ask(ctx, http.MethodPost, url)
	if refused, ok := errors.AsType[*statusError](err); ok && refused.code == http.StatusConflict && url == j.base {
		return true, nil
	}
	return err == nil, err
}

// statusError is an answer that is none of success.
type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string { return fmt.Sprintf("answer %d: %s", e.code, e.body) }

func (j *job) ask(ctx context.Context, method, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("user-id", j.user)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return nil, &statusError{response.StatusCode, strings.TrimSpace(string(body))}
	}
	return body, nil
}
