package browser_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/test/browser"
)

// tally hears the numbers that pages say, keeps count in the state, and says them to all.
type tally struct{ agent.Base[count] }

type count struct {
	// Next is the number that a page has to say next, Wrong what was said instead.
	Next  map[string]int `json:"next"`
	Wrong []string       `json:"wrong,omitempty"`
	Total int            `json:"total"`
}

func tallies() agent.Class {
	return agent.Define("Tally", func() *tally { return &tally{} }, agent.Clients((*tally).Count))
}

// dieAtEnv names what is said when the host kills itself.
const dieAtEnv = "SKEIN_BROWSER_DIE_AT"

func (a *tally) OnMessage(ctx context.Context, _ *agent.Connection, m agent.Message) error {
	if _, err := a.Count(ctx, m.Text); err != nil {
		return err
	}
	if m.Text == os.Getenv(dieAtEnv) { // in the turn: nothing of it is stored
		fmt.Fprintf(os.Stderr, "dies when it hears %q\n", m.Text)
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		<-ctx.Done()
	}
	return agent.Broadcast(ctx, m)
}

// Count counts what was said, and returns how much that was.
func (a *tally) Count(ctx context.Context, text string) (total int, err error) {
	err = a.Update(ctx, func(c *count) error {
		page, number, _ := strings.Cut(text, " ")
		if strconv.Itoa(c.Next[page]) != number {
			c.Wrong = append(c.Wrong, text)
		}
		if c.Next == nil {
			c.Next = map[string]int{}
		}
		c.Next[page]++
		c.Total++
		total = c.Total
		return nil
	})
	return total, err
}

// numbersPage says numbers, each half as a message and half as a call, and notes whatever comes. It counts the sockets that are made.
func numbersPage(module string) string {
	return `<!doctype html><meta charset="utf-8"><title>Numbers</title><p id="shown"></p><script type="module">
const Native = WebSocket;
window.sockets = 0;
window.WebSocket = class extends Native { constructor(...given) { super(...given); sockets++; } };
const { AgentClient } = await import("` + module + `");
const query = new URLSearchParams(location.search);
const id = query.get("id"), host = query.get("host") ?? location.host;
Object.assign(window, { opens: 0, closes: [], heard: [], totals: [], answers: [], failed: [], next: 0 });
window.agent = new AgentClient({
  agent: "Tally", name: "jo", id, host, defaultCallTimeout: 300000, // hosts die, and a busy machine starts others slowly
  onOpen: () => { opens++; },
  onClose: ({ code }) => { closes.push(code); },
  onMessage: ({ data }) => { heard.push(data); },
  onStateUpdate: ({ total }) => { totals.push(total); document.getElementById("shown").textContent = total; },
});
window.say = (n) => {
  for (const end = next + n; next < end; next++) {
    const text = id + " " + next;
    if (next % 2) agent.call("count", [text]).then((total) => answers.push(total), (error) => failed.push(text + ": " + error.message));
    else agent.send(text);
  }
};
window.sayMore = async (n) => { for (const end = next + n; next < end;) { say(1); await new Promise((go) => setTimeout(go, 2)); } };
</script>`
}

