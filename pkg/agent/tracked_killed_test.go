package agent

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

const (
	clerksConfig = `{ "name": "` + testProject + `", "workflows": [
		{ "name": "EMAIL", "class_name": "Onboarding", "script_name": "email-workflows" } ] }`
	runnerConfig = `{ "name": "email-workflows", "workflows": [ { "name": "EMAIL", "class_name": "Onboarding" } ] }`
)

// hurry makes the server ring again soon for mail, and for instances, that nobody has acked.
func (r *rig) hurry(t *testing.T) {
	t.Helper()
	for consumer, stream := range map[string]string{
		protocol.ConsumerDoorbell:    protocol.InboxStream(testProject),
		protocol.ConsumerWakes(0):    protocol.WorkflowsStream("email-workflows", 0),
		protocol.ConsumerControls(0): protocol.WorkflowsStream("email-workflows", 0),
	} {
		natstest.Ask(t, "ring again soon for "+consumer, func(ctx context.Context) error {
			c, err := r.js.Consumer(ctx, stream, consumer)
			if err != nil {
				return err
			}
			config := c.CachedInfo().Config
			config.AckWait = 2 * time.Second
			_, err = r.js.UpdateConsumer(ctx, stream, config)
			return err
		})
	}
}

// deskConfig is the skein.jsonc of a program of the agents' project.
func deskConfig() project.Config {
	c := project.Config{Name: testProject}
	withEmail(nil, &c)
	return c
}

var clerkClass = Bind[*clerk]("Desk")

// TestNoticesSurviveTheirRunner: SIGKILL between the append and the mail to the agent, and between the mail and everything
// else, where an instance ends, parks, and goes on. Everything is told, once.
func TestNoticesSurviveTheirRunner(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		point, do string
		tells     []string
	}{
		{testsignal.RunnerUninformed, "fail", []string{"a errored"}},
		{testsignal.RunnerInformed, "fail", []string{"a errored"}},
		{testsignal.RunnerUninformed, "progress+wait", []string{"a progress 0"}},
		{testsignal.RunnerUninformed, "progress+event+step+wait", []string{"a progress 0", "a seat 1"}},
	} {
		t.Run(c.do+" "+c.point, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.emailProject(t)
			r.killRunner(t, r.server.URL(), c.point, c.do, c.tells...)
		})
	}
}

// TestNoticesSurviveTheirRunnerOnACluster is the same with everything on three servers.
func TestNoticesSurviveTheirRunnerOnACluster(t *testing.T) {
	t.Parallel()
	r, url := newClusterRig(t)
	natstest.Ask(t, "streams of workflows", func(ctx context.Context) error {
		return errors.Join(
			streams.EnsureWorkflows(ctx, r.js, "email-workflows", 1, streams.Options{Replicas: 3}),
			streams.RegisterWorkflows(ctx, r.js, "email-workflows", 1, map[string]string{"EMAIL": "Onboarding"}),
		)
	})
	r.killRunner(t, url, testsignal.RunnerUninformed, "progress+event+step+wait", "a progress 0", "a seat 1")
}

func (r *rig) killRunner(t *testing.T, url, point, do string, tells ...string) {
	t.Helper()
	r.narrow(t)
	r.hurry(t)
	patient := timings(func(t *timing) { t.findWithin = soon / 2 }) // a busy cluster answers slowly, and while it elects, not at all
	h := r.host(t, clerks(nil, IdleAfter(1)), withEmail, patient)
	victim := r.launch(t, roleRunner, runnerConfig, url, point)
	h.post(t, "/agents/desk/jo?id=a&do="+do)
	victim.await(t, "testsignal: "+point)
	if _, told := r.tracked(t, "jo", "a"); !told {
		t.Error("the instance runs and is not tracked")
	}
	victim.kill()
	r.launch(t, roleRunner, runnerConfig, url, "")
	r.tells(t, "jo", tells...)
	h.post(t, "/agents/desk/jo?id=b&do=wait+fail")
	r.sendTo(t, "b", "go")
	tells = append(tells, "b errored")
	r.tells(t, "jo", tells...)
	r.inboxEmpty(t)
	if record, _ := r.record(t, "jo"); record.Turn != uint64(2+len(tells)) {
		t.Errorf("%d turns, want one per request and thing told: %d", record.Turn, 2+len(tells))
	}
}

