package work

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Ledger is the agent of the lab: its state says what was applied to it, and in which order.
type Ledger struct{ agent.Base[Book] }

// Book is the state of a ledger.
type Book struct {
	// Lines are what was applied, oldest first: see Line.
	Lines []string `json:"lines"`
	// Rung are the planned moments, in Unix milliseconds, for which schedules have called, by their ids.
	Rung map[string][]int64 `json:"rung,omitempty"`
	// Queued counts the items that were put into the queue.
	Queued int `json:"queued,omitempty"`
}

// Line is how the n-th message of a lane stands in a book.
func Line(lane string, n int) string { return lane + " " + strconv.Itoa(n) }

// ParseLine is the inverse of Line.
func ParseLine(line string) (lane string, n int, err error) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", 0, fmt.Errorf("line %q has no number", line)
	}
	n, err = strconv.Atoi(line[i+1:])
	return line[:i], n, err
}

// Lanes of a ledger's own.
const (
	LaneQueue    = "queue"
	LaneAfter    = "after"
	LaneWorkflow = "workflow"
	LaneProgress = "progress"
)

// Names of the class, and of the binding to that of the other project.
const (
	ClassLedger = "Ledger"
	OtherLedger = "OTHER_LEDGER"
)

// Ledgers is the binding to those of the own project.
var (
	Ledgers      = agent.Bind[*Ledger](ClassLedger)
	otherLedgers = agent.Bind[*Ledger](OtherLedger)
)

// Classes are those of the agents.
func Classes() []agent.Class {
	patient := agent.Retry{MaxAttempts: 1000, BaseDelay: 100 * time.Millisecond, MaxDelay: 2 * time.Second}
	return []agent.Class{
		agent.Define(ClassLedger, func() *Ledger { return &Ledger{} }, patient, agent.IdleAfter(20*time.Second), agent.Callable((*Ledger).Note)),
		agent.Define(ClassHall, func() *Hall { return &Hall{} }, agent.Clients((*Hall).Say)),
	}
}

// Host serves the agents of a project.
func Host() *agent.HostService { return agent.Host(Classes()...) }

// Order is what a ledger is asked for: to write a line, and what follows from Do.
type Order struct {
	Lane   string `json:"lane"`
	Number int    `json:"number"`
	// Do is "tell" (To is told the same, in the lane Told), "queue" (an item for each of Times), "plan" (another line comes with
	// a schedule), "run" (a workflow is started and tracked), or empty.
	Do    string `json:"do,omitempty"`
	To    string `json:"to,omitempty"`
	Other bool   `json:"other,omitempty"` // To is of the other project
	Times int    `json:"times,omitempty"`
}

// Told is the lane of what one ledger tells another.
func Told(project, from string) string { return "told/" + project + "/" + from }

func (l *Ledger) write(ctx context.Context, line string) error {
	return l.Update(ctx, func(b *Book) error { b.Lines = append(b.Lines, line); return nil })
}

// Note writes a line.
func (l *Ledger) Note(ctx context.Context, o Order) error {
	return l.write(ctx, Line(o.Lane, o.Number))
}

// Carry carries an order out and returns how many lines there are then.
func (l *Ledger) Carry(ctx context.Context, o Order) (int, error) {
	if err := l.write(ctx, Line(o.Lane, o.Number)); err != nil {
		return 0, err
	}
	n := len(l.State().Lines)
	return n, l.follow(ctx, o)
}

func (l *Ledger) follow(ctx context.Context, o Order) error {
	switch o.Do {
	case "tell":
		self, err := agent.Info(ctx)
		if err != nil {
			return err
		}
		to := Ledgers
		if o.Other {
			to = otherLedgers
		}
		// The number of the line numbers the lane: it only grows.
		return agent.Tell(ctx, to.Agent(o.To), (*Ledger).Note, Order{Lane: Told(self.Project, self.Name), Number: len(l.State().Lines)})
	case "queue":
		for range o.Times {
			if err := l.enqueue(ctx); err != nil {
				return err
			}
		}
	case "plan":
		_, err := agent.Schedule(ctx, agent.After(time.Duration(o.Times)*time.Second), l.Note, Order{Lane: LaneAfter + "/" + o.Lane, Number: o.Number}, agent.Idempotent(false))
		return err
	case "run":
		return l.run(ctx, o)
	}
	return nil
}

