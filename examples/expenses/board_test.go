package expenses

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/agent/agenttest"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

const class, team = "ExpensesBoard", "lisbon"

// setup runs boards and their workflows with the time in the test's hands.
func setup(t *testing.T) *agenttest.Kit {
	t.Helper()
	return agenttest.In(t, workflowtest.Load(t, "skein.jsonc", Workflows(NewOffice())...), Classes()...)
}

// browser is a page as far as the board sees it.
type browser struct {
	t *testing.T
	*agenttest.Client
}

func open(t *testing.T, kit *agenttest.Kit, id string) browser {
	t.Helper()
	return browser{t, kit.Dial("/agents/expenses-board/"+team+"?_pk="+id, nil)}
}

func (b browser) submit(c Claim) {
	b.t.Helper()
	text, err := json.Marshal(map[string]Claim{"submit": c})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Send(string(text))
}

// call calls a method and returns what is answered as an error; empty if it has worked.
func (b browser) call(method string, args ...any) (failure string) {
	b.t.Helper()
	if _, err := b.Call(method, args...); err != nil {
		return err.Error()
	}
	return ""
}

// sheet is the one that the page shows.
func (b browser) sheet() Sheet {
	b.t.Helper()
	return agenttest.Seen[Sheet](b.Client)
}

// expense is what the page shows of one.
func (b browser) expense(id string) Expense {
	b.t.Helper()
	sheet := b.sheet()
	e, err := sheet.find(id)
	if err != nil {
		b.t.Fatalf("%s: %v", id, err)
	}
	return *e
}

// said is what the board says to pages beside its state.
type said struct {
	Type    string
	News    *Expense
	Refused *refusal
}

// hear takes what the board has said to the page.
func (b browser) hear() (all []said) {
	b.t.Helper()
	for _, m := range b.Messages() {
		var one said
		if err := json.Unmarshal([]byte(m.Text), &one); err != nil {
			b.t.Fatalf("%s: %v", m.Text, err)
		}
		all = append(all, one)
	}
	return all
}

// TestOneSubmitsAnotherApproves, through the death of the host on the way.
func TestOneSubmitsAnotherApproves(t *testing.T) {
	t.Parallel()
	kit := setup(t)
	ada := open(t, kit, "ada")
	ada.submit(claim(24_50))
	ada.submit(claim(24_50)) // it was not sure
	if e := ada.expense("c1"); e.Status != Checking || e.By != "Ada" || e.What != "Taxi" || e.Cents != 24_50 {
		t.Errorf("it is %+v", e)
	}
	kit.Advance(time.Minute)
	if e := ada.expense("c1"); e.Status != Waiting || e.Percent != 60 {
		t.Errorf("it is %+v", e)
	}
	grace := open(t, kit, "grace")
	kit.KillHost() // the pages do not see it
	if failure := grace.call("approve", "c1", "Grace"); failure != "" {
		t.Errorf("approve: %s", failure)
	}
	if failure := ada.call("reject", "c1", "Ada", ""); failure != "too late: this expense is being paid" {
		t.Errorf("reject: %q", failure)
	}
	kit.Advance(time.Minute)
	for page, want := range map[browser][]Status{ada: {Waiting, Paid}, grace: {Paid}} {
		if e := page.expense("c1"); e.Status != Paid || e.Percent != 100 || !strings.HasPrefix(e.Note, "Paid, reference P-") {
			t.Errorf("it is %+v", e)
		}
		if n := len(page.sheet().Expenses); n != 1 {
			t.Errorf("there are %d expenses", n)
		}
		var news []Status
		for _, one := range page.hear() {
			news = append(news, one.News.Status)
		}
		if !slices.Equal(news, want) {
			t.Errorf("the news are %q, want %q", news, want)
		}
	}
	if failure := grace.call("remove", "c1"); failure != "" {
		t.Errorf("remove: %s", failure)
	}
	if sheet := agenttest.State[Sheet](kit, class, team); len(sheet.Expenses) != 0 || sheet.Here != 2 {
		t.Errorf("the sheet is %+v", sheet)
	}
}

