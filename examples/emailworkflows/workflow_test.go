package emailworkflows

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/examples/contract"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// outbox is a Mailer that keeps what it is given. Fail, if set, is asked after a message was taken: an error then is
// an answer that got lost.
type outbox struct {
	fail func(taken int) error

	mu    sync.Mutex // guards taken
	taken []Message
}

func (o *outbox) Send(_ context.Context, m Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.taken = append(o.taken, m)
	if o.fail == nil {
		return nil
	}
	return o.fail(len(o.taken))
}

func (o *outbox) messages() []Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.taken)
}

// serve runs a runner of the project as its skein.jsonc describes it, and returns the project and the binding.
func serve(t *testing.T, o *Onboarding) (*project.Project, workflow.Bound[contract.Trip, contract.Report]) {
	t.Helper()
	config, err := project.Load("skein.jsonc")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p, err := project.Open(t.Context(), *config, project.Conn(natstest.Start(t).Connect(t)), project.Logger(log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, p, workflow.Runner(Workflows(o)...)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("runner: %v", err)
		}
	})
	natstest.Eventually(t, natstest.Patience, "the runner is ready", p.IsReady)
	return p, workflow.Bind[contract.Trip, contract.Report]("EMAIL_WORKFLOW").In(p)
}

func create(t *testing.T, b workflow.Bound[contract.Trip, contract.Report]) *workflow.Instance[contract.Report] {
	t.Helper()
	instance, err := b.Create(t.Context(), contract.Trip{UserID: "ada", Flight: "DL264", Date: "2027-02-23"}, workflow.ID("trip"))
	if err != nil {
		t.Fatal(err)
	}
	return instance
}

func result(t *testing.T, i *workflow.Instance[contract.Report]) (contract.Report, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	return i.Result(ctx)
}

func TestBookingIsMailedConfirmedAndReceipted(t *testing.T) {
	t.Parallel()
	sent := &outbox{}
	o := New(sent)
	o.LookAround = 10 * time.Millisecond
	_, binding := serve(t, o)
	instance := create(t, binding)
	if err := instance.SendEvent(t.Context(), "confirmed", contract.Confirmation{By: "Ada"}); err != nil {
		t.Fatal(err)
	}
	report, err := result(t, instance)
	if err != nil || report != (contract.Report{Mails: 2, ConfirmedBy: "Ada"}) {
		t.Fatalf("report is %+v, %v", report, err)
	}
	mails := sent.messages()
	if len(mails) != 2 || mails[0].Subject != "Your flight DL264" || mails[1].Subject != "Confirmed: DL264" ||
		mails[0].To != "ada@example.com" || mails[0].ID == mails[1].ID {
		t.Errorf("mails are %+v", mails)
	}
	status, err := instance.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if attempts := status.Steps[0].Attempts; len(attempts) != 3 || attempts[0].Error == nil || attempts[1].Error == nil || attempts[2].Error != nil {
		t.Errorf("attempts to load the user are %+v", attempts)
	}
}

// A mail whose answer is lost is sent again: bodies run at least once. The Message-ID shows that it is the same one.
func TestRepeatedMailKeepsItsMessageID(t *testing.T) {
	t.Parallel()
	sent := &outbox{fail: func(taken int) error {
		if taken == 1 {
			return errors.New("connection reset")
		}
		return nil
	}}
	o := New(sent)
	o.Users = func(context.Context, string) (User, error) { return User{Name: "Ada", Address: "ada@example.com"}, nil }
	o.LookAround = 0
	o.RetryMail = 10 * time.Millisecond
	_, binding := serve(t, o)
	instance := create(t, binding)
	if err := instance.SendEvent(t.Context(), "confirmed", contract.Confirmation{By: "Ada"}); err != nil {
		t.Fatal(err)
	}
	if _, err := result(t, instance); err != nil {
		t.Fatal(err)
	}
	mails := sent.messages()
	if len(mails) != 3 || mails[0] != mails[1] || mails[1].ID == mails[2].ID {
		t.Errorf("mails are %+v", mails)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	sent := &outbox{}
	o := New(sent)
	o.LookAround, o.AnswerWithin = 0, 50*time.Millisecond
	_, binding := serve(t, o)
	_, err := result(t, create(t, binding))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if mails := sent.messages(); len(mails) != 1 {
		t.Errorf("mails are %+v", mails)
	}
}

func TestNewTakesDays(t *testing.T) {
	t.Parallel()
	o := New(&outbox{})
	o.Users = func(context.Context, string) (User, error) { return User{Name: "Ada", Address: "ada@example.com"}, nil }
	_, binding := serve(t, o)
	instance := create(t, binding)
	natstest.Eventually(t, natstest.Patience, "the instance sleeps", func() bool {
		status, err := instance.Status(t.Context())
		return err == nil && status.State == workflow.Waiting
	})
	status, err := instance.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nap := status.Steps[len(status.Steps)-1]
	if nap.Op != protocol.OpSleep || nap.Until == nil || time.Until(*nap.Until) < 23*time.Hour {
		t.Errorf("the last step is %+v", nap)
	}
}

func TestMessagesAreMail(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	m := Message{ID: messageID("a/b c/1"), To: "ada@example.com", Subject: "Grüße", Text: "Dear Ada,\n\nhello.\n"}
	if err := (Print{&text}).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	parsed, err := mail.ReadMessage(&text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parsed.Header.Date(); err != nil {
		t.Error(err)
	}
	if got := parsed.Header.Get("Message-ID"); got != "<"+m.ID+">" || strings.ContainsAny(m.ID, " /") {
		t.Errorf("Message-ID is %q", got)
	}
	for _, header := range []string{"From", "To"} {
		if list, err := parsed.Header.AddressList(header); err != nil || len(list) != 1 {
			t.Errorf("%s is %v, %v", header, list, err)
		}
	}
}

// Not parallel: it sets environment variables.
func TestFromEnv(t *testing.T) {
	for _, row := range []struct {
		name, addr, look string
		want             string // part of the error; empty: none
	}{
		{"nothing set", "", "", ""},
		{"both set", "127.0.0.1:25", "4s", ""},
		{"address without port", "127.0.0.1", "", `SMTP_ADDR: "127.0.0.1": allowed is host:port`},
		{"number for a duration", "", "4", `LOOK_AROUND: "4": allowed is 0s to 8760h`},
		{"negative duration", "", "-4s", `LOOK_AROUND: "-4s": allowed is 0s to 8760h`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv(EnvSMTPAddr, row.addr)
			t.Setenv(EnvLookAround, row.look)
			o, err := FromEnv()
			if row.want != "" {
				if err == nil || err.Error() != row.want {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, prints := o.Mail.(Print)
			if prints != (row.addr == "") || (o.LookAround == 4*time.Second) != (row.look != "") {
				t.Errorf("got %+v", o)
			}
		})
	}
}

func TestSMTPAddressIsChecked(t *testing.T) {
	t.Parallel()
	for _, addr := range []SMTP{"nowhere", "127.0.0.1:port", "127.0.0.1:1"} {
		ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
		defer cancel()
		err := addr.Send(ctx, Message{ID: "a@b", To: "ada@example.com"})
		if err == nil || !strings.Contains(err.Error(), string(addr)) {
			t.Errorf("%q: error is %v", addr, err)
		}
	}
}
