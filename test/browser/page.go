package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Page is a tab of its own, whose cookies and storage no other page sees.
type Page struct {
	// Context is what actions of package chromedp run in.
	Context context.Context

	t testing.TB

	mu     sync.Mutex // guards what follows
	closed bool
	thrown []string
}

// Open opens a page, which is closed with the test. What its code throws and nobody catches fails the test, what it writes to the
// console is in the test's log. Actions come first, such as chromedp.EmulateViewport for a page on a phone.
func (b *Browser) Open(t testing.TB, url string, first ...chromedp.Action[chromedp.Void]) *Page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	p := &Page{Context: ctx, t: t}
	t.Cleanup(func() {
		p.end()
		cancel()
	})
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatalf("browser: open a tab: %v", err)
	}
	p.Do("open "+url, append(first, chromedp.Navigate(url))...)
	return p
}

// hear gets the events of the page.
func (p *Page) hear(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
		p.thrown = append(p.thrown, text)
	case *runtime.EventConsoleAPICalled:
		var texts []string
		for _, arg := range e.Args {
			texts = append(texts, strings.Trim(string(arg.Value), `"`)+arg.Description)
		}
		p.t.Logf("page: console.%s: %s", e.Type, strings.Join(texts, " "))
	}
}

// end reports what went wrong unseen. After it the test's log takes nothing more.
func (p *Page) end() {
	for _, text := range p.Thrown() {
		p.t.Errorf("page: nobody has caught: %s", text)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// Thrown returns what the code of the page has thrown and nobody has caught, and forgets it.
func (p *Page) Thrown() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	thrown := p.thrown
	p.thrown = nil
	return thrown
}

// Do runs actions of package chromedp.
func (p *Page) Do(what string, actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.Context, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("page: %s: %v", what, err)
	}
}

// try evaluates an expression, waits for it if it is a promise, and returns its value as JSON.
func (p *Page) try(expression string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(p.Context, patience)
	defer cancel()
	whole := "(async () => JSON.stringify(await (" + expression + ")) ?? 'null')()"
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](whole, chromedp.EvalAwaitPromise))
	return json.RawMessage(text), err
}

// Eval evaluates an expression in a page, waits for it if it is a promise, and returns its value.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	var value T
	raw, err := p.try(expression)
	if err == nil {
		err = json.Unmarshal(raw, &value)
	}
	if err != nil {
		p.t.Fatalf("page: %s: %v", expression, err)
	}
	return value
}

// Run evaluates an expression for what it does, and waits for it if it is a promise.
func (p *Page) Run(expression string) {
	p.t.Helper()
	if _, err := p.try("(async () => { await (" + expression + ") })()"); err != nil {
		p.t.Fatalf("page: %s: %v", expression, err)
	}
}

// Expect fails the test unless an expression has a value, as JSON.
func (p *Page) Expect(expression, want string) {
	p.t.Helper()
	if got, err := p.try(expression); err != nil || string(got) != want {
		p.t.Errorf("page: %s is %s, %v; want %s", expression, got, err, want)
	}
}

// Await waits until an expression has a value, as JSON.
func (p *Page) Await(expression, want string) {
	p.t.Helper()
	const every = 20 * time.Millisecond
	for deadline := time.Now().Add(patience); ; <-time.After(every) {
		got, err := p.try(expression)
		if err == nil && string(got) == want {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("page: not within %s: %s is %s; it is %s, %v", patience, expression, want, got, err)
		}
	}
}

// Screenshot writes what the page looks like into a PNG file.
func (p *Page) Screenshot(file string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.Context, patience)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(file, picture, 0o600)
	}
	if err != nil {
		p.t.Fatalf("page: %v", fmt.Errorf("screenshot: %w", err))
	}
}
