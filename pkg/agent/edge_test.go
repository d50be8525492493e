package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
)

type user struct {
	Name  string
	Admin bool
}

// byToken is a hook as an application has one.
func byToken(r *http.Request, to Target) (any, error) {
	switch token := r.Header.Get("Authorization"); token {
	case "":
		return nil, &Error{Status: http.StatusUnauthorized, Name: "NoToken", Message: "who are you?"}
	case "guest":
		return nil, nil
	case "panic":
		panic("secret")
	case "broken":
		return nil, errors.New("the directory is down")
	case "large":
		return strings.Repeat("x", maxIdentity), nil
	case "odd":
		return []int{1}, nil
	default:
		r.Header.Set("Authorization", "hidden")
		return user{Name: token + " at " + to.Class + "/" + to.Name}, nil
	}
}

func hooked(hooks ...RequestHook) hostOption {
	return func(s *HostService, _ *project.Config) {
		for _, hook := range hooks {
			s.BeforeRequest(hook)
		}
	}
}

func settings(change func(*process.Settings)) hostOption {
	return func(_ *HostService, c *project.Config) { change(&c.Settings) }
}

// send sends a request with a header and returns the answer, read to its end.
func (h *testHost) send(t *testing.T, method, path string, header map[string]string, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	response, err := httpClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, strings.TrimSpace(string(text))
}

// TestHooksBeforeRequests: they refuse, or attach an identity that the turn sees at whatever host the agent lives, and that
// no header can forge.
func TestHooksBeforeRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := desks(func(d *desk) {
		d.request = func(_ *desk, w http.ResponseWriter, q *http.Request) error {
			who, err := Identity[user](q.Context())
			if errors.Is(err, ErrNoIdentity) {
				who.Name = "nobody"
			} else if err != nil {
				return &Error{Status: http.StatusConflict, Err: err}
			}
			var outside user
			if err := Outside(q.Context(), func(ctx context.Context) (err error) {
				outside, err = Identity[user](ctx)
				return err
			}); who.Name != "nobody" && (err != nil || outside != who) {
				t.Errorf("outside of the turn it is %+v, %v", outside, err)
			}
			_, err = fmt.Fprintf(w, "%s %s", who.Name, q.Header.Get("Authorization"))
			return err
		}
	})
	var second []string
	note := func(r *http.Request, _ Target) (any, error) {
		second = append(second, r.Header.Get("Authorization"))
		return nil, nil
	}
	first, other := r.host(t, classes, hooked(byToken, note)), r.host(t, classes, hooked(byToken))
	forged := map[string]string{"Authorization": "guest", "Identity": `{"Name":"root"}`, "X-Identity": `{"Name":"root"}`, "Skein-Identity": `{"Name":"root"}`}
	for _, test := range []struct {
		token  string
		status int
		body   string
	}{
		{"", 401, `{"error":{"name":"NoToken","message":"who are you?"}}`},
		{"panic", 500, "the agent panicked"},
		{"broken", 500, "the directory is down"},
		{"large", 500, "at most 16384 are allowed"},
	} {
		for _, h := range []*testHost{first, other} {
			response, body := h.send(t, http.MethodGet, "/agents/desk/jo", map[string]string{"Authorization": test.token}, "")
			if response.StatusCode != test.status || !strings.Contains(body, test.body) || strings.Contains(body, "secret") {
				t.Errorf("token %q: %d %s, want %d %s", test.token, response.StatusCode, body, test.status, test.body)
			}
		}
	}
	if traces := r.traces(t, "jo"); len(traces) > 0 || len(second) > 1 { // the identity that is too large is found after all hooks
		t.Errorf("requests that were refused have left %q; hooks behind the one that refused saw %q", traces, second)
	}
	for _, h := range []*testHost{first, other} {
		for token, want := range map[string]string{"ada": "200 ada at Desk/jo hidden", "guest": "200 nobody guest", "odd": "409"} {
			header := map[string]string{"Authorization": token}
			if token == "guest" {
				header = forged
			}
			response, body := h.send(t, http.MethodGet, "/agents/desk/jo", header, "")
			if got := fmt.Sprint(response.StatusCode, " ", body); !strings.HasPrefix(got, want) {
				t.Errorf("token %q: %s, want %s", token, got, want)
			}
		}
	}
	if !first.log.has("stack=") {
		t.Error("a hook that panics is not logged")
	}
}

