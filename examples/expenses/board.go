// Package expenses is a project with a page: each team has a board of expenses, which all browsers that show it share. Who submits
// one starts a workflow over the socket of the page; its progress comes to every page, and so do the buttons that approve it.
//
// A board must never trust a page: what comes from one is checked here, whoever it says it is. It knows nobody's identity; a project
// of your own asks for it before it lets anybody in, with BeforeRequest of the host.
package expenses

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/workflow"
)

var reimbursement = workflow.Bind[Claim, Payment]("REIMBURSEMENT")

// Classes lists the agents of the project.
func Classes() []agent.Class {
	return []agent.Class{agent.Define("ExpensesBoard", func() *Board { return &Board{} }, agent.Uses(reimbursement),
		agent.Clients((*Board).Rename, (*Board).Approve, (*Board).Reject, (*Board).Remove))}
}

// Status says how far an expense has got.
type Status string

// The ways of an expense: from Checking to Waiting, Paying and Paid, unless it is Rejected or has Failed.
const (
	Checking Status = "checking"
	Waiting  Status = "waiting"
	Paying   Status = "paying"
	Paid     Status = "paid"
	Rejected Status = "rejected"
	Failed   Status = "failed"
)

// Expense is a claim and what has become of it.
type Expense struct {
	Claim
	Progress
	// Workflow is the instance that looks after it.
	Workflow string `json:"workflow"`
}

func (e *Expense) isOver() bool {
	return e.Status == Paid || e.Status == Rejected || e.Status == Failed
}

// undecidable says why nobody can approve or reject it now; nil: somebody can.
func (e *Expense) undecidable() error {
	switch e.Status {
	case Checking:
		return errors.New("this expense is still being checked")
	case Paying:
		return errors.New("too late: this expense is being paid")
	case Paid:
		return errors.New("too late: this expense is paid")
	case Rejected:
		return errors.New("too late: this expense was rejected")
	case Failed:
		return errors.New("too late: this expense was refused")
	}
	return nil
}

// Sheet is the state of a board: what every page shows.
type Sheet struct {
	Title string `json:"title"`
	// Here is how many pages are open.
	Here int `json:"here"`
	// Expenses are in the order in which they were submitted.
	Expenses []Expense `json:"expenses"`
}

func (s *Sheet) find(id string) (*Expense, error) {
	i := slices.IndexFunc(s.Expenses, func(e Expense) bool { return e.ID == id })
	if i < 0 {
		return nil, errors.New("this expense is not on the board any more")
	}
	return &s.Expenses[i], nil
}

// Bounds of what pages may send.
const (
	maxExpenses = 200
	maxCents    = 1_000_000_00
	maxID       = 64
	maxName     = 40
	maxText     = 120
)

// Board is the agent: one for each team.
type Board struct{ agent.Base[Sheet] }

// InitialState is the sheet of a board that nobody has used.
func (b *Board) InitialState() Sheet { return Sheet{Title: "Expenses", Expenses: []Expense{}} }

// ValidateStateChange refuses what pages send as a state: they would overwrite what has happened since they got theirs, and could pay
// themselves.
func (b *Board) ValidateStateChange(ctx context.Context, _ Sheet) error {
	if _, sent := agent.StateSource(ctx); sent {
		return errors.New("a board is changed by its methods, not by sending it a state")
	}
	return nil
}

// OnConnect and OnClose keep count of the pages.
func (b *Board) OnConnect(ctx context.Context, _ *agent.Connection, _ *http.Request) error {
	return b.countPages(ctx, nil)
}

// OnClose comes also if the host that held the socket is lost.
func (b *Board) OnClose(ctx context.Context, c *agent.Connection, _ agent.Closed) error {
	return b.countPages(ctx, c)
}

func (b *Board) countPages(ctx context.Context, gone *agent.Connection) error {
	open, err := agent.Connections(ctx)
	if err != nil {
		return err
	}
	ids := map[string]bool{} // a page that has come back has two connections for a moment
	for _, c := range open {
		if c != gone {
			ids[c.ID()] = true
		}
	}
	if len(ids) == b.State().Here {
		return nil
	}
	return b.Update(ctx, func(s *Sheet) error { s.Here = len(ids); return nil })
}

