// Package post keeps what runners of a project have to say at the doors of others until it is answered: the starts and ends of
// instances that their workflows call, the ends of those that were called, and what agents of others want to know. So no
// instance waits for a project that is away, and nothing is forgotten for it.
//
// It must never say two things about one instance or agent in another order than they were posted in, and it must never take
// anything out of the stream before it is answered.
package post

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/quiesce"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Office takes what is to be said, and says it. It is safe for concurrent use.
type Office struct {
	Store   *journal.Store
	JS      jetstream.JetStream
	Doors   *door.Caller
	Objects *objects.Store
	Project string
	// Replicas are those of the stream, if it is not there yet.
	Replicas int
	Log      *slog.Logger
	// Gate holds up what is to be kept while a backup looks for a moment.
	Gate *quiesce.Gate

	mu   sync.Mutex
	made bool // the stream is there
}

// Add keeps a request until it is answered. What is posted about one instance or agent is said in that order. The error is
// journal.ErrFull if as much waits for it as may: nothing is kept then.
func (o *Office) Add(ctx context.Context, to protocol.Door, id string, p protocol.Post) error {
	p.V, p.News, p.Posted, p.Request.V = protocol.Version, to.News, time.Now().UTC(), protocol.Version
	subject := protocol.PostSubject(o.Project, to.Owner, p.Kind, p.Name, id)
	body, err := json.Marshal(p)
	if err == nil {
		err = o.make(ctx)
	}
	if err == nil {
		err = o.Gate.Pass(ctx)
	}
	if err == nil {
		_, err = o.Store.Publish(ctx, subject, nil, body)
	}
	if err != nil {
		return fmt.Errorf("post to project %q: %w", to.Owner, err)
	}
	return nil
}

// make makes the stream when it is first needed: a project that reaches others directly has none.
func (o *Office) make(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made {
		return nil
	}
	err := streams.EnsurePost(ctx, o.JS, o.Project, streams.Options{Replicas: o.Replicas, Log: o.Log})
	o.made = err == nil
	return err
}

const (
	// lookEvery is how often a round looks for what others have left, nothingEvery how often if there is no stream.
	lookEvery    = 5 * time.Second
	nothingEvery = 30 * time.Second
	// atATime is how much is said at a time to one project, and rounds are how many subjects of it one round takes.
	atATime = 8
	aRound  = 1000
	// firstAway and longAway are how long a project that does not answer is left alone.
	firstAway = time.Second
	longAway  = 30 * time.Second
)

// run is what one Run knows.
type run struct {
	*Office
	ctx  context.Context
	work sync.WaitGroup

	mu      sync.Mutex // guards what follows
	targets map[string]*target
	// inHand are subjects that somebody is at: true if something was heard of them meanwhile.
	inHand map[string]bool
	stuck  map[string]time.Time
}

// target is a project to which something is to be said.
type target struct {
	room chan struct{}
	// away is for how long it was left alone last, until when it is.
	away  time.Duration
	until time.Time
}

// Run says what is posted until ctx ends. Any number of runners may do so at a time: what is said twice is harmless.
func (o *Office) Run(ctx context.Context) error {
	r := &run{Office: o, ctx: ctx, targets: map[string]*target{}, inHand: map[string]bool{}, stuck: map[string]time.Time{}}
	defer r.work.Wait()
	// What is heard may not be stored yet, and may be for another runner: a hint.
	heard, err := o.Store.Conn().QueueSubscribe(protocol.PostSubjects(o.Project), "post", func(m *nats.Msg) { r.start(m.Subject) })
	if err != nil {
		return fmt.Errorf("listen to what is posted: %w", err)
	}
	defer func() { _ = heard.Unsubscribe() }() // the connection may be gone
	there, last := true, time.Time{}
	for {
		if there || r.hears() || time.Since(last) > nothingEvery {
			last = time.Now()
			if there, err = r.round(); err != nil && ctx.Err() == nil {
				o.Log.WarnContext(ctx, "cannot look for what is to be said to other projects", logkey.Error, err)
			}
		}
		if ctxtime.Sleep(ctx, lookEvery) != nil {
			return nil
		}
	}
}

// hears reports whether anything was posted since the Run began.
func (r *run) hears() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.targets) > 0
}

