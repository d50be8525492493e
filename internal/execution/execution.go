package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// Causes with which the contexts of an execution end.
var (
	// ErrSuperseded says that another runner holds the instance now.
	ErrSuperseded = errors.New("another runner holds the instance")
	// ErrReleased says that the runner gives its work back.
	ErrReleased = errors.New("the runner is shutting down")
	// ErrParked says that the execution waits in the log, not in memory.
	ErrParked = errors.New("the workflow is parked")
	// ErrEnded says that the workflow has returned.
	ErrEnded = errors.New("the workflow has ended")
	// ErrRollingBack says that the steps of the workflow are being undone.
	ErrRollingBack = errors.New("the workflow is rolled back")
	// ErrHeld says that the code contradicts the log.
	ErrHeld = errors.New("the code contradicts the log")
	// ErrYielded says that the execution makes room for a control.
	ErrYielded = errors.New("a control stops the workflow")
	// ErrOutOfTouch says that the runner has had no contact with the log for too long.
	ErrOutOfTouch = errors.New("no contact with the log for too long")
)

// Settings of executions. The zero value takes the defaults.
type Settings struct {
	// ShortWait is how long a wait may be that stays in memory instead of parking. Default 2 s.
	ShortWait time.Duration
	// Settle is how long nothing must move before an execution parks whose branches all wait. Default 1 ms.
	Settle time.Duration
	// Idle is the same while a branch is outside of the engine: blocked elsewhere, or computing. Default 1 s.
	Idle time.Duration
	// Gather is how long an entry that only informs waits for company. Default 20 ms.
	Gather time.Duration
	// Refresh is how often inputs are read while a wait for an event is in memory, should a hint be lost. Default 3 s.
	Refresh time.Duration
	// Grace is how long a body may take to return after its context ended. Default 1 s.
	Grace time.Duration
	// Judge is how long a function of the code may take that decides about retries. Default 5 s.
	Judge time.Duration
	// Hold is how long nothing must move before the instance is held because its code contradicts its log. Longer than
	// Idle: a goroutine that nobody counts may still be about to make the call that is missing. Default 5 s.
	Hold time.Duration
	Hooks
}

// WithDefaults fills in what is not set.
func (s Settings) WithDefaults() Settings {
	fill := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	fill(&s.ShortWait, 2*time.Second)
	fill(&s.Settle, time.Millisecond)
	fill(&s.Idle, time.Second)
	fill(&s.Gather, 20*time.Millisecond)
	fill(&s.Refresh, 3*time.Second)
	fill(&s.Grace, time.Second)
	fill(&s.Hold, 5*time.Second)
	if s.Now == nil {
		s.Now = time.Now
	}
	fill(&s.Judge, 5*time.Second)
	return s
}

// Config is what an execution needs from its runner.
type Config struct {
	Settings
	Store    *journal.Store
	Instance protocol.Instance
	Runner   string
	// Version is that of the code.
	Version string
	History *engine.History
	Wake    protocol.Wake
	Log     *slog.Logger
	// Limits are those of the instance.
	Limits engine.Limits
	// Objects holds what is too large for a message, MaxValue is the most bytes that a value may have as JSON. Default
	// objects.DefaultLimit.
	Objects  *objects.Store
	MaxValue int64
	// NextID makes the id of an append: one that nobody else makes.
	NextID func() string
	// Inputs reads the events from a sequence on.
	Inputs func(ctx context.Context, from uint64) ([]engine.Input, error)
	// Nudge stores a new wake for the instance, which is parked, and names it.
	Nudge func(ctx context.Context, park uint64) (protocol.Wake, error)
	// Once is set if a parked execution must not go on by itself, but only under a wake that ends the park.
	Once bool
	// KeptUntil is when the instance can be cleaned away if it ends now. Without it, it never can.
	KeptUntil func(success bool, end time.Time) *time.Time
	// EndChild tells the child of a call that nobody waits for it any more.
	EndChild func(ctx context.Context, call engine.Call) error
	// Inform tells the agent that started the instance what a message of its log makes known. Nothing is appended before it
	// has returned. Nil: there is nobody to tell.
	Inform func(ctx context.Context, sequence uint64, a *protocol.Append) error
	// EndStray does that if the log does not hold the call as open any more: its child was made while this execution
	// was fenced.
	EndStray func(ctx context.Context, call engine.Call)
}

