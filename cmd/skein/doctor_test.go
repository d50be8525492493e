package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	js := natstest.JetStream(t, s.Connect(t))
	for _, err := range []error{
		streams.EnsureProjects(t.Context(), js, streams.Options{}),
		streams.EnsureWorkflows(t.Context(), js, "shop", 1, streams.Options{}),
		streams.RegisterWorkflows(t.Context(), js, "shop", 1, map[string]string{"pay": "Pay"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(code int, args ...string) string {
		t.Helper()
		text, got := said(t, append([]string{"doctor", "--project", "shop", "--nats-url", s.URL(), "--patience", "1s"}, args...)...)
		if got != code {
			t.Errorf("%q: exit code %d, want %d:\n%s", args, got, code, text)
		}
		return text
	}
	if text := run(0); !strings.Contains(text, "0 instances among it: findings 0") {
		t.Errorf("nothing is wrong, but it says:\n%s", text)
	}
	stray := protocol.Instance{Project: "shop", Workflow: "pay", ID: "a"}.TimerSubject(7)
	body, err := json.Marshal(protocol.Timer{V: 1, Workflow: "pay", ID: "a", Incarnation: 5, Park: 7, Due: time.Now().Add(time.Hour)})
	if err == nil {
		_, err = js.Publish(t.Context(), stray, body)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"timer-without-wait  " + stray, "a repair would take the timer back", "1 finding is left", "--repair"} {
		if text := run(3); !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	var f doctor.Finding
	if err := json.Unmarshal([]byte(strings.SplitN(run(0, "--repair", "--output", "json"), "\n", 2)[0]), &f); err != nil || f.Repaired == "" || f.Subject != stray {
		t.Errorf("repaired as JSON: %+v, %v", f, err)
	}
	run(0)
	for want, args := range map[string][]string{
		"--patience: 1ms: allowed is 1s or more": {"--patience", "1ms"},
		"--rate: 0: allowed is 1 or more":        {"--rate", "0"},
		"allowed is text or json":                {"--output", "xml"},
	} {
		if text := run(1, args...); !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}
