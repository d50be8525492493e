package expenses

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/agent/agenttest"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

const class, team = "ExpensesBoard", "lisbon"

// setup runs boards and their workflows with the time in the test's hands.
func setup(t *testing.T) *agenttest.Kit {
	t.Helper()
	return agenttest.In(t, workflowtest.Load(t, "skein.jsonc", Workflows(NewOffice())...), Classes()...)
}

// roundTrip is a kit as an HTTP transport.
type roundTrip func(*http.Request) *http.Response

func (r roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return r(q), nil }

// browser is a page as far as the board sees it.
type browser struct {
	t  *testing.T
	ws *websocket.Conn
	// state is the last one that has come, news and refused what was said to it.
	state   Sheet
	news    []Expense
	refused []refusal
}

func open(t *testing.T, kit *agenttest.Kit, id string) *browser {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "ws://board/agents/expenses-board/"+team+"?_pk="+id,
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: roundTrip(kit.Do)}})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() }) // it may have ended
	b := &browser{t: t, ws: ws}
	b.until("it has a state", func() bool { return b.state.Here > 0 })
	return b
}

func (b *browser) send(text string) {
	b.t.Helper()
	if err := b.ws.Write(b.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) submit(c Claim) {
	b.t.Helper()
	text, err := json.Marshal(map[string]Claim{"submit": c})
	if err != nil {
		b.t.Fatal(err)
	}
	b.send(string(text))
}

// call calls a method and returns what is answered as an error; empty if it has worked.
func (b *browser) call(method, args string) (failure string) {
	b.t.Helper()
	b.send(fmt.Sprintf(`{"type":"rpc","id":"1","method":%q,"args":%s}`, method, args))
	for {
		frame := b.next("the answer to " + method)
		if frame.Type == "rpc" {
			return frame.Error
		}
	}
}

type frame struct {
	Type    string
	State   *Sheet
	Error   string
	News    *Expense
	Refused *refusal
}

func (b *browser) next(what string) (f frame) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), natstest.Patience)
	defer cancel()
	_, data, err := b.ws.Read(ctx)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	switch {
	case err != nil:
		b.t.Fatalf("%s: %v", what, err)
	case f.State != nil:
		b.state = *f.State
	case f.News != nil:
		b.news = append(b.news, *f.News)
	case f.Refused != nil:
		b.refused = append(b.refused, *f.Refused)
	}
	return f
}

func (b *browser) until(what string, cond func() bool) {
	b.t.Helper()
	for !cond() {
		b.next(what)
	}
}

// reaches waits until an expense has a status.
func (b *browser) reaches(id string, status Status) Expense {
	b.t.Helper()
	var found Expense
	b.until(fmt.Sprintf("expense %s is %s", id, status), func() bool {
		e, err := b.state.find(id)
		if err != nil || e.Status != status {
			return false
		}
		found = *e
		return true
	})
	return found
}

// TestOneSubmitsAnotherApproves, through the death of the host on the way.
func TestOneSubmitsAnotherApproves(t *testing.T) {
	t.Parallel()
	kit := setup(t)
	ada := open(t, kit, "ada")
	ada.submit(claim(24_50))
	ada.submit(claim(24_50)) // it was not sure
	if e := ada.reaches("c1", Checking); e.By != "Ada" || e.What != "Taxi" || e.Cents != 24_50 {
		t.Errorf("it is %+v", e)
	}
	kit.Advance(time.Minute)
	if e := ada.reaches("c1", Waiting); e.Percent != 60 {
		t.Errorf("it is %+v", e)
	}
	kit.KillHost() // and the sockets with it: it is their gateway, too
	_ = ada.ws.CloseNow()
	ada, grace := open(t, kit, "ada"), open(t, kit, "grace")
	if failure := grace.call("approve", `["c1","Grace"]`); failure != "" {
		t.Errorf("approve: %s", failure)
	}
	if failure := ada.call("reject", `["c1","Ada",""]`); failure != "too late: this expense is paying" {
		t.Errorf("reject: %q", failure)
	}
	kit.Advance(time.Minute)
	for _, page := range []*browser{ada, grace} {
		if e := page.reaches("c1", Paid); e.Percent != 100 || !strings.HasPrefix(e.Note, "Paid, reference P-") {
			t.Errorf("it is %+v", e)
		}
		if len(page.state.Expenses) != 1 || len(page.news) != 1 || page.news[0].Status != Paid {
			t.Errorf("there are %+v, and the news are %+v", page.state.Expenses, page.news)
		}
	}
	if failure := grace.call("remove", `["c1"]`); failure != "" {
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
	page.until("all are on the board", func() bool { return len(page.state.Expenses) == 4 })
	kit.Advance(time.Minute)
	page.reaches("rejected", Waiting)
	page.reaches("withdrawn", Waiting)
	for method, args := range map[string]string{"reject": `["rejected","Grace"," too dear "]`, "remove": `["withdrawn"]`} {
		if failure := page.call(method, args); failure != "" {
			t.Errorf("%s: %s", method, failure)
		}
	}
	kit.Advance(8 * 24 * time.Hour)
	for id, want := range map[string]Progress{
		"rejected":  {Rejected, 60, "Rejected by Grace: too dear"},
		"refused":   {Failed, 25, "Refused: more than is paid without an invoice"},
		"forgotten": {Failed, 60, "Nobody has answered"},
	} {
		if e := page.reaches(id, want.Status); e.Progress != want {
			t.Errorf("%s: %+v, want %+v", id, e.Progress, want)
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
		page.refused = nil
		page.send(test.message)
		page.until(test.message, func() bool { return len(page.refused) > 0 })
		if got := page.refused[0].Reason; !strings.Contains(got, test.want) {
			t.Errorf("%.80s: %q, want %q", test.message, got, test.want)
		}
	}
	for _, test := range []struct{ method, args, want string }{
		{"approve", `["c1","Grace"]`, "not on the board any more"},
		{"reject", `["c1","Grace","` + strings.Repeat("x", maxText+1) + `"]`, "the reason may have"},
		{"approve", `["c1",""]`, "the name must have"},
		{"remove", `["c1"]`, "not on the board any more"},
		{"rename", `["  "]`, "the title must have"},
		{"onMessage", `[]`, "not callable"},
	} {
		if got := page.call(test.method, test.args); !strings.Contains(got, test.want) {
			t.Errorf("%s%s: %q, want %q", test.method, test.args, got, test.want)
		}
	}
	page.send(`{"type":"cf_agent_state","state":{"title":"Mine","here":9,"expenses":[]}}`)
	for page.next("the state is refused").Type != "cf_agent_state_error" {
	}
	if failure := page.call("rename", `[" Lisbon office "]`); failure != "" {
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
	ada := open(t, kit, "ada")
	open(t, kit, "grace").ws.CloseRead(t.Context()) // hears that it is replaced
	ada.until("both are here", func() bool { return ada.state.Here == 2 })
	again := open(t, kit, "grace")
	if again.state.Here != 2 {
		t.Errorf("%d are here", again.state.Here)
	}
	if err := again.ws.CloseNow(); err != nil { // without a word
		t.Fatal(err)
	}
	ada.until("one is here", func() bool { return ada.state.Here == 1 })
}
