package browser_test

import (
	"fmt"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/skein-run/skein/test/browser"
)

// TestPages is all that needs a browser: one does for all of it.
func TestPages(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	for name, test := range map[string]func(*testing.T, *browser.Browser){
		"harness": harness, "client": client, "client of hosts": clientOfHosts,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}

// harness: what this package promises to tests.
func harness(t *testing.T, b *browser.Browser) {
	server := httptest.NewServer(browser.HTML(`<!doctype html><title>hello</title><p id="p">one</p><script>localStorage.n ??= 7</script>`))
	t.Cleanup(server.Close)
	p := b.Open(t, server.URL)
	if title := browser.Eval[string](p, "document.title"); title != "hello" {
		t.Errorf("the title is %q", title)
	}
	p.Run(`setTimeout(() => { document.querySelector("p").textContent = "two" }, 50)`)
	p.Await(`document.querySelector("p").textContent`, `"two"`)
	p.Run(`setTimeout(() => { throw new Error("oh") })`)
	p.Await("new Promise((done) => setTimeout(done, 10, 1))", "1")
	if thrown := strings.Join(p.Thrown(), "\n"); !strings.Contains(thrown, "Error: oh") {
		t.Errorf("thrown is %q", thrown)
	}
	p.Run("localStorage.n = 8")
	b.Open(t, server.URL).Expect("localStorage.n", `"7"`)
	p.Expect(`fetch("http://skein.example").then(() => "reached", () => "refused")`, `"refused"`)
}

// TestWithoutChromium: nothing is skipped.
func TestWithoutChromium(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CHROMIUM", "")
	failed := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		browser.Start(failed)
	}()
	<-done
	if !strings.Contains(failed.why, "apt-get install chromium") {
		t.Errorf("without a browser the test fails with %q", failed.why)
	}
}

// failing is a test that may fail.
type failing struct {
	testing.TB
	why string
}

func (f *failing) Helper() {}

func (f *failing) Fatal(args ...any) {
	f.why = fmt.Sprint(args...)
	runtime.Goexit()
}
