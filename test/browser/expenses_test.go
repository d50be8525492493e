package browser_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/skein-run/skein/test/browser"
)

// watch runs before the page's own code. It counts the sockets, and notes what the page shows for a moment only.
const watch = `{
  const Native = WebSocket;
  Object.assign(window, { sockets: 0, news: [], percents: [] });
  window.WebSocket = class extends Native { constructor(...given) { super(...given); window.sockets++; } };
  new MutationObserver(() => {
    news.push(document.getElementById("news")?.textContent);
    percents.push(document.querySelector("progress")?.value);
  }).observe(document, { subtree: true, childList: true, attributes: true });
}`

// board is the page of the example expenses.
type board struct{ *browser.Page }

func openBoard(t *testing.T, b *browser.Browser, s *site, first ...chromedp.Action[chromedp.Void]) board {
	t.Helper()
	one := board{b.Open(t, "about:blank", first...)}
	if _, err := chromedp.Call(one.Context, page.AddScriptToEvaluateOnNewDocument,
		page.AddScriptToEvaluateOnNewDocumentParams{Source: watch}); err != nil {
		t.Fatal(err)
	}
	one.Do("open the board", chromedp.Navigate(s.url+"/?team=lisbon"))
	one.awaitLive()
	return one
}

func (b board) awaitLive() {
	b.Await(`document.getElementById("connection")?.dataset.state ?? ""`, `"live"`)
}

// card is the JavaScript for the element of an expense.
func card(what string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#list > li")].find((li) => li.querySelector(".what").textContent === %s)`, quote(what))
}

func quote(text string) string {
	raw, _ := json.Marshal(text) // of a string, which always can be
	return string(raw)
}

func (b board) submit(what, amount, by string) {
	b.Do("submit "+what,
		chromedp.SetValue(chromedp.CSS("[name=what]"), what), chromedp.SetValue(chromedp.CSS("[name=amount]"), amount),
		chromedp.SetValue(chromedp.CSS("[name=by]"), by), chromedp.Click(chromedp.CSS("#submit .primary")))
}

func (b board) press(what, button string) {
	b.Do(button+" "+what, chromedp.Click(chromedp.JSPath(card(what)+`.querySelector("[data-do=`+button+`]")`)))
}

// shows waits until the page shows an expense in a status.
func (b board) shows(what, status string) {
	b.Await(card(what)+"?.dataset.status ?? ''", quote(status))
}

// TestBoard: one page submits, both see the progress, the other approves, and both see that it is paid; the host that owns the board is
// killed on the way, and the pages keep their sockets. When the host that holds these is killed, what is submitted meanwhile waits in
// the page and is taken once.
func TestBoard(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := newSite(t, "expenses", `{ "name": "expenses", "workflows": [{ "name": "REIMBURSEMENT", "class_name": "Reimbursement" }] }`)
	s.launch(roleOffice)
	owner := s.launch(roleBoard)
	s.gateway.Store(s.launch(roleDoor))
	desk := openBoard(t, b, s)
	phone := openBoard(t, b, s, chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile, chromedp.EmulateTouch))
	both := []board{desk, phone}
	desk.Await(`document.getElementById("here").textContent`, `"2 pages open"`)
	checkPhone(t, phone)

	const taxi, evil = "Taxi", `<img src=x onerror="document.title='pwned'">`
	desk.submit(taxi, "24.50", "Ada")
	for _, one := range both {
		one.shows(taxi, "waiting")
		one.Expect(card(taxi)+`.querySelector(".amount").textContent`, `"€24.50"`)
		one.Expect("percents.some((percent) => percent > 0 && percent < 60)", "true")
		one.Await(`news.includes("Ada, Taxi, €24.50: needs approval")`, "true")
	}
	phone.Run(`document.getElementById("submit").elements.by.value = "Grace", 0`)
	if !s.owns(owner, "ExpensesBoard", "lisbon") {
		t.Error("the board is not where it is to die")
	}
	heir := s.launch(roleBoard)
	owner.kill()
	phone.press(taxi, "approve")
	for _, one := range both {
		one.shows(taxi, "paid")
	}
	if !s.owns(heir, "ExpensesBoard", "lisbon") {
		t.Error("the board has not moved")
	}
	phone.submit(evil, "1", "Grace")
	desk.shows(evil, "waiting")
	desk.press(evil, "reject")
	desk.Do("say why", chromedp.SendKeys(chromedp.CSS("#ask input"), "no tricks\r"))
	for _, one := range both {
		one.shows(evil, "rejected")
		one.Expect("[sockets, document.title, document.querySelectorAll('#list img').length]", `[1,"Expenses · lisbon",0]`)
	}

	gone := s.gateway.Load()
	gone.kill()
	for _, one := range both {
		one.Await(`document.getElementById("connection").textContent`, `"Reconnecting…"`)
	}
	desk.press(taxi, "remove")
	desk.Await(`document.getElementById("alert").textContent`, `"There is no connection. It comes back by itself."`)
	desk.submit("Umbrella", "12", "Ada")
	desk.shows("Umbrella", "unsent")
	s.gateway.Store(s.launch(roleDoor))
	for _, one := range both {
		one.awaitLive()
		one.shows("Umbrella", "waiting")
		one.Expect(`document.querySelectorAll("#list > li").length`, "3")
	}
	desk.Expect(`document.getElementById("alert").textContent`, `""`)
	desk.press(taxi, "remove")
	phone.Await(card(taxi)+" === undefined", "true")
}

// checkPhone: nothing is wider than the screen, what is pressed is large enough for a thumb, and each field has a label.
func checkPhone(t *testing.T, phone board) {
	t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		if _, err := chromedp.Call(phone.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		}); err != nil {
			t.Fatal(err)
		}
		phone.Expect(`matchMedia("(prefers-color-scheme: dark)").matches`, fmt.Sprint(scheme == "dark"))
		phone.Expect(contrasts, "[]")
	}
	phone.Expect(`[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5).length`, "0")
	phone.Expect(`[...document.querySelectorAll("button, input")].filter((e) => e.checkVisibility() && e.offsetHeight < 44).map((e) => e.outerHTML)`, "[]")
	phone.Expect(`[...document.querySelectorAll("input")].filter((e) => e.labels.length !== 1).map((e) => e.outerHTML)`, "[]")
}

// contrasts are the texts whose contrast with what is behind them is below 4.5, that of level AA of the WCAG.
var contrasts = strings.TrimSpace(`
(() => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const hasText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.body.querySelectorAll("*")].filter((e) => e.checkVisibility() && hasText(e)).filter((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((e) => e.outerHTML);
})()`)