// round begins with what is posted, project by project. There is false if nothing was ever posted.
func (r *run) round() (there bool, err error) {
	state, err := r.Store.State(r.ctx, protocol.PostStream(r.Project))
	if errors.Is(err, journal.ErrNoStream) {
		return false, nil
	}
	if err != nil || state.Messages == 0 {
		return true, err
	}
	taken := map[string]int{}
	for offset, total := 0, 1; offset < total; {
		l, err := r.Store.Subjects(r.ctx, protocol.PostStream(r.Project), protocol.PostSubjects(r.Project), offset)
		if err != nil || len(l.Subjects) == 0 {
			return true, err
		}
		for _, subject := range l.Subjects {
			if _, to, err := protocol.ParsePostSubject(subject); err == nil && taken[to] < aRound && r.start(subject) {
				taken[to]++
			}
		}
		offset, total = offset+len(l.Subjects), l.Total
	}
	return true, nil
}

// start lets somebody say what a subject holds, unless somebody does or it is not time.
func (r *run) start(subject string) bool {
	_, to, err := protocol.ParsePostSubject(subject)
	if err != nil || r.ctx.Err() != nil {
		return false
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.targets[to]
	if t == nil {
		t = &target{room: make(chan struct{}, atATime)}
		r.targets[to] = t
	}
	if _, at := r.inHand[subject]; at {
		r.inHand[subject] = true
		return false
	}
	if now.Before(r.stuck[subject]) || now.Before(t.until) || len(r.inHand) > 4*aRound {
		return false
	}
	delete(r.stuck, subject)
	r.inHand[subject] = false
	r.work.Go(func() {
		defer r.leave(subject)
		select {
		case t.room <- struct{}{}:
			defer func() { <-t.room }()
			r.say(subject, t)
		case <-r.ctx.Done():
		}
	})
	return true
}

func (r *run) leave(subject string) {
	r.mu.Lock()
	again := r.inHand[subject]
	delete(r.inHand, subject)
	r.mu.Unlock()
	if again {
		r.start(subject)
	}
}

// stuckFor is how long a subject is left alone whose first message could not be said although its project answers.
const stuckFor = 5 * time.Second

// unstoredYet is how often, with growing pauses, a message is looked for that was heard: it is heard before it is stored.
const unstoredYet = 6

// say says what a subject holds, in its order, as far as that goes.
func (r *run) say(subject string, t *target) {
	for empty := 0; r.ctx.Err() == nil && r.isHere(t); {
		m, err := r.Store.NextFromLeader(r.ctx, protocol.PostStream(r.Project), subject, 1)
		if errors.Is(err, journal.ErrNotFound) && empty < unstoredYet {
			if ctxtime.Sleep(r.ctx, time.Millisecond<<(2*empty)) != nil {
				return
			}
			empty++
			continue
		}
		if errors.Is(err, journal.ErrNotFound) {
			return
		}
		if err == nil {
			empty = unstoredYet // what follows is stored, or will be heard
			err = r.deliver(m)
		}
		if away, ok := errors.AsType[*door.AwayError](err); ok {
			r.leaveAlone(t, away)
			return
		}
		if err != nil {
			if r.ctx.Err() == nil {
				r.Log.WarnContext(r.ctx, "cannot say something to another project now", logkey.Subject, subject, logkey.Error, err)
			}
			r.mu.Lock()
			r.stuck[subject] = time.Now().Add(stuckFor)
			r.mu.Unlock()
			return
		}
		r.mu.Lock()
		t.away = 0
		r.mu.Unlock()
	}
}

func (r *run) isHere(t *target) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !time.Now().Before(t.until)
}

// leaveAlone lets a project be that does not answer, each time for longer.
func (r *run) leaveAlone(t *target, away *door.AwayError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); !now.Before(t.until) {
		if t.away == 0 {
			r.Log.WarnContext(r.ctx, "a project does not answer, what is to be said to it waits", logkey.Target, away.Project, logkey.Error, away)
		}
		t.away = min(max(2*t.away, firstAway), longAway)
		t.until = now.Add(t.away)
	}
}

// deliver says one thing and takes it out of the stream when it is answered.
func (r *run) deliver(m *journal.Message) error {
	_, to, err := protocol.ParsePostSubject(m.Subject)
	var p protocol.Post
	if err == nil {
		err = json.Unmarshal(m.Data, &p)
	}
	switch {
	case err != nil:
		r.Log.ErrorContext(r.ctx, "something that is to be said cannot be read, it is dropped", logkey.Subject, m.Subject, logkey.Error, err)
	case p.V > protocol.Version:
		return fmt.Errorf("it has version %d, this program knows %d", p.V, protocol.Version)
	case obsolete(p, time.Now()):
		r.Log.WarnContext(r.ctx, "something was to be said for so long that nobody waits for it any more, it is dropped",
			logkey.Subject, m.Subject, logkey.Op, p.Op)
	default:
		if err := r.bring(to, p); err != nil {
			return err
		}
		testsignal.At(testsignal.PostAnswered)
	}
	return r.Store.Delete(r.ctx, protocol.PostStream(r.Project), m.Sequence)
}

