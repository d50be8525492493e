package agent

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
)

type misspelt struct{ Base[int] }

func (*misspelt) OnConect(context.Context) error                    { return nil }
func (*misspelt) OnRequst(http.ResponseWriter, *http.Request) error { return nil }
func (*misspelt) ValidateState(int) error                           { return nil }
func (*misspelt) OnStart() error                                    { return nil }
func (*misspelt) OnRequest(http.ResponseWriter, *http.Request)      {}
func (*misspelt) OnError(err error) error                           { return err }
func (*misspelt) InitialState() string                              { return "" }
func (*misspelt) Once(context.Context, int) error                   { return nil }
func (*misspelt) Online(context.Context, int) error                 { return nil }
func (*misspelt) NoCallback(int) error                              { return nil }

func TestMethodsThatLookLikeHooksAreRefused(t *testing.T) {
	t.Parallel()
	err := Define("Misspelt", func() *misspelt { return &misspelt{} }).Err()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`OnConect: no such hook`,
		`OnRequst: no such hook, did you mean OnRequest?`,
		`ValidateState: no such hook; hooks are OnStart, OnRequest, OnError`,
		`OnStart has the signature func() error, wanted is func(context.Context) error`,
		`OnRequest has the signature func(http.ResponseWriter, *http.Request), wanted is func(http.ResponseWriter, *http.Request) error`,
		`OnError has the signature func(error) error, wanted is func(context.Context, error) error`,
		`InitialState has the signature func() string, wanted is func() int`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of: %s\nin: %v", want, err)
		}
	}
	for _, fine := range []string{"Once", "Online", "NoCallback"} {
		if strings.Contains(err.Error(), fine) {
			t.Errorf("%s is refused: %v", fine, err)
		}
	}
}

func TestClassProblems(t *testing.T) {
	t.Parallel()
	newDesk := func() *desk { return &desk{} }
	for _, test := range []struct {
		name  string
		class Class
		want  string
	}{
		{"name", Define("Flight Desk", newDesk), "invalid name"},
		{"no factory", Define[*desk]("Desk", nil), "has no factory"},
		{"callable that is no method", Define("Desk", newDesk, Callable(plainFunction)), "no method expression"},
		{"callable that is a method value", Define("Desk", newDesk, Callable((&desk{}).Note)), "no method expression"},
		{"callable of another type", Define("Desk", newDesk, Callable((*stranger).Plain)), "no method expression"},
		{"callable of another form", Define("Desk", newDesk, Callable((*desk).State)), "wanted is func(context.Context, P) error"},
		{"callable that is no function", Define("Desk", newDesk, Callable(nil)), "no method expression"},
		{"renamed from a method", Define("Desk", newDesk, Renamed("Ring", (*desk).Note)), "has a method of that name"},
		{"renamed to no method", Define("Desk", newDesk, Renamed("Old", "Note")), "no method expression"},
		{"idle", Define("Desk", newDesk, IdleAfter(0)), "IdleAfter(0s)"},
		{"limit", Define("Desk", newDesk, TurnLimit(-time.Second)), "TurnLimit(-1s)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.class.Err()
			if _, ok := errors.AsType[*ClassError](err); !ok || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Err() = %v, want a ClassError that says %q", err, test.want)
			}
		})
	}
	if err := Define("Desk", newDesk, Callable((*desk).Note, (*desk).Ring), Renamed("Old", (*desk).Note)).Err(); err != nil {
		t.Errorf("class without fault: %v", err)
	}
}