// EventKind says what happened to an execution.
type EventKind int

// Kinds of events.
const (
	// Parked: a parked entry is stored. The runner projects and acks, lingers and then calls Leave.
	Parked EventKind = iota
	// Revived: a goroutine called in after the park. Wake is a new wake under which the instance is claimed; the code
	// runs again.
	Revived
	// Finished: the terminal entry is stored.
	Finished
	// Held: the code contradicts the log, an entry that says so is stored. Err says it in words.
	Held
	// Yielded: the execution is over and the instance given back, so that the control at Sequence can be obeyed.
	Yielded
	// Dropped: the execution is over without an outcome. Err says why.
	Dropped
)

// Event tells the runner what happened.
type Event struct {
	Kind EventKind
	// Sequence is that of the log entry, or of the control.
	Sequence uint64
	Wake     protocol.Wake
	// Park comes with Parked, Done with Finished.
	Park *protocol.Entry
	Done *protocol.Done
	// Orphans come with Finished: the calls whose children must end.
	Orphans []engine.Call
	// Finding comes with the end of a check.
	Finding *Finding
	Err     error
}

type phase int

const (
	running phase = iota
	parking
	parked
	reviving
	releasing
	finishing
	over
)

// Execution is one activation of an instance.
type Execution struct {
	Config
	// ctx ends when bodies are to stop, life when the execution is over: appends outlive the bodies.
	ctx    context.Context
	cancel context.CancelCauseFunc
	life   context.Context
	die    context.CancelCauseFunc
	// events has room for whatever an execution can say before its runner listens.
	events chan Event
	// subject is that of the log, keys how the idempotency keys of the incarnation begin.
	subject, keys string

	mu       sync.Mutex
	changed  *sync.Cond // broadcast when an append ended or the phase changed
	m        *engine.Machine
	phase    phase
	leaving  bool          // told to release while parked: it is not revived any more
	control  uint64        // the newest control that it is to make room for
	gone     chan struct{} // closed when the execution is over: blocked calls end their goroutines
	expected uint64        // sequence of the log's tail
	told     bool          // the log holds the version of the code
	durable  uint64        // position of the machine up to which entries are stored
	flushing bool
	lanes    map[*engine.Branch]*lane
	waiters  map[protocol.Key]*waiter
	gates    []*gated
	lapsed   []*waiter // calls that an earlier run gave up
	races    []*race   // that go on
	failing  []*Group  // of which a branch has failed, in this run or an earlier one, and whose others were not told
	recall   recall
	rollback rollback
	bodies   int
	loaded   bool // inputs were read at least once
	reading  bool // Refresh is under way
	hinted   bool // Refresh is to read again
	activity uint64
	timers   timers
}

// lane counts the calls of a branch that are inside the engine, and those of them that wait durably.
type lane struct {
	root            bool
	group           *Group // that the branch is of, nil for the root
	index           int    // which branch of a race it is
	inside, waiting int
	resting         int    // calls inside that wait for something that runs, such as a body
	calls           uint64 // how often it went on
	slow            bool   // it computes for so long that nobody waits for it
}

// still reports whether the branch does nothing but wait durably.
func (l *lane) still() bool { return l.inside > 0 && l.inside == l.waiting }

type waiter struct {
	lane *lane
	done chan struct{}
}

type timers struct{ settle, due, soft, refresh, patience *time.Timer }

// Start begins an execution of code over the history.
func Start(ctx context.Context, c Config, code func(context.Context) (json.RawMessage, error)) *Execution {
	x := newExecution(ctx, c)
	if c.History.Rolling != nil && !x.rebuild() {
		x.rollBack(nil)
		return x
	}
	x.launch(code)
	return x
}

