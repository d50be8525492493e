package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

func (r *rig) letters(t *testing.T) DeadLetters {
	t.Helper()
	return DeadLettersOf(r.idleHost(t).project)
}

func list(t *testing.T, d DeadLetters, filter DeadFilter) (all []DeadLetter) {
	t.Helper()
	for letter, err := range d.List(t.Context(), filter) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, letter)
	}
	return all
}

// failingDesks have a callback that fails until luck is set.
func failingDesks(luck *atomic.Bool, options ...ClassOption) []Class {
	return desks(func(d *desk) {
		d.request = showLog
		d.ring = func(ctx context.Context, d *desk, text string) error {
			if !luck.Load() {
				return errors.New("no luck")
			}
			m, scheduled := Firing(ctx)
			return d.Note(ctx, fmt.Sprint(text, " ", scheduled, " ", m.Attempt))
		}
	}, append(options, Retry{MaxAttempts: 2, BaseDelay: 1, MaxDelay: 1})...)
}

func TestRedrivenDeadLetterIsAppliedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var luck atomic.Bool
	h := r.host(t, failingDesks(&luck))
	id, life := h.schedule(t, r, "", "once")
	r.mail(t, "jo", testProject, failing(id, life, 1000))
	d := r.letters(t)
	natstest.Eventually(t, soon, "the dead letter is there", func() bool { return len(list(t, d, DeadFilter{})) == 1 })
	first := list(t, d, DeadFilter{Class: "Desk", Agent: "jo"})[0]
	if first.Class != "Desk" || first.Agent != "jo" || first.Callback != "Ring" || string(first.Payload) != `"x"` || first.Attempts != 2 ||
		first.Error.Message != "no luck" || first.Source != protocol.ScheduleSource(id) || first.ID != "Desk/jo/"+protocol.OutgoingID(life, 2, 1) {
		t.Errorf("dead letter %+v", first)
	}

	if err := d.Redrive(t.Context(), first.ID); err != nil { // it fails again
		t.Fatal(err)
	}
	r.inboxEmpty(t)
	again := list(t, d, DeadFilter{})
	if len(again) != 1 || again[0].ID == first.ID || again[0].Attempts != 2 || again[0].Source != first.Source {
		t.Fatalf("dead letters %+v, want one of a new id in the place of %+v", again, first)
	}

	luck.Store(true)
	for range 3 {
		if err := d.Redrive(t.Context(), again[0].ID); err != nil && !errors.Is(err, ErrNoDeadLetter) {
			t.Fatal(err)
		}
	}
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "x true 1")
	if left := list(t, d, DeadFilter{}); len(left) != 0 {
		t.Errorf("dead letters %+v, want none", left)
	}
	record, _ := r.record(t, "jo")
	if len(record.Seen)+len(record.Parked) != 0 {
		t.Errorf("record %+v, want no marks left of it", record)
	}
	_, err := d.Get(t.Context(), again[0].ID)
	if refused, ok := errors.AsType[*DeadLetterError](err); !ok || !errors.Is(refused, ErrNoDeadLetter) {
		t.Errorf("Get of a letter that was applied = %v, want ErrNoDeadLetter", err)
	}
}

// TestRedrivenLetterThatWasAppliedIsNotAgain holds the moment between the commit and the removal of the letter.
func TestRedrivenLetterThatWasAppliedIsNotAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.letters(t)
	dead := protocol.DeadLetter{V: 1, Class: "Desk", Name: "jo", From: testProject, Mail: protocol.Mail{V: 1, Source: "s", Number: 1, Callback: "Note"}}
	r.put(t, protocol.DeadBucket(testProject), protocol.DeadKey("Desk", "jo", "1.1.1"), dead)
	r.put(t, protocol.DeadBucket(testProject), protocol.DeadKey("Desk", "jo", "1.1.2"), dead)
	r.own(t, "jo", "killed", protocol.Outgoing{ID: "1.1.1", Kind: protocol.OutgoingDropDead, DropDead: "1.1.1"})
	for range 2 {
		if err := errors.Join(d.Redrive(t.Context(), "Desk/jo/1.1.1"), d.Redrive(t.Context(), "Desk/jo/1.1.2")); err != nil {
			t.Fatal(err)
		}
	}
	h := r.host(t, desks(func(d *desk) { d.request = showLog }))
	r.inboxEmpty(t)
	if left := list(t, d, DeadFilter{}); len(left) != 0 {
		t.Errorf("dead letters %+v, want none", left)
	}
	h.expect(t, "/agents/desk/jo", 200, "") // one letter, without a payload
	if record, _ := r.record(t, "jo"); !strings.Contains(string(record.State), `"Log":[""]`) {
		t.Errorf("state %s, want the second letter applied once", record.State)
	}
}

