// Package emailworkflows is a workflow project: it accompanies a booking by e-mail.
//
// Its workflow must never touch the world outside of a step's body: the code between steps runs again from the top
// after every crash and every long wait.
package emailworkflows

import (
	"context"
	"fmt"
	"time"

	"github.com/skein-run/skein/examples/contract"
	"github.com/skein-run/skein/pkg/workflow"
)

// Onboarding is the workflow with what its steps need.
type Onboarding struct {
	Mail  Mailer
	Users Directory
	// LookAround is how long users are left alone after the first mail.
	LookAround time.Duration
	// AnswerWithin is how long they may take to confirm.
	AnswerWithin time.Duration
	// RetryMail is how long a mail waits that could not be sent; twice as long after each further try.
	RetryMail time.Duration
}

// New is an Onboarding as it is meant to run: a day to look around, three to answer.
func New(mail Mailer) *Onboarding {
	return &Onboarding{
		Mail: mail, Users: FlakyDirectory, LookAround: 24 * time.Hour, AnswerWithin: 72 * time.Hour, RetryMail: 10 * time.Second,
	}
}

// Workflows defines the workflows of the project.
func Workflows(o *Onboarding) []workflow.Definition {
	return []workflow.Definition{workflow.Define("OnboardingWorkflow", o.Run)}
}

// Run is the workflow. It may take days and any number of processes; it reads as if it took neither.
func (o *Onboarding) Run(ctx context.Context, event workflow.Event[contract.Trip]) (contract.Report, error) {
	trip := event.Payload
	user, err := workflow.Do(ctx, "load user", func(ctx context.Context) (User, error) { return o.Users(ctx, trip.UserID) },
		workflow.Retries(5, time.Second, workflow.Exponential), workflow.Timeout(time.Minute))
	if err != nil {
		return contract.Report{}, err
	}
	booked := fmt.Sprintf("Dear %s,\n\nyou are booked on %s on %s. Have a look, then please confirm.\n", user.Name, trip.Flight, trip.Date)
	if err := o.mail(ctx, "mail the booking", user, "Your flight "+trip.Flight, booked); err != nil {
		return contract.Report{}, err
	}
	if err := workflow.Sleep(ctx, "let them look around", o.LookAround); err != nil {
		return contract.Report{}, err
	}
	answer, err := workflow.WaitForEvent[contract.Confirmation](ctx, "wait for answer", "confirmed", workflow.Timeout(o.AnswerWithin))
	if err != nil {
		return contract.Report{}, err // errors.Is(err, context.DeadlineExceeded) if nobody answered in time
	}
	receipt := fmt.Sprintf("Dear %s,\n\n%s confirmed %s on %s. See you on board.\n", user.Name, answer.Payload.By, trip.Flight, trip.Date)
	if err := o.mail(ctx, "mail the receipt", user, "Confirmed: "+trip.Flight, receipt); err != nil {
		return contract.Report{}, err
	}
	return contract.Report{Mails: 2, ConfirmedBy: answer.Payload.By}, nil
}

// mail is a step that sends one mail. Its body runs at least once: if the runner dies after the mail has left and before
// the result is stored, another runner sends it again. The idempotency key is the same each time, so the Message-ID is,
// too, and whoever gets both can tell.
func (o *Onboarding) mail(ctx context.Context, step string, to User, subject, text string) error {
	return workflow.Exec(ctx, step, func(ctx context.Context) error {
		id := messageID(workflow.Step(ctx).IdempotencyKey)
		return o.Mail.Send(ctx, Message{ID: id, To: to.Address, Subject: subject, Text: text})
	}, workflow.Retries(5, o.RetryMail, workflow.Exponential), workflow.Timeout(time.Minute))
}