// TestOriginsOfPages: off as long as nobody has asked for it; preflights are answered without agent and hooks.
func TestOriginsOfPages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	refuse := hooked(func(r *http.Request, _ Target) (any, error) {
		if r.Method == http.MethodOptions {
			t.Error("a hook saw a preflight")
		}
		return nil, nil
	})
	closed := r.host(t, desks(nil), refuse)
	some := r.host(t, desks(nil), refuse, settings(func(s *process.Settings) { s.HTTPOrigins = "https://a.example, http://localhost:3000" }))
	all := r.host(t, desks(nil), settings(func(s *process.Settings) { s.HTTPOrigins = "*" }))
	for _, test := range []struct {
		name, origin, allowed, credentials string
		host                               *testHost
	}{
		{"off", "https://a.example", "", "", closed},
		{"allowed", "https://a.example", "https://a.example", "true", some},
		{"with a port", "http://localhost:3000", "http://localhost:3000", "true", some},
		{"another", "https://b.example", "", "", some},
		{"of another scheme", "http://a.example", "", "", some},
		{"any", "https://b.example", "*", "", all},
	} {
		response, body := test.host.send(t, http.MethodGet, "/agents/desk/jo", map[string]string{"Origin": test.origin}, "")
		h := response.Header
		if h.Get("Access-Control-Allow-Origin") != test.allowed || h.Get("Access-Control-Allow-Credentials") != test.credentials || body != "0" {
			t.Errorf("%s: answer %q with %v, want origin %q", test.name, body, h, test.allowed)
		}
		if test.host == closed {
			continue
		}
		response, _ = test.host.send(t, http.MethodOptions, "/agents/desk/preflight", map[string]string{
			"Origin": test.origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-other",
		}, "")
		h = response.Header
		if h.Get("Access-Control-Allow-Origin") != test.allowed || test.allowed != "" && (h.Get("Access-Control-Allow-Methods") != "POST" ||
			h.Get("Access-Control-Allow-Headers") != "authorization,x-other" || h.Get("Access-Control-Max-Age") != "600") {
			t.Errorf("%s: preflight with %v, want origin %q", test.name, h, test.allowed)
		}
	}
	if traces := r.traces(t, "preflight"); len(traces) > 0 {
		t.Errorf("preflights have left %q", traces)
	}
}

// TestSizesOfRequests: what is too large is refused.
func TestSizesOfRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	small := settings(func(s *process.Settings) { s.HTTPMaxBody = 1 << 10 })
	owner, other := r.host(t, desks(nil), small), r.host(t, desks(nil), small)
	owner.expect(t, "/agents/desk/jo", 200, "0")
	for _, h := range []*testHost{owner, other} {
		if response, body := h.send(t, http.MethodPost, "/agents/desk/jo", nil, strings.Repeat("x", 1<<10)); response.StatusCode != 200 {
			t.Errorf("body of just the size: %d %s", response.StatusCode, body)
		}
		if response, body := h.send(t, http.MethodPost, "/agents/desk/jo", nil, strings.Repeat("x", 1<<10+1)); response.StatusCode != 413 || !strings.Contains(body, "over 1024 bytes") {
			t.Errorf("body over the size: %d %s", response.StatusCode, body)
		}
		if response, _ := h.send(t, http.MethodPost, "/agents/desk/jo", map[string]string{"X": strings.Repeat("x", 80<<10)}, ""); response.StatusCode != 431 {
			t.Errorf("header over the size: %d", response.StatusCode)
		}
	}
}

