// Package porter serves the door of a project: it takes what processes of other projects want, who have accounts of their own,
// checks all of it, and does what these would do themselves if they shared an account, by the same functions.
//
// It must never believe a request: who speaks is in the subject, which the server vouches for, and nothing else is true of
// it. It must never hand a header on, answer to a subject that the server has not made for that, or let one caller use up
// what all callers share.
package porter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// Config is what a Porter needs.
type Config struct {
	Store   *journal.Store
	Objects *objects.Store
	Project string
	Log     *slog.Logger
	// MaxValue is the most bytes that a large value may have. Default objects.DefaultLimit.
	MaxValue int64
	// Registered is the row of the project in the registry.
	Registered func(ctx context.Context) (*protocol.Project, error)
	// Workflows is set by runners, nil for others.
	Workflows *Workflows
	// Notice is set by hosts of agents: it stores as mail of the caller what a workflow of its tells an agent of the project.
	Notice func(ctx context.Context, caller string, n protocol.Notify) error
	// Agents is set by hosts of agents, nil for others.
	Agents *Agents
}

// Workflows is what only runners can do.
type Workflows struct {
	// Ask answers a question about an instance.
	Ask func(ctx context.Context, ask protocol.Ask) []byte
	// Expects reports whether an instance of the project waits for the end of what a call of it has created in the project of
	// the caller.
	Expects func(ctx context.Context, caller string, e protocol.Ended) (bool, error)
}

// Porter serves a door until it is closed.
type Porter struct {
	Config
	id    string
	subs  []*nats.Subscription
	work  sync.WaitGroup
	desk  desk
	goods transfers
	row   known
	ctx   context.Context
	stop  context.CancelFunc
}

// queue is the group of those that serve a door: each request goes to one of them.
const queue = "porters"