func TestDeadLettersRefuse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.letters(t)
	put := func(name, id string, change func(*protocol.DeadLetter)) {
		dead := protocol.DeadLetter{V: 1, Class: "Desk", Name: name, From: testProject, Mail: protocol.Mail{V: 1, Source: "s", Number: 1, Callback: "Note"}}
		change(&dead)
		r.put(t, protocol.DeadBucket(testProject), protocol.DeadKey("Desk", name, id), dead)
	}
	put("a/b c", "1.1.1", func(l *protocol.DeadLetter) { l.Mail.Callback = "" })
	put("a/b c", "1.2.1", func(l *protocol.DeadLetter) { l.Cut = true })
	put("jo", "1.1.1", func(*protocol.DeadLetter) {})
	if n := len(list(t, d, DeadFilter{Class: "Desk", Agent: "a/b c"})); n != 2 || len(list(t, d, DeadFilter{Class: "Desk"})) != 3 || len(list(t, d, DeadFilter{Class: "Other"})) != 0 {
		t.Errorf("%d letters of one agent, want 2; or the lists of a class are wrong", n)
	}
	for range d.List(t.Context(), DeadFilter{}) {
		break // must not panic
	}
	for _, err := range d.List(t.Context(), DeadFilter{Agent: "jo"}) {
		if err == nil || !strings.Contains(err.Error(), "class is missing") {
			t.Errorf("List of an agent without a class: %v", err)
		}
	}
	for id, want := range map[string]string{
		"Desk/a/b c/1.1.1": "was no mail", "Desk/a/b c/1.2.1": "has lost its payload", "Desk/jo/9.9.9": "none of this id", "Desk/jo": "wanted is <class>/<agent>/<number>",
		"": "is no id", "De sk/jo/1.1.1": "is no id", "Desk//1.1.1": "is no id", "Desk/jo/": "is no id",
	} {
		err := d.Redrive(t.Context(), id)
		if _, ok := errors.AsType[*DeadLetterError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("Redrive(%q) = %v, want a DeadLetterError that says %q", id, err, want)
		}
	}
	if err := d.Drop(t.Context(), "Desk/a/b c/1.1.1"); err != nil {
		t.Errorf("Drop = %v", err)
	}
	if err := d.Drop(t.Context(), "Desk/a/b c/1.1.1"); !errors.Is(err, ErrNoDeadLetter) {
		t.Errorf("Drop again = %v, want ErrNoDeadLetter", err)
	}
	if n := len(list(t, d, DeadFilter{})); n != 2 {
		t.Errorf("%d letters after one was dropped, want 2", n)
	}
}

func TestFullInboxIsToldToTheSender(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	config := r.inbox(t)
	if config.MaxMsgsPerSubject != protocol.MaxWaiting || !config.DiscardNewPerSubject {
		t.Errorf("inbox stream %+v, want it to hold %d messages per agent and sender", config, protocol.MaxWaiting)
	}
	config.MaxMsgsPerSubject = 2
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	send := func(to, from string) error {
		return sendMail(t.Context(), r.store, agentNamed(to), from, protocol.Mail{V: 1, Source: "s", Number: 1, Callback: "Note"})
	}
	if err := errors.Join(send("jo", "a"), send("jo", "a"), send("jo", "b"), send("al", "a")); err != nil {
		t.Fatal(err)
	}
	err := send("jo", "a")
	if full, ok := errors.AsType[*InboxFullError](err); !ok || full.Agent != "jo" || full.Class != "Desk" {
		t.Errorf("third mail of a project = %v, want an InboxFullError", err)
	}
}

func (r *rig) inbox(t *testing.T) jetstream.StreamConfig {
	t.Helper()
	s, err := r.js.Stream(t.Context(), protocol.InboxStream(testProject))
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}