func TestHostRefusesClassesThatCannotBeServed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, err := project.Open(t.Context(), project.Config{Name: testProject}, project.Conn(r.nc))
	if err != nil {
		t.Fatal(err)
	}
	define := func(name string) Class { return Define(name, func() *desk { return &desk{} }) }
	for _, test := range []struct {
		name    string
		classes []Class
		want    string
	}{
		{"none", nil, "no agent classes"},
		{"two of one path", []Class{define("FlightDesk"), define("Flight_Desk")}, "/agents/flight-desk"},
		{"two of one path in another case", []Class{define("flightdesk"), define("FlightDesk")}, `that of class "flightdesk"`},
		{"unknown binding", []Class{Define("Desk", func() *desk { return &desk{} }, Uses(binding("EMAIL")))}, `binding "EMAIL"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := Host(test.classes...).Serve(t.Context(), p); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Serve = %v, want an error that says %q", err, test.want)
			}
		})
	}
}

type binding string

func (b binding) BindingName() string { return string(b) }

func TestBindingThatLeadsNowhereIsAWarning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil, Uses(binding("EMAIL"))), func(_ *HostService, c *project.Config) {
		c.Workflows = []project.Workflow{{Name: "EMAIL", ClassName: "Onboarding", ScriptName: "email-workflows"}}
	})
	if !h.log.has("level=WARN msg=\"binding leads to a project that nobody has registered yet\"") {
		t.Error("no warning for a binding to a project that is not registered")
	}
}

func TestKebab(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"FlightDesk": "flight-desk", "HTTPDesk": "http-desk", "DeskHTTP": "desk-http", "desk": "desk", "Desk2Go": "desk2-go",
		"flight_desk": "flight-desk", "A": "a", "MyURLDesk": "my-url-desk",
	} {
		if got := kebab(name); got != want {
			t.Errorf("kebab(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestPathsOfClasses: clients write the names of classes in their own ways.
func TestPathsOfClasses(t *testing.T) {
	t.Parallel()
	for class, segments := range map[string][]string{
		"FlightDesk": {"flight-desk", "FlightDesk", "flightdesk", "Flight-Desk"},
		"HTTPDesk2":  {"http-desk2", "h-t-t-p-desk2", "HTTPDesk2"},
		"SHOP_FLOOR": {"shop-floor"},
		"Desk_":      {"desk-", "desk"},
	} {
		for _, segment := range segments {
			if !isPathOf(segment, class) {
				t.Errorf("%s is no path of %s", segment, class)
			}
		}
		if isPathOf("f-l-i-g-h-t-desk", class) || isPathOf("", class) {
			t.Errorf("%s has a path that is none", class)
		}
	}
}

type starter struct {
	Base[[]string]
	fail func() error
}

func (s *starter) InitialState() []string { return []string{"initial"} }

func (s *starter) OnStart(ctx context.Context) error {
	if err := s.fail(); err != nil {
		return err
	}
	return s.Update(ctx, func(l *[]string) error { *l = append(*l, "started"); return nil })
}

func (s *starter) OnRequest(w http.ResponseWriter, _ *http.Request) error {
	_, err := w.Write([]byte(strings.Join(s.State(), ",")))
	return err
}

func TestOnStartRunsFirstAndOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	failing := true
	h := r.host(t, []Class{Define("Desk", func() *starter {
		return &starter{fail: func() error {
			if failing {
				failing = false
				return errors.New("no database")
			}
			return nil
		}}
	})})
	if status, body := h.call(t, http.MethodGet, "/agents/desk/jo", ""); status != 500 || !strings.Contains(body, "no database") {
		t.Errorf("GET of an agent that cannot start = %d %s, want 500 and why", status, body)
	}
	natstest.Eventually(t, soon, "the agent is let go", func() bool { _, ok := r.record(t, "jo"); return !ok })
	for range 2 {
		h.expect(t, "/agents/desk/jo", 200, "initial,started")
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	again := r.host(t, []Class{Define("Desk", func() *starter { return &starter{fail: func() error { return nil }} })})
	again.expect(t, "/agents/desk/jo", 200, "initial,started,started")
}

func TestStateThatDoesNotFitItsTypeIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	other := r.host(t, []Class{Define("Desk", func() *starter { return &starter{fail: func() error { return nil }} })})
	if status, body := other.call(t, http.MethodGet, "/agents/desk/jo", ""); status != 500 || !strings.Contains(body, "StateError") {
		t.Errorf("GET with another state type = %d %s, want 500 StateError", status, body)
	}
	r.awaitRecord(t, "jo", "has its state still", func(p protocolRecord) bool {
		return p.Owner == "" && string(p.State) == `{"Count":1,"Log":null}`
	})
}

func TestFactoryThatReturnsOneAgentTwiceIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := &desk{request: count}
	h := r.host(t, []Class{Define("Desk", func() *desk { return one })})
	h.expect(t, "/agents/desk/jo", 200, "0")
	if status, body := h.call(t, http.MethodGet, "/agents/desk/al", ""); status != 500 || !strings.Contains(body, "a new one each time") {
		t.Errorf("GET = %d %s, want 500 and why", status, body)
	}
}

type loop struct{ Base[chan int] }

func TestStateIsCheckedBeforeItIsStored(t *testing.T) {
	t.Parallel()
	l := &loop{}
	ctx, _ := turnOf(t, Define("Loop", func() *loop { return &loop{} }), l, protocolRecord{})
	if err := l.SetState(ctx, nil); err == nil || !strings.Contains(err.Error(), "cannot be encoded") {
		t.Errorf("SetState of a channel = %v, want a StateError", err)
	}
	d := &desk{}
	ctx, draft := turnOf(t, desks(nil)[0], d, protocolRecord{})
	if err := d.Update(ctx, func(s *deskState) error { s.Count = 9; return errors.New("stop") }); err == nil || d.State().Count != 0 || draft.state != nil {
		t.Errorf("Update with an error = %v, state %+v; want the state untouched", err, d.State())
	}
}