func (l *Ledger) enqueue(ctx context.Context) error {
	if err := l.Update(ctx, func(b *Book) error { b.Queued++; return nil }); err != nil {
		return err
	}
	_, err := agent.Queue(ctx, l.Note, Order{Lane: LaneQueue, Number: l.State().Queued})
	return err
}

// RunID is the id of the workflow that a ledger starts for an order.
func RunID(ledger, lane string, number int) string {
	return fmt.Sprintf("run-%s-%s-%d", ledger, lane, number)
}

// run starts a workflow that reports twice.
func (l *Ledger) run(ctx context.Context, o Order) error {
	self, err := agent.Info(ctx)
	if err != nil {
		return err
	}
	id := RunID(self.Name, o.Lane, o.Number)
	script := Script{By: id, Kind: "tracked", Ops: []Op{{Do: "a"}, {Report: 1}, {Do: "b", Took: 100 * time.Millisecond}, {Report: 2}}}
	if o.Number%3 == 0 {
		script.Ops = append(script.Ops, Op{Fail: "as it should"})
	}
	_, err = agent.RunWorkflow(ctx, workflow.Bind[Script, []string](Any), script, workflow.ID(id))
	return err
}

// OnWorkflowProgress writes how far a workflow is.
func (l *Ledger) OnWorkflowProgress(ctx context.Context, w agent.Tracked, progress agent.Value) error {
	n, err := agent.Decode[int](ctx, progress)
	if err != nil {
		return err
	}
	return l.write(ctx, Line(LaneProgress+"/"+w.ID, n))
}

// OnWorkflowComplete and OnWorkflowError write that a workflow has ended.
func (l *Ledger) OnWorkflowComplete(ctx context.Context, w agent.Tracked, _ agent.Value) error {
	return l.write(ctx, Line(LaneWorkflow+"/"+w.ID, 1))
}

// OnWorkflowError is told of those that failed.
func (l *Ledger) OnWorkflowError(ctx context.Context, w agent.Tracked, _ error) error {
	return l.write(ctx, Line(LaneWorkflow+"/"+w.ID, 1))
}

// Hang makes schedules that recur for ever and catch up all they miss: one by a cron line, one at intervals.
func (l *Ledger) Hang(ctx context.Context, every time.Duration) error {
	_, err := agent.Schedule(ctx, agent.Every(every), l.Ring, struct{}{}, agent.CatchUp(protocol.MaxCatchUp))
	if err == nil {
		_, err = agent.Schedule(ctx, agent.Cron("*/7 * * * * *"), l.Ring, struct{}{}, agent.CatchUp(protocol.MaxCatchUp))
	}
	return err
}

// Ring writes down a moment.
func (l *Ledger) Ring(ctx context.Context, _ struct{}) error {
	moment, ok := agent.Firing(ctx)
	if !ok {
		return errors.New("no firing")
	}
	return l.Update(ctx, func(b *Book) error {
		if b.Rung == nil {
			b.Rung = map[string][]int64{}
		}
		b.Rung[moment.Schedule] = append(b.Rung[moment.Schedule], moment.Planned.UnixMilli())
		return nil
	})
}

// OnRequest writes the line that the query names, and answers with the number of lines.
func (l *Ledger) OnRequest(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	n, err := strconv.Atoi(q.Get("number"))
	if err != nil || q.Get("lane") == "" {
		return &agent.Error{Status: http.StatusBadRequest, Message: "lane and number are needed"}
	}
	lines, err := l.Carry(r.Context(), Order{Lane: q.Get("lane"), Number: n})
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(w, lines)
	return err
}
