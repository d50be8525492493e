package browser

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// patience bounds how long anything may take that must happen. Only a test that fails waits so long.
const patience = 3 * time.Minute

// programs are what Chromium is called, in the order in which they are looked for. PATH decides where.
var programs = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// pathEnv is the environment variable that says which program is the browser, if it is none of those.
const pathEnv = "CHROMIUM"

// errNoChromium says what to do.
var errNoChromium = errors.New("these tests need Chromium: install it (Debian: apt-get install chromium) or name its program in CHROMIUM")

func findChromium() (string, error) {
	if path := os.Getenv(pathEnv); path != "" {
		return path, nil
	}
	for _, name := range programs {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errNoChromium
}

// Browser is a Chromium. It is one process with its helpers, however many pages are open: start it once in a test, and open pages
// in subtests.
type Browser struct{ ctx context.Context }

// Start starts a browser, which ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := findChromium()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	allocator, free := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // containers do not let it build one; all pages are the test's own
		chromedp.UserDataDir(dir),
		chromedp.Env("XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir), // nothing of it in the home of who runs the test
		chromedp.WSURLReadTimeout(patience),
		chromedp.DisableGPU,
		// Names of other machines are not even looked up.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
		chromedp.Flag("disable-component-update", true),
	)...)
	ctx, _ := chromedp.NewContext(allocator) // ended by Cancel, in order
	t.Cleanup(func() {
		defer free()
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("browser: close: %v", err)
		}
	})
	if err := chromedp.Do(ctx); err != nil { // starts it
		t.Fatalf("browser: start %s: %v", path, err)
	}
	return &Browser{ctx: ctx}
}