func newExecution(ctx context.Context, c Config) *Execution {
	c.Settings = c.Settings.WithDefaults()
	if c.Objects == nil {
		c.Objects = objects.New(c.Store)
	}
	if c.MaxValue == 0 {
		c.MaxValue = objects.DefaultLimit
	}
	x := &Execution{
		Config: c, events: make(chan Event, 16), m: engine.NewMachine(c.History), gone: make(chan struct{}),
		expected: c.History.Tail, told: c.History.Begun, lanes: map[*engine.Branch]*lane{}, waiters: map[protocol.Key]*waiter{},
	}
	x.m.Limit(c.Limits)
	x.m.Withhold = x.withheld
	x.subject, x.keys = c.Instance.LogSubject(), c.Instance.String()+"/"+strconv.FormatUint(c.History.Incarnation, 10)
	x.changed = sync.NewCond(&x.mu)
	x.life, x.die = context.WithCancelCause(context.WithoutCancel(ctx))
	x.ctx, x.cancel = context.WithCancelCause(x.life)
	return x
}

// launch runs the code.
func (x *Execution) launch(code func(context.Context) (json.RawMessage, error)) {
	root := x.m.Root()
	x.lanes[root] = &lane{root: true}
	go x.main(x.ctx, &Scope{x: x, branch: root, lane: x.lanes[root]}, code)
}

// Logger is a logger that knows the instance and the runner.
func (x *Execution) Logger() *slog.Logger {
	return x.Log.With(logkey.Instance, x.Instance.String(), logkey.Runner, x.Runner)
}

// Events tells what happens. The channel is never closed; after Finished or Dropped nothing comes.
func (x *Execution) Events() <-chan Event { return x.events }

// main runs the workflow function. That it returned is itself a call into the engine.
func (x *Execution) main(ctx context.Context, s *Scope, code func(context.Context) (json.RawMessage, error)) {
	o := outcome{failure: &protocol.Failure{Name: protocol.FailurePanic, Message: "workflow code ended its goroutine", Terminal: true}}
	defer func() {
		s.end(x.life, o.failure)
		x.mu.Lock()
		defer x.mu.Unlock()
		switch {
		case x.recall.on:
			x.recall.returned, x.recall.failure = true, o.failure
			s.lane.inside++
			s.lane.waiting++ // for nothing: it calls no more
			x.quiet()
		case s.exited: // by a call: it has not returned
		case !s.out() && x.wakeUp():
			if end, ok := x.stowOutput(o); ok {
				x.conclude(end)
			}
		}
	}()
	o.result, o.failure, _ = protect(func() (json.RawMessage, error) { return code(with(ctx, s)) })
}

// complete stores the end of the workflow. x.mu is held.
func (x *Execution) complete(o outcome) {
	x.phase = finishing // nothing may come after the terminal entry, not even in the same append
	if o.object != nil {
		x.m.FinishObject(o.object)
	} else {
		x.m.Finish(o.result, o.failure)
	}
	expires := x.keptUntil(o.failure)
	x.m.Expire(expires)
	if x.flush(x.m.Position()) {
		x.finished(o, expires)
	}
}

// keptUntil is when the instance can be cleaned away that ends now.
func (x *Execution) keptUntil(failure *protocol.Failure) *time.Time {
	if x.KeptUntil == nil {
		return nil
	}
	return x.KeptUntil(failure == nil, x.Now().UTC())
}

// finished says that the terminal entry is stored. x.mu is held.
func (x *Execution) finished(o outcome, expires *time.Time) {
	done := protocol.Done{
		V: protocol.Version, Workflow: x.Instance.Workflow, ID: x.Instance.ID, Incarnation: x.History.Incarnation,
		Log: x.expected, State: protocol.StateComplete, Created: x.History.Create.Created, Finished: x.Now().UTC(),
		Output: o.result, OutputObject: o.object, Error: o.failure, Rollback: x.History.Rollback,
		Mark: x.History.Mark, Epoch: x.History.Epoch, Expires: expires,
	}
	if o.failure != nil {
		done.State, done.Output = protocol.StateErrored, nil
	}
	if rolling := x.History.Rolling; rolling != nil && rolling.Terminate {
		done.State = protocol.StateTerminated
	}
	x.end(Event{Kind: Finished, Sequence: x.expected, Done: &done, Orphans: x.m.Orphans()}, ErrEnded)
}

