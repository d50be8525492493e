package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	clerksConfig = `{ "name": "` + testProject + `", "workflows": [
		{ "name": "EMAIL", "class_name": "Onboarding", "script_name": "email-workflows" } ] }`
	runnerConfig = `{ "name": "email-workflows", "workflows": [ { "name": "EMAIL", "class_name": "Onboarding" } ] }`
)

// hurry makes the server ring again soon for mail, and for instances, that nobody has acked.
func (r *rig) hurry(t *testing.T) {
	t.Helper()
	for stream, consumer := range map[string]string{
		protocol.InboxStream(testProject):           protocol.ConsumerDoorbell,
		protocol.WorkflowsStream("email-workflows"): protocol.ConsumerWakes(0),
	} {
		s, err := r.js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Consumer(t.Context(), consumer)
		if err != nil {
			t.Fatal(err)
		}
		config := c.CachedInfo().Config
		config.AckWait = 2 * time.Second
		if _, err := s.UpdateConsumer(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
}

var clerkClass = Bind[*clerk]("Desk")

// TestNoticesSurviveTheirRunner: SIGKILL between the append and the mail to the agent, and between the mail and everything
// else. The end is told, once.
func TestNoticesSurviveTheirRunner(t *testing.T) {
	t.Parallel()
	for _, point := range []string{testsignal.RunnerUninformed, testsignal.RunnerInformed} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.emailProject(t)
			r.killRunner(t, r.server.URL(), point)
		})
	}
}

// TestNoticesSurviveTheirRunnerOnACluster is the same with everything on three servers.
func TestNoticesSurviveTheirRunnerOnACluster(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	r := &rig{connect: cluster.Connect}
	r.nc = cluster.Connect(t)
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	options := streams.Options{Replicas: 3}
	for _, err := range []error{
		streams.EnsureProjects(t.Context(), r.js, options),
		streams.EnsureAgents(t.Context(), r.js, testProject, options),
		streams.EnsureWorkflows(t.Context(), r.js, "email-workflows", 1, options),
		streams.RegisterWorkflows(t.Context(), r.js, "email-workflows", 1, map[string]string{"EMAIL": "Onboarding"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.killRunner(t, cluster.URL(), testsignal.RunnerUninformed)
}

func (r *rig) killRunner(t *testing.T, url, point string) {
	t.Helper()
	r.narrow(t)
	r.hurry(t)
	h := r.host(t, clerks(nil, IdleAfter(1)), withEmail)
	victim := r.launch(t, roleRunner, runnerConfig, url, point)
	h.post(t, "/agents/desk/jo?id=a&do=fail")
	victim.await(t, "testsignal: "+point)
	if _, told := r.tracked(t, "jo", "a"); !told {
		t.Error("the instance runs and is not tracked")
	}
	victim.kill()
	r.launch(t, roleRunner, runnerConfig, url, "")
	r.tells(t, "jo", "a errored")
	h.post(t, "/agents/desk/jo?id=b&do=wait+fail")
	r.inboxEmpty(t)
	r.sendTo(t, "b", "go")
	r.tells(t, "jo", "a errored", "b errored")
	r.inboxEmpty(t)
	record, _ := r.record(t, "jo")
	if record.Turn != 4 { // two requests and two ends
		t.Errorf("%d turns, want 4: nothing told twice", record.Turn)
	}
}

// sendTo sends an event to an instance of the e-mail project.
func (r *rig) sendTo(t *testing.T, id, eventType string) {
	t.Helper()
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
				_, err := Call(t.Context(), clerkClass.In(p).Agent("jo"), (*clerk).Start, "a: wait", Timeout(soon))
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
			natstest.Eventually(t, soon, "the instance exists", func() bool { return r.createOf(t, "a") != nil })
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