// OnMessage takes {"submit": claim}. A message has no answer, so who sent one that is refused is sent {"refused": …}.
func (b *Board) OnMessage(ctx context.Context, c *agent.Connection, m agent.Message) error {
	var message struct {
		Submit *Claim `json:"submit"`
	}
	if err := json.Unmarshal([]byte(m.Text), &message); err != nil || message.Submit == nil {
		return send(ctx, c, "refused", refusal{Reason: "the board does not know such messages"})
	}
	claim := *message.Submit
	sheet := b.State()
	if _, err := sheet.find(claim.ID); err == nil {
		return nil // the page was not sure whether it has come
	}
	if reason := objection(sheet, claim); reason != "" {
		return send(ctx, c, "refused", refusal{ID: claim.ID, Reason: reason})
	}
	instance, err := agent.RunWorkflow(ctx, reimbursement, claim, workflow.Metadata(map[string]string{"expense": claim.ID}))
	if err != nil {
		return err
	}
	sheet.Expenses = append(sheet.Expenses, Expense{Claim: claim, Progress: Progress{Checking, 0, "Submitted"}, Workflow: instance.ID()})
	return b.SetState(ctx, sheet)
}

type refusal struct {
	ID     string `json:"id,omitempty"`
	Reason string `json:"reason"`
}

func send(ctx context.Context, c *agent.Connection, kind string, value any) error {
	text, err := json.Marshal(map[string]any{kind: value})
	if err != nil {
		return err
	}
	return c.Send(ctx, agent.Text(string(text)))
}

// objection is why a claim is not taken; empty: it is.
func objection(s Sheet, c Claim) string {
	switch {
	case c.ID == "" || len(c.ID) > maxID:
		return "the expense has no proper id"
	case checkText("name", c.By, maxName) != nil:
		return checkText("name", c.By, maxName).Error()
	case checkText("purpose", c.What, maxText) != nil:
		return checkText("purpose", c.What, maxText).Error()
	case c.Cents < 1 || c.Cents > maxCents:
		return "the amount must be between 0.01 and 1,000,000"
	case len(s.Expenses) >= maxExpenses:
		return "the board is full: remove something first"
	}
	return ""
}

func checkText(what, text string, most int) error {
	if strings.TrimSpace(text) == "" || utf8.RuneCountInString(text) > most {
		return fmt.Errorf("the %s must have 1 to %d characters", what, most)
	}
	return nil
}

// Rename gives the board another title.
func (b *Board) Rename(ctx context.Context, title string) error {
	if err := checkText("title", title, maxName); err != nil {
		return err
	}
	return b.Update(ctx, func(s *Sheet) error { s.Title = strings.TrimSpace(title); return nil })
}

// Approve lets an expense be paid.
func (b *Board) Approve(ctx context.Context, id, by string) error {
	return b.decide(ctx, id, by, func(e *Expense, i *workflow.Instance[Payment]) error {
		e.Progress = Progress{Paying, 70, "Approved by " + by}
		return i.Approve(ctx, nil, workflow.Reason("by "+by))
	})
}

// Reject ends an expense. The reason may be empty.
func (b *Board) Reject(ctx context.Context, id, by, reason string) error {
	if utf8.RuneCountInString(reason) > maxText {
		return fmt.Errorf("the reason may have %d characters", maxText)
	}
	return b.decide(ctx, id, by, func(e *Expense, i *workflow.Instance[Payment]) error {
		e.Progress = Progress{Rejected, e.Percent, "Rejected by " + by}
		if reason = strings.TrimSpace(reason); reason != "" {
			e.Note += ": " + reason
		}
		return i.Reject(ctx, e.Note)
	})
}

// decide answers the workflow and notes so, in one commit: of two pages that decide at the same time, one is told that it is too late.
func (b *Board) decide(ctx context.Context, id, by string, answer func(*Expense, *workflow.Instance[Payment]) error) error {
	if err := checkText("name", by, maxName); err != nil {
		return err
	}
	return b.Update(ctx, func(s *Sheet) error {
		e, err := s.find(id)
		if err != nil {
			return err
		}
		if err := e.undecidable(); err != nil {
			return err
		}
		instance, err := reimbursement.Get(ctx, e.Workflow)
		if err != nil {
			return err
		}
		return answer(e, instance)
	})
}

// Remove takes an expense off the board, and ends its workflow if that has not come to paying.
func (b *Board) Remove(ctx context.Context, id string) error {
	return b.Update(ctx, func(s *Sheet) error {
		e, err := s.find(id)
		if err != nil {
			return err
		}
		if e.Status == Paying {
			return e.undecidable()
		}
		if !e.isOver() {
			instance, err := reimbursement.Get(ctx, e.Workflow)
			if err == nil {
				err = instance.Terminate(ctx)
			}
			if err != nil {
				return err
			}
		}
		s.Expenses = slices.DeleteFunc(s.Expenses, func(other Expense) bool { return other.ID == id })
		return nil
	})
}