// protect calls code and turns a panic into a failure. returned is false if code ended its goroutine.
func protect(code func() (json.RawMessage, error)) (result json.RawMessage, failure *protocol.Failure, returned bool) {
	defer func() {
		if p := recover(); p != nil {
			result, failure, returned = nil, panicFailure(p), true
		}
	}()
	result, err := code()
	if err != nil {
		return nil, protocol.NewFailure(err), true
	}
	return result, nil, true
}

func panicFailure(p any) *protocol.Failure {
	stack := make([]byte, 4<<10)
	stack = stack[:runtime.Stack(stack, false)]
	details, _ := json.Marshal(map[string]string{"stack": string(stack)})
	return protocol.NewFailure(&protocol.Failure{Name: protocol.FailurePanic, Message: fmt.Sprintf("panic: %v", p), Details: details})
}

// wakeUp makes sure that the execution is running; x.mu is held. It returns false if it is over.
func (x *Execution) wakeUp() bool {
	for {
		switch x.phase {
		case running:
			return true
		case over, releasing, finishing:
			return false
		case parked:
			return !x.leaving && !x.Once && x.revive()
		default:
			x.changed.Wait()
		}
	}
}

// revive takes the instance back for a goroutine that called in after the park: under a new wake, because the wake of
// the park may have been acked by anyone who saw the park. Whoever else gets the new wake finds the instance claimed
// under it, or claims it first and does the work in place of this execution. x.mu is held, but not while sending.
func (x *Execution) revive() bool {
	x.phase = reviving
	park := x.expected
	x.mu.Unlock()
	wake, err := x.Nudge(x.life, park)
	x.mu.Lock()
	if err != nil {
		x.end(Event{Kind: Dropped, Err: err}, err)
	}
	if x.phase != reviving {
		return false
	}
	x.Config.Wake = wake
	if !x.claim() {
		return false
	}
	x.say(Event{Kind: Revived, Sequence: x.expected, Wake: wake})
	return true
}

// claim takes the instance back after a park. x.mu is held.
func (x *Execution) claim() bool {
	x.m.Claim(x.Config.Wake)
	return x.claimed()
}

// claimed stores the claim, with what is to be stored beside it, and lets the code run. x.mu is held.
func (x *Execution) claimed() bool {
	if !x.flush(x.m.Position()) {
		return false
	}
	x.phase = running
	x.loaded = false // who waits next reads what came while it was parked
	x.changed.Broadcast()
	// What came due meanwhile found the execution parked, and its timers are spent.
	x.armDue()
	x.armRefresh()
	return true
}

// Holds reports whether the execution goes on under a wake.
func (x *Execution) Holds(wake protocol.Wake) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.phase != parked && x.phase != over && x.Config.Wake == wake
}

// Reclaim goes on after a park because of an input older than it: that is the duty of the wake that parked. It reports
// whether the code runs; if it does not, the execution is over, or will be, and the events tell why.
func (x *Execution) Reclaim() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.awaitSettled()
	switch {
	case x.phase == parked && (x.leaving || x.Once):
		x.end(Event{Kind: Dropped, Err: ErrReleased}, ErrReleased)
	case x.phase == parked:
		x.phase = reviving
		return x.claim()
	}
	return x.phase == running
}

// Position is how an execution stands to a park of its instance.
type Position int

// Positions of executions.
const (
	// Elsewhere: what it knows of the log ends with something else, or it is over.
	Elsewhere Position = iota
	// AtPark: it is parked there.
	AtPark
	// Beyond: it has gone on since.
	Beyond
)

// Stands tells how the execution stands to a park of an incarnation, which is the newest message of a log as somebody has
// seen it. While it is open whether the execution is parked it waits, but not for longer than patience: an agent that is to be told of the
// park first may not have room for that.
func (x *Execution) Stands(incarnation, park uint64, patience time.Duration) Position {
	deadline := time.Now().Add(patience)
	defer time.AfterFunc(patience, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.changed.Broadcast()
	}).Stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.unsettled() && time.Now().Before(deadline) {
		x.changed.Wait()
	}
	switch {
	case x.unsettled(), x.phase == over || x.History.Incarnation != incarnation:
	case x.phase == parked && x.expected == park:
		return AtPark
	case x.expected > park:
		return Beyond
	}
	return Elsewhere
}