// Open begins to serve.
func Open(c Config) (*Porter, error) {
	if c.MaxValue == 0 {
		c.MaxValue = objects.DefaultLimit
	}
	p := &Porter{Config: c, id: "porter-" + uuid.NewString()[:8]}
	p.ctx, p.stop = context.WithCancel(context.Background())
	door, news := protocol.Door{Owner: c.Project, Caller: protocol.AnyCaller}, protocol.Door{News: true, Owner: c.Project, Caller: protocol.AnyCaller}
	shared := []string{door.RegistrySubject()}
	if c.Workflows != nil {
		shared = append(shared, door.WorkflowSubject("*", "*"), news.WorkflowSubject("*", "*"))
	}
	if c.Notice != nil {
		shared = append(shared, news.AgentSubject("*", protocol.NewsOpNotice))
	}
	if c.Agents != nil {
		for _, class := range c.Agents.Classes {
			shared = append(shared, door.AgentSubject(class, "*"))
		}
	}
	for _, subject := range shared {
		if err := p.listen(subject, queue); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	for _, own := range []string{door.ValueSubject(p.id), news.ValueSubject(p.id)} {
		if err := p.listen(own, ""); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

func (p *Porter) listen(subject, queue string) error {
	take := func(m *nats.Msg) { p.take(m) }
	sub, err := p.Store.Conn().QueueSubscribe(subject, queue, take)
	if queue == "" {
		sub, err = p.Store.Conn().Subscribe(subject, take)
	}
	if err != nil {
		return fmt.Errorf("listen at the door: %w", err)
	}
	p.subs = append(p.subs, sub)
	return nil
}

// Close stops serving, and returns when what is under way is answered: what waits for something is answered at once.
func (p *Porter) Close() error {
	for _, sub := range p.subs {
		_ = sub.Unsubscribe() // the connection may be gone, and with it the subscription
	}
	p.stop()
	p.work.Wait()
	return nil
}

// within bounds how long anything takes but an answer that waits.
const within = 5 * time.Second

// visit is one request.
type visit struct {
	protocol.DoorSubject
	request protocol.DoorRequest
	// patient is set if the answer may wait.
	patient bool
}

// at is the instance that the request is about.
func (v *visit) at(shards int) protocol.Instance {
	return protocol.Instance{Project: v.Owner, Shard: protocol.Shard(v.request.ID, shards), Workflow: v.Name, ID: v.request.ID}
}

// take runs in the goroutine of a subscription.
func (p *Porter) take(m *nats.Msg) {
	s, err := protocol.ParseDoorSubject(m.Subject)
	if err == nil {
		err = foreign(m)
	}
	if err != nil {
		p.Log.WarnContext(p.ctx, "a request at the door is not heard", logkey.Subject, m.Subject, logkey.Error, err)
		return
	}
	place, ok := p.desk.enter(s.Caller)
	if !ok {
		p.respond(m, p.encode(s, protocol.DoorAnswer{}, busy("too many requests of project %q are under way", s.Caller)))
		return
	}
	p.work.Go(func() {
		defer place.leave()
		p.respond(m, p.serve(s, m.Data, place))
	})
}

// foreign refuses what cannot be a request of another account: the answer would go where somebody of this one wants it. What comes with
// headers for a stream was made to do harm.
func foreign(m *nats.Msg) error {
	if !strings.HasPrefix(m.Reply, protocol.DoorReplies) {
		return fmt.Errorf("it is to be answered to %q, and not to another account", m.Reply)
	}
	for header := range m.Header {
		if protocol.IsServerHeader(header) && header != protocol.HeaderRequestInfo {
			return fmt.Errorf("it has the header %q", header)
		}
	}
	return nil
}

func (p *Porter) respond(m *nats.Msg, body []byte) {
	if err := m.Respond(body); err != nil {
		p.Log.WarnContext(p.ctx, "cannot answer at the door", logkey.Subject, m.Subject, logkey.Error, err)
	}
}

// serve does what a request wants and returns the answer.
func (p *Porter) serve(s protocol.DoorSubject, body []byte, place *place) []byte {
	v := visit{DoorSubject: s}
	if s.Kind == protocol.DoorWorkflow && s.Op == protocol.DoorOpAsk && !s.News && p.Workflows != nil {
		return p.ask(&v, body, place)
	}
	if err := json.Unmarshal(body, &v.request); err != nil {
		return p.encode(s, protocol.DoorAnswer{}, refused("the request cannot be read: %v", err))
	}
	if v.request.V < 1 || v.request.V > protocol.Version {
		return p.encode(s, protocol.DoorAnswer{}, refused("the request has version %d, this door knows %d", v.request.V, protocol.Version))
	}
	if waits(s.Op) && v.request.Wait > 0 {
		v.patient = place.wait()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), within+client.MaxWait)
	defer cancel()
	answer, err := p.handle(ctx, &v)
	return p.encode(s, answer, err)
}

// handle finds who does what a request wants.
func (p *Porter) handle(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	var do func(*Porter, context.Context, *visit) (protocol.DoorAnswer, error)
	switch {
	case v.Kind == protocol.DoorRegistry && !v.News:
		do = (*Porter).registry
	case v.Kind == protocol.DoorValue:
		do = (*Porter).part
	case v.Kind == protocol.DoorAgent && v.News && v.Op == protocol.NewsOpNotice && p.Notice != nil:
		do = (*Porter).notice
	case v.Kind == protocol.DoorAgent && !v.News && p.Agents != nil:
		do = agentOps[v.Op]
	case v.Kind == protocol.DoorWorkflow && p.Workflows != nil:
		do = workflowOps[op{v.News, v.Op}]
	}
	if do == nil {
		return protocol.DoorAnswer{}, refused("there is no op %q of kind %q here", v.Op, v.Kind)
	}
	if !waits(v.Op) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	return do(p, ctx, v)
}

// waits reports whether an op waits for something that may take long.
func waits(op string) bool { return op == protocol.DoorOpAwait || op == protocol.DoorOpCall }

type op struct {
	news bool
	name string
}

var workflowOps = map[op]func(*Porter, context.Context, *visit) (protocol.DoorAnswer, error){
	{false, protocol.DoorOpCreate}:  (*Porter).create,
	{false, protocol.DoorOpEvent}:   (*Porter).event,
	{false, protocol.DoorOpControl}: (*Porter).control,
	{false, protocol.DoorOpLook}:    (*Porter).look,
	{false, protocol.DoorOpAwait}:   (*Porter).await,
	{false, protocol.DoorOpEnd}:     (*Porter).end,
	{false, protocol.DoorOpPut}:     (*Porter).put,
	{false, protocol.DoorOpGet}:     (*Porter).get,
	{true, protocol.DoorOpPut}:      (*Porter).put,
	{true, protocol.NewsOpEnded}:    (*Porter).ended,
}

// encode makes an answer, and says in the log what was refused.
func (p *Porter) encode(s protocol.DoorSubject, answer protocol.DoorAnswer, err error) []byte {
	answer.V = protocol.Version
	if err != nil {
		answer.Error = p.failure(s, err)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		p.Log.ErrorContext(p.ctx, "cannot encode an answer at the door", logkey.Target, s.Caller, logkey.Error, err)
	}
	return body
}

func (p *Porter) failure(s protocol.DoorSubject, err error) *protocol.Failure {
	f, ok := errors.AsType[*protocol.Failure](err)
	switch {
	case ok && f.Name == protocol.FailureRefused:
		p.Log.WarnContext(p.ctx, "a request at the door is refused", logkey.Caller, s.Caller, logkey.Kind, s.Kind, logkey.Target, s.Name,
			logkey.Op, s.Op, logkey.Error, f.Message)
		return f
	case ok:
		return f
	case errors.Is(err, client.ErrExists):
		return &protocol.Failure{Name: protocol.FailureExists, Message: err.Error()}
	case errors.Is(err, client.ErrNotFound), errors.Is(err, journal.ErrNotFound):
		return &protocol.Failure{Name: protocol.FailureNotFound, Message: client.ErrNotFound.Error()}
	case errors.Is(err, journal.ErrTooLarge):
		return refused("%v", err)
	}
	// It may be that it is stored. What failed is for the owner's eyes.
	p.Log.WarnContext(p.ctx, "cannot serve a request at the door now", logkey.Caller, s.Caller, logkey.Kind, s.Kind, logkey.Target, s.Name,
		logkey.Op, s.Op, logkey.Error, err)
	return busy("project %q cannot do it now, and does not know whether it is done", p.Project)
}

func refused(format string, args ...any) *protocol.Failure {
	return &protocol.Failure{Name: protocol.FailureRefused, Message: fmt.Sprintf(format, args...), Terminal: true}
}

func busy(format string, args ...any) *protocol.Failure {
	return &protocol.Failure{Name: protocol.FailureBusy, Message: fmt.Sprintf(format, args...)}
}
