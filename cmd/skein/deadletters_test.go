package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

// said runs a command and returns what it wrote to either stream, and its exit code.
func said(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out buffer // a connection may log when the command is over
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	code := process.Execute(t.Context(), root)
	return out.String(), code
}

// deadProject is a server with a project that has two dead letters.
func deadProject(t *testing.T) (url string, js jetstream.JetStream) {
	t.Helper()
	s := natstest.Start(t)
	js = natstest.JetStream(t, s.Connect(t))
	for _, err := range []error{
		streams.EnsureProjects(t.Context(), js, streams.Options{}),
		streams.EnsureAgents(t.Context(), js, "shop", streams.Options{}),
		streams.RegisterAgents(t.Context(), js, "shop", []string{"Cart"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	letter := protocol.DeadLetter{
		V: protocol.Version, Class: "Cart", Name: "jo@home", From: "shop", Attempts: 3, Time: time.Date(2026, 11, 22, 14, 20, 0, 0, time.UTC),
		Error: &protocol.Failure{Name: "CardError", Message: "card\nrefused"},
		Mail:  protocol.Mail{V: protocol.Version, Source: "schedule/3.1.1", Number: 1, Life: 3, Callback: "Pay", Payload: json.RawMessage(`{"sum":5}`)},
	}
	for _, id := range []string{"3.2.1", "3.4.1"} {
		body, err := json.Marshal(letter)
		if err != nil {
			t.Fatal(err)
		}
		subject := protocol.KVSubject(protocol.DeadBucket("shop"), protocol.DeadKey("Cart", "jo@home", id))
		if _, err := js.Publish(t.Context(), subject, body); err != nil {
			t.Fatal(err)
		}
	}
	return s.URL(), js
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	url, js := deadProject(t)
	config := filepath.Join(t.TempDir(), "skein.jsonc")
	if err := os.WriteFile(config, []byte(`{ "name": "shop", "nats_url": "`+url+`" }`), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(want string, code int, args ...string) string {
		t.Helper()
		text, got := said(t, append([]string{"dead-letters", "--config", config}, args...)...)
		if got != code || !strings.Contains(text, want) {
			t.Errorf("%q: exit code %d, want %d and %q in:\n%s", args, got, code, want, text)
		}
		return text
	}
	want := `ID                  CALLBACK  SOURCE          ATTEMPTS  TIME                  ERROR
Cart/jo@home/3.2.1  Pay       schedule/3.1.1  3         2026-11-22T14:20:00Z  CardError: card refused
Cart/jo@home/3.4.1  Pay       schedule/3.1.1  3         2026-11-22T14:20:00Z  CardError: card refused
`
	if got := run("", 0, "list"); got != want {
		t.Errorf("list:\n%swant:\n%s", got, want)
	}
	run("Cart/jo@home/3.2.1", 0, "list", "--class", "Cart", "--agent", "jo@home")
	run("No dead letters.", 0, "list", "--class", "Cart", "--agent", "al")
	run(`needs --class`, 1, "list", "--agent", "al")
	run(`{"sum":5}`, 0, "show", "Cart/jo@home/3.2.1")
	run(`CardError: card\nrefused`, 0, "show", "Cart/jo@home/3.2.1")
	var letter agent.DeadLetter
	if err := json.Unmarshal([]byte(run("", 0, "show", "Cart/jo@home/3.2.1", "--output", "json")), &letter); err != nil || letter.Attempts != 3 {
		t.Errorf("show as JSON: %+v, %v", letter, err)
	}
	if lines := strings.Count(run(`"callback":"Pay"`, 0, "list", "--output", "json"), "\n"); lines != 2 {
		t.Errorf("list as JSON has %d lines, want one per letter", lines)
	}
	run("Cart/jo@home/3.2.1: redriven\n", 0, "redrive", "Cart/jo@home/3.2.1")
	inbox, err := js.Stream(t.Context(), protocol.InboxStream("shop"))
	if err != nil {
		t.Fatal(err)
	}
	message, err := inbox.GetLastMsgForSubject(t.Context(), protocol.Agent{Project: "shop", Class: "Cart", Name: "jo@home"}.InboxSubject("shop"))
	if err != nil || !strings.Contains(string(message.Data), `"source":"redrive/3.2.1"`) {
		t.Errorf("inbox has %v, %v; want mail that redrives the letter", message, err)
	}
	text := run(`{"id":"Cart/jo@home/3.2.1","state":"dropped"}`, 1, "drop", "--output", "json", "Cart/jo@home/3.2.1", "Cart/jo@home/9.9.9")
	if !strings.Contains(text, "dropped, or redriven and applied") || !strings.Contains(text, "next: see skein dead-letters list --config "+config) {
		t.Errorf("drop of a letter that is not there does not say so:\n%s", text)
	}
	run("none of this id", 1, "show", "Cart/jo@home/3.2.1")
	run("wanted is <class>/<agent>/<number>", 1, "drop", "3.2.1")
}

func TestDeadLettersRefuse(t *testing.T) {
	t.Parallel()
	url, _ := deadProject(t)
	for _, row := range []struct {
		name string
		args []string
		want []string
	}{
		{"no file", []string{"list", "--config", filepath.Join(t.TempDir(), "none.jsonc")}, []string{"none.jsonc", "--config"}},
		{"unknown project", []string{"list", "--project", "ship", "--nats-url", url}, []string{`project "ship": project is not registered`, "next: check the name"}},
		{"name that cannot be", []string{"list", "--project", "a.b", "--nats-url", url}, []string{`project "a.b"`}},
		{"address", []string{"list", "--project", "shop", "--nats-url", "http://x"}, []string{"--nats-url: ", "allowed is nats://"}},
		{"output", []string{"list", "--output", "xml"}, []string{"text or json"}},
		{"no id", []string{"redrive", "--project", "shop", "--nats-url", url}, []string{"requires at least 1 arg"}},
		{"two ids", []string{"show", "a", "b"}, []string{"accepts 1 arg"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			text, code := said(t, append([]string{"dead-letters"}, row.args...)...)
			for _, want := range row.want {
				if code != 1 || !strings.Contains(text, want) {
					t.Errorf("exit code %d, want %q in:\n%s", code, want, text)
				}
			}
		})
	}
}