// unsettled reports whether it is open whether the execution is parked. x.mu is held.
func (x *Execution) unsettled() bool { return x.phase == parking || x.phase == reviving }

// awaitSettled waits until that is known. x.mu is held.
func (x *Execution) awaitSettled() {
	for x.unsettled() {
		x.changed.Wait()
	}
}

// GoOn goes on from a park, in memory, under a wake that ends it. As a run that begins from the top would, it claims under
// that wake before the code runs; what has come meanwhile is stored with the claim. If the execution is not parked there any more, the wake is
// not taken, and its runner decides about it anew. If it is taken, but the code does not run, the execution is over, and the events tell why.
func (x *Execution) GoOn(wake protocol.Wake, park uint64) (taken, runs bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.awaitSettled()
	if x.phase != parked || x.leaving || x.expected != park {
		return false, false
	}
	x.phase, x.Config.Wake = reviving, wake
	x.m.Claim(wake)
	ended := x.meanwhile()
	if !x.claimed() {
		return true, false
	}
	x.signal(ended)
	x.quiet()
	return true, true
}

// meanwhile ends the waits of a parked execution for which something has come. x.mu is held, but not while reading.
func (x *Execution) meanwhile() (ended []protocol.Key) {
	if _, forEvent := x.m.Waiting(); forEvent {
		from := x.m.Seen() + 1
		x.mu.Unlock()
		inputs, err := x.Inputs(x.life, from)
		x.mu.Lock()
		if err != nil { // the timers of the waits come back to it
			return nil
		}
		ended = x.m.Deliver(inputs)
	}
	return append(ended, x.m.Due(x.Now())...)
}

// Size is how many calls a run from the top would have to make again, and about how many bytes all of it takes in memory.
func (x *Execution) Size() (calls int, bytes int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	calls, bytes = x.m.Size()
	return calls, bytes + int64(calls)*callSize
}

// callSize is about how many bytes a recorded call takes beside its result.
const callSize = 1 << 10

// Leave ends a parked execution. It returns false if it is not parked any more: then the events tell what it is.
func (x *Execution) Leave() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phase != parked {
		return false
	}
	x.finish(ErrParked)
	return true
}

// Drop ends the execution without another word to the log.
func (x *Execution) Drop(cause error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.end(Event{Kind: Dropped, Err: cause}, cause)
}

// Release lets running bodies finish until ctx ends, then tells them to stop and waits a moment for that, records what
// they returned, and gives the instance back to the log. No body starts meanwhile. Afterwards the events end with
// Dropped and ErrReleased, or with what came first; that of an execution that yields is Yielded.
func (x *Execution) Release(ctx context.Context, moment time.Duration) {
	stop := context.AfterFunc(ctx, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.cancel(ErrReleased)
		time.AfterFunc(moment, func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.bodies = 0
			x.changed.Broadcast()
		})
	})
	defer stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.awaitSettled()
	x.leaving = true
	for x.phase == releasing { // it yields: its bodies have no more time than those of others
		x.changed.Wait()
	}
	if x.phase == running { // parked, there is nothing to give back
		x.giveBack(Event{Kind: Dropped, Err: ErrReleased}, ErrReleased)
	}
}

// giveBack waits until no body runs, records what they returned and gives the instance back to the log; then the
// execution is over. x.mu is held.
func (x *Execution) giveBack(e Event, cause error) {
	x.phase = releasing
	for x.bodies > 0 && x.phase != over {
		x.changed.Wait()
	}
	if x.phase == over {
		return
	}
	x.m.Record(protocol.Entry{Kind: protocol.EntryReleased})
	if x.flush(x.m.Position()) {
		if e.Kind == Yielded {
			e.Sequence = x.control // others may have come meanwhile
		}
		x.end(e, cause)
	}
}

// end makes the execution over and says so once. x.mu is held.
func (x *Execution) end(e Event, cause error) {
	if x.phase == over {
		return
	}
	x.finish(cause)
	x.say(e)
}

func (x *Execution) finish(cause error) {
	x.phase = over
	for _, t := range []*time.Timer{x.timers.settle, x.timers.due, x.timers.soft, x.timers.refresh, x.timers.patience} {
		if t != nil {
			t.Stop()
		}
	}
	x.die(cause)
	close(x.gone)
	x.changed.Broadcast()
}