// TestPagesThroughKills: two pages hold sockets at one host and talk through an agent at others, which die by SIGKILL: in a turn that is
// not stored, then after one that is and of which nothing has left. The pages notice nothing, and each number is applied and comes
// once and in order. Then the host of the sockets is killed: the pages come back at another and go on.
func TestPagesThroughKills(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := newSite(t, "numbers", `{ "name": "numbers" }`)
	owner := s.launch(roleTally, dieAtEnv+"=a 30")
	s.gateway.Store(s.launch(roleDoor))
	pages := []*browser.Page{b.Open(t, s.url+"/numbers?id=a"), b.Open(t, s.url+"/numbers?id=b", chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))}
	all := func(expression, want string) {
		t.Helper()
		for _, p := range pages {
			p.Await(expression, want)
		}
	}
	all("window.agent?.identified ?? false", "true")
	natstest.Eventually(t, natstest.Patience, "the agent is where it is to die", func() bool { return s.owns(owner, "Tally", "jo") })
	const each = 120
	heir := s.launch(roleTally, testsignal.Env+"="+testsignal.AgentAfterCommit)
	for _, p := range pages {
		p.Run(fmt.Sprintf("sayMore(%d), 0", each))
	}
	owner.await(`dies when it hears "a 30"`)
	owner.awaitKilled()
	heir.await("testsignal: " + testsignal.AgentAfterCommit)
	if !s.owns(heir, "Tally", "jo") {
		t.Error("the agent is not where it is to die again")
	}
	last := s.launch(roleTally)
	heir.kill()
	all("totals.at(-1)", strconv.Itoa(2*each))
	all("answers.length", strconv.Itoa(each/2))
	if !s.owns(last, "Tally", "jo") {
		t.Error("the agent has not moved on")
	}
	for _, p := range pages {
		checkNumbers(t, p, each)
	}
	if one, other := browser.Eval[[]string](pages[0], "heard"), browser.Eval[[]string](pages[1], "heard"); !slices.Equal(one, other) {
		t.Errorf("one page has heard\n%q, the other\n%q", one, other)
	}
	all("[sockets, opens, closes]", "[1,1,[]]")

	gone := s.gateway.Load()
	s.gateway.Store(s.launch(roleDoor))
	gone.kill()
	all("closes", "[1006]")
	for _, p := range pages {
		p.Run(fmt.Sprintf("say(%d), 0", each))
	}
	all("totals.at(-1)", strconv.Itoa(4*each))
	all("answers.length", strconv.Itoa(each))
	all("[sockets >= 2, opens, failed, agent.state]", fmt.Sprintf(`[true,2,[],{"next":{"a":%[1]d,"b":%[1]d},"total":%[2]d}]`, 2*each, 4*each))
}

// checkNumbers: what a page has got is each message once, in the order in which its sender has sent them, totals that only grow, and
// an answer to each call.
func checkNumbers(t *testing.T, p *browser.Page, each int) {
	t.Helper()
	p.Expect("failed", "[]")
	p.Expect("agent.state", fmt.Sprintf(`{"next":{"a":%[1]d,"b":%[1]d},"total":%[2]d}`, each, 2*each))
	heard := browser.Eval[[]string](p, "heard")
	for _, sender := range []string{"a", "b"} {
		var want []string
		for i := 0; i < each; i += 2 {
			want = append(want, fmt.Sprintf("%s %d", sender, i))
		}
		if got := slices.DeleteFunc(slices.Clone(heard), func(text string) bool { return !strings.HasPrefix(text, sender+" ") }); !slices.Equal(got, want) {
			t.Errorf("heard of %s is %q, want each once and in order", sender, got)
		}
	}
	for what, n := range map[string]int{"totals": 2, "answers": each / 2} {
		totals := browser.Eval[[]int](p, what)
		if grown := slices.Compact(slices.Sorted(slices.Values(totals))); !slices.Equal(totals, grown) || len(totals) < n {
			t.Errorf("%s are %v, want them to grow", what, totals)
		}
	}
}

// TestPageOfAnotherOrigin: it is refused before there is a socket, and has nothing to show.
func TestPageOfAnotherOrigin(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := newSite(t, "numbers", `{ "name": "numbers" }`)
	s.launch(roleTally)
	s.gateway.Store(s.launch(roleDoor))
	mine := b.Open(t, s.url+"/numbers?id=a")
	mine.Await("window.agent?.identified ?? false", "true")
	mine.Run("say(2), 0")
	mine.Await("agent.state?.total ?? 0", "2")
	other := httptest.NewServer(browser.HTML(numbersPage(s.url + "/skein.js")))
	t.Cleanup(other.Close)
	theirs := b.Open(t, other.URL+"/?id=b&host="+strings.TrimPrefix(s.url, "http://"))
	theirs.Await("(window.closes?.length ?? 0) >= 2", "true") // it tries again
	theirs.Run("say(2), 0")
	theirs.Expect("[opens, heard, totals, agent.state ?? null, document.getElementById('shown').textContent]", `[0,[],[],null,""]`)
	if n := s.refused.Load(); n < 2 {
		t.Errorf("%d attempts were answered with 403", n)
	}
	mine.Expect("[agent.state.total, heard]", `[2,["a 0"]]`)
}