// TestNoPayment: what is rejected, refused or withdrawn is not paid, and the board says why.
func TestNoPayment(t *testing.T) {
	t.Parallel()
	kit := setup(t)
	page := open(t, kit, "ada")
	for id, cents := range map[string]int64{"rejected": 1_00, "refused": 5_000_01, "withdrawn": 2_00, "forgotten": 3_00} {
		page.submit(Claim{ID: id, By: "Ada", What: id, Cents: cents})
	}
	if failure := page.call("approve", "rejected", "Grace"); failure != "this expense is still being checked" {
		t.Errorf("approve: %q", failure)
	}
	kit.Advance(time.Minute)
	for _, id := range []string{"rejected", "withdrawn"} {
		if e := page.expense(id); e.Status != Waiting {
			t.Errorf("%s: %+v", id, e)
		}
	}
	for method, args := range map[string][]any{"reject": {"rejected", "Grace", " too dear "}, "remove": {"withdrawn"}} {
		if failure := page.call(method, args...); failure != "" {
			t.Errorf("%s: %s", method, failure)
		}
	}
	kit.Advance(8 * 24 * time.Hour)
	for id, want := range map[string]Progress{
		"rejected":  {Rejected, 60, "Rejected by Grace: too dear"},
		"refused":   {Failed, 25, "Refused: more than is paid without an invoice"},
		"forgotten": {Failed, 60, "Nobody has answered"},
	} {
		if e := page.expense(id); e.Progress != want {
			t.Errorf("%s: %+v, want %+v", id, e.Progress, want)
		}
	}
	for id, want := range map[string]string{"rejected": "was rejected", "refused": "was refused"} {
		if failure := page.call("approve", id, "Grace"); failure != "too late: this expense "+want {
			t.Errorf("approve %s: %q", id, failure)
		}
	}
	if sheet := agenttest.State[Sheet](kit, class, team); len(sheet.Expenses) != 3 {
		t.Errorf("there are %+v", sheet.Expenses)
	}
}

func TestWhatPagesMayNot(t *testing.T) {
	t.Parallel()
	kit := setup(t)
	page := open(t, kit, "ada")
	for _, test := range []struct{ message, want string }{
		{`hello`, "does not know such messages"},
		{`{"submit":null}`, "does not know such messages"},
		{`{"submit":{"by":"Ada","what":"Taxi","cents":1}}`, "no proper id"},
		{`{"submit":{"id":"` + strings.Repeat("x", maxID+1) + `","by":"Ada","what":"Taxi","cents":1}}`, "no proper id"},
		{`{"submit":{"id":"c1","by":" ","what":"Taxi","cents":1}}`, "the name must have 1 to 40 characters"},
		{`{"submit":{"id":"c1","by":"Ada","what":"` + strings.Repeat("å", maxText+1) + `","cents":1}}`, "the purpose must have"},
		{`{"submit":{"id":"c1","by":"Ada","what":"Taxi","cents":0}}`, "the amount must be"},
		{`{"submit":{"id":"c1","by":"Ada","what":"Taxi","cents":100000001}}`, "the amount must be"},
	} {
		page.Send(test.message)
		if all := page.hear(); len(all) != 1 || all[0].Refused == nil || !strings.Contains(all[0].Refused.Reason, test.want) {
			t.Errorf("%.80s: %+v, want %q", test.message, all, test.want)
		}
	}
	for _, test := range []struct {
		method, want string
		args         []any
	}{
		{"approve", "not on the board any more", []any{"c1", "Grace"}},
		{"reject", "the reason may have", []any{"c1", "Grace", strings.Repeat("x", maxText+1)}},
		{"approve", "the name must have", []any{"c1", ""}},
		{"remove", "not on the board any more", []any{"c1"}},
		{"rename", "the title must have", []any{"  "}},
		{"onMessage", "not callable", nil},
	} {
		if got := page.call(test.method, test.args...); !strings.Contains(got, test.want) {
			t.Errorf("%s%q: %q, want %q", test.method, test.args, got, test.want)
		}
	}
	page.SetState(Sheet{Title: "Mine", Here: 9})
	if all := page.hear(); len(all) != 1 || all[0].Type != "cf_agent_state_error" {
		t.Errorf("a state that is sent: %+v", all)
	}
	if failure := page.call("rename", " Lisbon office "); failure != "" {
		t.Errorf("rename: %s", failure)
	}
	if sheet := agenttest.State[Sheet](kit, class, team); sheet.Title != "Lisbon office" || sheet.Here != 1 || len(sheet.Expenses) != 0 {
		t.Errorf("the sheet is %+v", sheet)
	}
}

// TestPagesAreCounted: those that leave are not, however they leave, and one that has come back once.
func TestPagesAreCounted(t *testing.T) {
	t.Parallel()
	kit := setup(t)
	ada, grace := open(t, kit, "ada"), open(t, kit, "grace")
	again := open(t, kit, "grace")
	if how, _ := grace.Closed(); how.Code != 1008 {
		t.Errorf("who has come back is there twice: %+v", how)
	}
	if here := ada.sheet().Here; here != 2 {
		t.Errorf("%d are here, want 2", here)
	}
	again.Break()
	if here := ada.sheet().Here; here != 1 {
		t.Errorf("%d are here, want 1", here)
	}
}