// say never blocks: an execution says little, and its runner listens.
func (x *Execution) say(e Event) {
	select {
	case x.events <- e:
	default:
		go func() { x.events <- e }()
	}
}

// flush stores the machine's entries up to a position; x.mu is held, but not during the append. Entries that become
// ready meanwhile go together in the next append. It returns false if the execution is over.
func (x *Execution) flush(upTo uint64) bool {
	for x.durable < upTo {
		switch {
		case x.phase == over:
			return false
		case x.flushing:
			x.changed.Wait()
			continue
		}
		x.flushing = true
		entries, position := x.m.Take()
		err := x.store(entries)
		if x.phase != over && (errors.Is(err, journal.ErrTooLarge) || errors.Is(err, errNoJSON)) {
			err = x.doom(err)
		}
		x.flushing = false
		x.activity++
		if err != nil {
			x.end(Event{Kind: Dropped, Err: err}, err)
			return false
		}
		x.durable = position
		x.changed.Broadcast()
		x.quiet()
	}
	return x.phase != over
}

// doom ends the instance because of an entry that no log can hold: to try again would go on for ever. Its terminal
// entry is stored in place of that one, and the execution is over then. x.mu is held on entry and on return.
func (x *Execution) doom(cause error) error {
	x.phase = finishing
	failure := protocol.NewFailure(cause)
	failure.Name, failure.Terminal = protocol.FailureEncoding, true
	expires := x.keptUntil(failure)
	if err := x.store([]protocol.Entry{{Kind: protocol.EntryFailed, Error: failure, Expires: expires}}); err != nil {
		return err
	}
	x.finished(outcome{failure: failure}, expires)
	return nil
}

// maxAppend is how large one append may become if it can be divided.
const maxAppend = 900 << 10

// errNoJSON says that an entry cannot be encoded.
var errNoJSON = errors.New("cannot be encoded")

// store appends entries in as few messages as their size allows. x.mu is held on entry and on return.
func (x *Execution) store(entries []protocol.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	a := &protocol.Append{
		V: protocol.Version, ID: x.NextID(),
		Incarnation: x.History.Incarnation, Holder: x.Config.Wake, Runner: x.Runner, Time: x.Now().UTC(), Entries: entries,
		Mark: x.History.Mark, Epoch: x.History.Epoch, Version: x.version(entries),
	}
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("log entry: %w: %w", errNoJSON, err)
	}
	if len(body) > maxAppend && len(entries) > 1 {
		return x.storeHalves(entries)
	}
	expected := x.expected
	x.mu.Unlock()
	sequence, err := x.Store.Append(x.life, x.History.Stream, x.subject, expected, body)
	by := x.overtaker(err)
	var uninformed error
	if err == nil && x.Inform != nil {
		uninformed = x.Inform(x.life, sequence, a)
	}
	x.mu.Lock()
	if errors.Is(err, journal.ErrConflict) {
		if by != nil && x.compacted(by) {
			return x.store(entries)
		}
		return fmt.Errorf("%w: %w", ErrSuperseded, err)
	}
	if errors.Is(err, journal.ErrTooLarge) && len(entries) > 1 { // the server allows less than usual
		return x.storeHalves(entries)
	}
	if err != nil {
		x.Logger().WarnContext(x.ctx, "append given up", logkey.Error, err)
		return err
	}
	x.expected, x.told = sequence, true
	if uninformed != nil {
		return uninformed
	}
	if x.Stored != nil && x.Stored(entries) {
		return ErrDied
	}
	return nil
}

// version is what a message with these entries says of the code: where a run begins, and where the instance comes to rest.
func (x *Execution) version(entries []protocol.Entry) string {
	last := entries[len(entries)-1].Kind
	if x.told && entries[0].Kind != protocol.EntryClaimed && !engine.Rests(last) {
		return ""
	}
	return x.Version
}

func (x *Execution) storeHalves(entries []protocol.Entry) error {
	half := len(entries) / 2
	if err := x.store(entries[:half]); err != nil {
		return err
	}
	return x.store(entries[half:])
}
