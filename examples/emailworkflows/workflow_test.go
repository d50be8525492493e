package emailworkflows

import (
	"bytes"
	"context"
	"errors"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/examples/contract"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
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

// start starts an instance in a world of its own, in which time passes at once.
func start(t *testing.T, o *Onboarding) (*workflowtest.Env, *workflowtest.Run[contract.Report]) {
	t.Helper()
	env := workflowtest.Load(t, "skein.jsonc", Workflows(o)...)
	return env, workflowtest.Start[contract.Report](env, "EMAIL_WORKFLOW", contract.Trip{UserID: "ada", Flight: "DL264", Date: "2027-02-23"})
}

func TestBookingIsMailedConfirmedAndReceipted(t *testing.T) {
	t.Parallel()
	sent := &outbox{}
	env, run := start(t, New(sent))
	began := env.Now()
	env.After(48*time.Hour, func() { run.Send("confirmed", contract.Confirmation{By: "Ada"}) })
	report, err := run.Result()
	if err != nil || report != (contract.Report{Mails: 2, ConfirmedBy: "Ada"}) {
		t.Fatalf("report is %+v, %v", report, err)
	}
	if took := env.Now().Sub(began); took != 48*time.Hour {
		t.Errorf("it took %v", took)
	}
	mails := sent.messages()
	if len(mails) != 2 || mails[0].Subject != "Your flight DL264" || mails[1].Subject != "Confirmed: DL264" ||
		mails[0].To != "ada@example.com" || mails[0].ID == mails[1].ID {
		t.Errorf("mails are %+v", mails)
	}
	if attempts := run.Status().Steps[0].Attempts; len(attempts) != 3 || attempts[0].Error == nil || attempts[1].Error == nil || attempts[2].Error != nil {
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
	env, run := start(t, New(sent))
	env.After(48*time.Hour, func() { run.Send("confirmed", contract.Confirmation{By: "Ada"}) })
	if _, err := run.Result(); err != nil {
		t.Fatal(err)
	}
	mails := sent.messages()
	if len(mails) != 3 || mails[0] != mails[1] || mails[1].ID == mails[2].ID {
		t.Errorf("mails are %+v", mails)
	}
}

// A runner that dies after a mail is recorded as sent sends it no second time.
func TestCrashSendsNoMailTwice(t *testing.T) {
	t.Parallel()
	sent := &outbox{}
	env, run := start(t, New(sent))
	env.CrashAfter("mail the booking")
	env.CrashAfter("wait for answer")
	env.After(48*time.Hour, func() { run.Send("confirmed", contract.Confirmation{By: "Ada"}) })
	if _, err := run.Result(); err != nil {
		t.Fatal(err)
	}
	if mails := sent.messages(); len(mails) != 2 {
		t.Errorf("mails are %+v", mails)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	sent := &outbox{}
	env, run := start(t, New(sent))
	began := env.Now()
	if _, err := run.Result(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if took := env.Now().Sub(began).Round(time.Hour); took != 96*time.Hour { // and seconds, for the busy directory
		t.Errorf("it took %v", took)
	}
	if mails := sent.messages(); len(mails) != 1 {
		t.Errorf("mails are %+v", mails)
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