// TestControlsAreToldAfterTheirRunnerDied: SIGKILL between what a control makes of an instance and the mail about it.
func TestControlsAreToldAfterTheirRunnerDied(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		steer func(*workflow.Instance[int]) error
		state workflow.State
		tells []string
	}{
		{"pause", func(i *workflow.Instance[int]) error { return i.Pause(t.Context()) }, workflow.Paused, nil},
		{"terminate", func(i *workflow.Instance[int]) error { return i.Terminate(t.Context()) }, workflow.Terminated, []string{"a terminated"}},
		{"delete", func(i *workflow.Instance[int]) error { return i.Delete(t.Context()) }, "", []string{"a deleted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.emailProject(t)
			r.narrow(t)
			r.hurry(t)
			h := r.host(t, clerks(nil), withEmail)
			victim := r.launch(t, roleRunner, runnerConfig, r.server.URL(), testsignal.RunnerUninformed)
			h.post(t, "/agents/desk/jo?id=a&do=wait")
			r.started(t, "a")
			i, err := email.In(r.program(t, deskConfig())).Get(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			natstest.Eventually(t, soon, "the instance waits", func() bool {
				status, err := i.Status(t.Context())
				return err == nil && status.State == workflow.Waiting
			})
			if err := c.steer(i); err != nil {
				t.Fatal(err)
			}
			victim.await(t, "testsignal: "+testsignal.RunnerUninformed)
			victim.kill()
			r.launch(t, roleRunner, runnerConfig, r.server.URL(), "")
			natstest.Eventually(t, soon, "the agent knows", func() bool {
				w, _ := r.tracked(t, "jo", "a")
				return w.State == c.state
			})
			r.inboxEmpty(t)
			r.tells(t, "jo", c.tells...)
		})
	}
}

// started waits until an instance of the e-mail project exists: an agent answers before what its turn has asked for is
// carried out, and what is sent before the create is for another instance.
func (r *rig) started(t *testing.T, id string) {
	t.Helper()
	natstest.Eventually(t, soon, "instance "+id+" exists", func() bool { return r.createOf(t, id) != nil })
}

// sendTo sends an event to an instance of the e-mail project.
func (r *rig) sendTo(t *testing.T, id, eventType string) {
	t.Helper()
	r.started(t, id)
	body, err := json.Marshal(protocol.Event{V: protocol.Version, Input: id + eventType, Type: eventType, Payload: json.RawMessage("1"), Sent: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Publish(t.Context(), emailInstance(id).EventSubject(), nil, body); err != nil {
		t.Fatal(err)
	}
}

// TestTrackingSurvivesItsHost: SIGKILL at every point of the turn that starts a workflow, and of the one that is told of its
// end. The workflow is started once, and its end is told once.
func TestTrackingSurvivesItsHost(t *testing.T) {
	t.Parallel()
	for _, point := range []string{testsignal.AgentBeforeCommit, testsignal.AgentAfterCommit, testsignal.AgentProjected} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.emailProject(t)
			r.narrow(t)
			r.hurry(t)
			r.emailRunner(t)
			victim := r.launch(t, roleClerks, clerksConfig, r.server.URL(), point)
			p := r.program(t, project.Config{Name: testProject})
			started := make(chan error, 1)
			go func() {
				_, err := callPatiently(t.Context(), clerkClass.In(p).Agent("jo"), (*clerk).Start, "a: wait")
				started <- err
			}()
			victim.await(t, "testsignal: "+point)
			if exists := r.createOf(t, "a") != nil; exists != (point == testsignal.AgentProjected) {
				t.Errorf("at %s the instance exists: %v", point, exists)
			}
			victim.kill()
			second := r.launch(t, roleClerks, clerksConfig, r.server.URL(), "")
			if err := <-started; err != nil {
				t.Fatal(err)
			}
			r.started(t, "a")
			second.kill()
			victim = r.launch(t, roleClerks, clerksConfig, r.server.URL(), point)
			r.sendTo(t, "a", "go")
			victim.await(t, "testsignal: "+point)
			victim.kill()
			r.launch(t, roleClerks, clerksConfig, r.server.URL(), "")
			r.tells(t, "jo", "a complete 4")
			r.inboxEmpty(t)
			if record, _ := r.record(t, "jo"); record.Turn != 2 {
				t.Errorf("%d turns, want the start and the end", record.Turn)
			}
		})
	}
}

// TestRefusedStartSurvivesItsHosts: somebody takes the id after the commit, and every host dies on the way to telling the
// agent. It is told once.
func TestRefusedStartSurvivesItsHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.narrow(t)
	r.hurry(t)
	first := r.launch(t, roleClerks, clerksConfig, r.server.URL(), testsignal.AgentAfterCommit)
	p := r.program(t, deskConfig())
	started := make(chan error, 1)
	go func() {
		_, err := callPatiently(t.Context(), clerkClass.In(p).Agent("jo"), (*clerk).Start, "a: wait")
		started <- err
	}()
	first.await(t, "testsignal: "+testsignal.AgentAfterCommit)
	if _, err := email.In(p).Create(t.Context(), "wait", workflow.ID("a")); err != nil {
		t.Fatal(err)
	}
	first.kill()
	second := r.launch(t, roleClerks, clerksConfig, r.server.URL(), testsignal.AgentProjected)
	second.await(t, "testsignal: "+testsignal.AgentProjected) // the mail is sent, and the outbox not emptied
	second.kill()
	r.launch(t, roleClerks, clerksConfig, r.server.URL(), "")
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	r.tells(t, "jo", "a exists")
	r.inboxEmpty(t)
	r.tells(t, "jo", "a exists")
	if record, _ := r.record(t, "jo"); record.Turn != 2 {
		t.Errorf("%d turns, want the start and what came of it", record.Turn)
	}
}
