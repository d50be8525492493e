package agenttest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/stage"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// Kit is a project of its own with an agent host. Make it with [New] or [In]. What it embeds has the clock, the project,
// and the workflows if there are some.
type Kit struct {
	*workflowtest.Env

	t       testing.TB
	classes []agent.Class
	stage   *stage.Stage
	hand    *scheduler.Hand
	host    *host
	// gate holds the sockets of clients; nil before the first.
	gate    *host
	clients []*Client
	// told is of how many clients the agents are known to have been told that their sockets have ended.
	told int

	mu    sync.Mutex // guards what follows
	hooks []agent.RequestHook
}

// patience bounds how long anything may take that takes no time on the test's clock.
const patience = 2 * time.Minute

// bellAgain is after how long mail is delivered again that a dead host had in its hands. In production that is 15 s.
const bellAgain = time.Second

// New starts a server and a host of the classes. All of it ends with the test. The clock begins at the present moment.
func New(t testing.TB, classes ...agent.Class) *Kit {
	t.Helper()
	return In(t, workflowtest.New(t), classes...)
}

// In starts a host of the classes beside the workflows of an Env, on its server and its clock: agents of the classes start
// them by the bindings of the Env's project, and they call agents back. A workflow without code of its own, or in place of
// that, is a definition of the test:
//
//	env := workflowtest.Load(t, "skein.jsonc", workflow.Define("Onboarding", func(context.Context, workflow.Event[Trip]) (string, error) {
//		return "welcome", nil
//	}))
//	kit := agenttest.In(t, env, desk)
func In(t testing.TB, env *workflowtest.Env, classes ...agent.Class) *Kit {
	t.Helper()
	k := &Kit{Env: env, t: t, classes: classes, stage: stage.New(env.Now)}
	k.hand = scheduler.NewHand(scheduler.Options{
		NC: env.Project.NC, JS: env.Project.JS, Log: slog.New(slog.DiscardHandler), Now: env.Now,
	}, env.Project.Journal(), env.Project.Config.Name)
	k.startHost()
	k.hastenBells()
	env.Join(k)
	return k
}

// hastenBells makes a dead host's mail come again soon.
func (k *Kit) hastenBells() {
	k.t.Helper()
	inbox := protocol.InboxStream(k.Project.Config.Name)
	consumer, err := k.Project.JS.Consumer(k.t.Context(), inbox, protocol.ConsumerDoorbell)
	if err == nil {
		config := consumer.CachedInfo().Config
		config.AckWait = bellAgain
		_, err = k.Project.JS.UpdateConsumer(k.t.Context(), inbox, config)
	}
	if err != nil {
		k.t.Fatalf("agenttest: %v", err)
	}
}

// Rests reports whether no agent has anything to do: no turn runs, no mail waits, no frame of a client. A Kit is a [workflowtest.Source].
func (k *Kit) Rests() (moved uint64, rests bool) {
	k.t.Helper()
	sent, still := k.clientsRest()
	moved, rests = k.stage.Rests()
	mail := k.state(protocol.InboxStream(k.Project.Config.Name))
	return sent + moved + mail.LastSeq, still && rests && mail.Msgs == 0
}

func (k *Kit) state(stream string) jetstream.StreamState {
	k.t.Helper()
	s, err := k.Project.JS.Stream(k.t.Context(), stream)
	if err != nil {
		k.t.Fatalf("agenttest: %v", err)
	}
	return s.CachedInfo().State
}

// Next is the next moment at which a schedule fires.
func (k *Kit) Next() (at time.Time, ok bool) {
	k.t.Helper()
	at, ok, err := k.hand.Next(k.t.Context())
	if err != nil {
		k.t.Fatalf("agenttest: %v", err)
	}
	return at, ok
}

// Move fires the schedule that comes next.
func (k *Kit) Move() {
	k.t.Helper()
	if err := k.hand.Fire(k.t.Context()); err != nil {
		k.t.Fatalf("agenttest: %v", err)
	}
}

// await polls until something is so.
func (k *Kit) await(what string, cond func() (bool, error)) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		switch is, err := cond(); {
		case err != nil:
			k.t.Fatalf("agenttest: %s: %v", what, err)
		case is:
			return
		case time.Now().After(deadline):
			k.t.Fatalf("agenttest: not within %v: %s", patience, what)
		}
	}
}

// staged is the context of what runs on the kit's stage.
func (k *Kit) staged() (context.Context, context.CancelFunc) {
	return context.WithCancel(stage.With(context.Background(), k.stage))
}

// describe names an agent in messages.
func describe(class, name string) string { return fmt.Sprintf("agent %q of class %q", name, class) }