// TestLateAndTooManyRequests are answered with what they were about.
func TestLateAndTooManyRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	began, release := make(chan struct{}, 2), make(chan struct{})
	classes := desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodPut {
				began <- struct{}{}
				<-release
			}
			return count(d, w, q)
		}
	})
	hasty := r.host(t, classes, settings(func(s *process.Settings) { s.HTTPMaxRequests, s.HTTPTimeout = 1, process.Duration(time.Second) }))
	patient := r.host(t, classes, settings(func(s *process.Settings) { s.HTTPMaxRequests = 1 }))
	finish := sync.OnceFunc(func() { close(release) })
	defer finish()
	answered := make(chan string, 1)
	go func() {
		status, body, err := patient.tryCall(t.Context(), http.MethodPut, "/agents/desk/jo", "")
		answered <- fmt.Sprint(status, " ", body, err)
	}()
	<-began
	for _, h := range []*testHost{hasty, patient} {
		response, body := h.send(t, http.MethodGet, "/agents/desk/jo", nil, "")
		want := `{"error":{"name":"AgentBusy","message":"1 requests wait for agent \"jo\" of class \"Desk\", more are not allowed"}}`
		if h == patient && (response.StatusCode != 503 || body != want || response.Header.Get("Retry-After") != "1") {
			t.Errorf("one request too many: %d %v %s", response.StatusCode, response.Header, body)
		}
		if h == hasty && response.StatusCode != 503 && response.StatusCode != 504 { // a busy machine takes its time to find the agent
			t.Errorf("one request too many, through another host: %d %s", response.StatusCode, body)
		}
	}
	want := `{"error":{"name":"Timeout","message":"no answer within 1s from agent \"ann\" of class \"Desk\"`
	if response, body := hasty.send(t, http.MethodPut, "/agents/desk/ann", nil, ""); response.StatusCode != 504 || !strings.HasPrefix(body, want) {
		t.Errorf("late answer %d %s, want %s", response.StatusCode, body, want)
	}
	finish()
	if got := <-answered; got != "200 0<nil>" {
		t.Errorf("the request that was there first: %s", got)
	}
}

// other is an agent of a class that not every host has.
type otherDesk struct{ Base[int] }

func (o *otherDesk) OnRequest(w http.ResponseWriter, r *http.Request) error {
	if err := o.SetState(r.Context(), o.State()+1); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, o.State())
	return err
}

// TestClassOfAnotherHost (O9): any host takes its requests, waits for its hosts while a new version is rolled out, and says
// so when none comes.
func TestClassOfAnotherHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	impatient := timings(func(t *timing) { t.nobodyFor = 300 * time.Millisecond })
	gate := r.host(t, desks(nil), impatient)
	others := []Class{Define("OtherDesk", func() *otherDesk { return &otherDesk{} })}
	first := r.host(t, others)
	for want := 1; want <= 2; want++ {
		gate.expect(t, "/agents/other-desk/jo", 200, fmt.Sprint(want))
	}
	first.expect(t, "/agents/desk/jo", 200, "0") // the other way round
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	response, body := gate.send(t, http.MethodGet, "/agents/other-desk/jo", nil, "")
	if want := `{"error":{"name":"NoHost","message":"no host of class \"OtherDesk\" of project \"flight-desk\" is there"}}`; response.StatusCode != 503 ||
		body != want || response.Header.Get("Retry-After") != "1" {
		t.Errorf("request for a class without hosts: %d %v %s, want 503 %s", response.StatusCode, response.Header, body, want)
	}
	patient := r.host(t, desks(nil), timings(func(t *timing) { t.nobodyFor, t.findWithin = soon, soon })) // a busy machine starts hosts slowly
	answered := make(chan string, 1)
	go func() {
		status, body, err := patient.tryCall(t.Context(), http.MethodGet, "/agents/other-desk/jo", "")
		answered <- fmt.Sprint(status, " ", body, err)
	}()
	r.host(t, others)
	if got := <-answered; got != "200 3<nil>" {
		t.Errorf("request that waited for a host: %s", got)
	}
	if response, body := gate.send(t, http.MethodGet, "/agents/none/jo", nil, ""); response.StatusCode != 400 || !strings.Contains(body, `"classes":["desk","other-desk"]`) {
		t.Errorf("class that nobody ever served: %d %s", response.StatusCode, body)
	}
}