// obsolete reports whether the instance has expired whose end or news are to be told.
func obsolete(p protocol.Post, now time.Time) bool {
	switch {
	case p.Request.Ended != nil:
		expires := p.Request.Ended.Done.Expires
		return expires != nil && now.After(*expires) && now.Sub(p.Posted) > protocol.DefaultRetention
	case p.Request.Notice != nil:
		return now.Sub(p.Posted) > protocol.DefaultRetention
	}
	return false
}

// bring says one thing until it is settled: what the other project refuses is settled, too.
func (r *run) bring(to string, p protocol.Post) error {
	at := r.Doors.To(to)
	if p.News {
		at = r.Doors.News(to)
	}
	subject := at.WorkflowSubject(p.Name, p.Op)
	if p.Kind == protocol.DoorAgent {
		subject = at.AgentSubject(p.Name, p.Op)
	}
	if p.Request.Create != nil {
		return r.create(to, p)
	}
	answer, err := r.Doors.Hasty().Do(r.ctx, at, subject, p.Request)
	if door.Is(err, protocol.FailureNoValue) && p.Request.Ended != nil {
		if err := r.handOver(to, p.Request.Ended, answer.Input); err != nil {
			return err
		}
		_, err = r.Doors.Hasty().Do(r.ctx, at, subject, p.Request)
	}
	if settled(err) {
		r.Log.WarnContext(r.ctx, "another project refuses what was to be said to it, it is dropped", logkey.Target, to, logkey.Op, p.Op, logkey.Error, err)
		return nil
	}
	return err
}

// settled reports whether a door has said that it will never do something.
func settled(err error) bool {
	f, ok := errors.AsType[*protocol.Failure](err)
	return ok && f.Name != protocol.FailureBusy
}

// create starts what a workflow calls. If that is refused, the call is told.
func (r *run) create(to string, p protocol.Post) error {
	c := *p.Request.Create
	at := protocol.Instance{Project: to, Workflow: p.Name, ID: p.Request.ID}
	if c.ParamsObject != nil && time.Since(p.Posted) > keepFresh {
		// Nothing here but this message refers to the value: it must not pass for one that nobody needs.
		if err := r.Objects.Refresh(r.ctx, r.Project, *c.ParamsObject); err != nil {
			return err
		}
	}
	_, _, err := client.Client{Store: r.Store, Doors: r.Doors.Hasty(), Objects: r.Objects}.Create(r.ctx, at, c, p.Request.Existing)
	var failure *protocol.Failure
	switch {
	case errors.Is(err, client.ErrExists):
		failure = &protocol.Failure{Name: protocol.FailureExists, Message: err.Error(), Terminal: true}
	case settled(err):
		failure, _ = errors.AsType[*protocol.Failure](err)
	default:
		return err
	}
	if c.Parent == nil {
		return nil
	}
	// No instance goes by 0: so the caller knows that there is none.
	e := protocol.Ended{Parent: *c.Parent, Done: protocol.Done{
		V: protocol.Version, Workflow: at.Workflow, ID: at.ID, State: protocol.StateErrored, Created: c.Created, Finished: p.Posted, Error: failure,
	}}
	event, err := e.Event(to)
	if err != nil {
		return err
	}
	return client.Client{Store: r.Store}.Send(r.ctx, c.Parent.Instance(), event)
}

// keepFresh is after how long a value is put again that waits with what refers to it.
const keepFresh = time.Hour

// handOver gives the large output of an instance to the one that has called it: it must not go before that does. Input is that of the
// create of the caller.
func (r *run) handOver(to string, e *protocol.Ended, input string) error {
	if e.Done.OutputObject == nil || input == "" {
		return fmt.Errorf("project %q misses a value that is none", to)
	}
	value, err := r.Objects.Get(r.ctx, r.Project, *e.Done.OutputObject)
	if missing, ok := errors.AsType[*objects.MissingError](err); ok {
		e.Done.State, e.Done.OutputObject, e.Done.Error = protocol.StateErrored, nil, protocol.NewFailure(missing)
		return nil
	}
	if err != nil {
		return err
	}
	owner := protocol.OwnerOf(protocol.Instance{Project: to, Workflow: e.Parent.Workflow, ID: e.Parent.ID}, input)
	e.Done.OutputObject, err = r.Objects.Put(r.ctx, objects.Value{Owner: owner, JSON: value, News: true})
	if settled(err) { // as if it had been too large for the caller from the beginning
		failure, _ := errors.AsType[*protocol.Failure](err)
		e.Done.State, e.Done.OutputObject, e.Done.Error = protocol.StateErrored, nil, failure
		return nil
	}
	return err
}
