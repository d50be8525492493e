package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

var never = Retry{MaxAttempts: 2, BaseDelay: MaxRetryDelay, MaxDelay: MaxRetryDelay} // in the time of a test

// cancelOrShow cancels the schedule that a DELETE names, and else does as showLog.
func cancelOrShow(d *desk, w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodDelete {
		return showLog(d, w, r)
	}
	_, err := CancelSchedule(r.Context(), r.URL.Query().Get("id"))
	return err
}

func failing(id string, life, number uint64) protocol.Mail {
	m := firing(id, life, number, "x")
	m.Callback = "Ring"
	return m
}

func TestAttemptsSurviveTheHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	attempts := make(chan int, 16)
	classes := func(retry Retry) []Class {
		return desks(func(d *desk) {
			d.request = showLog
			d.ring = func(ctx context.Context, _ *desk, _ string) error {
				m, _ := Firing(ctx)
				attempts <- m.Attempt
				return errors.New("no luck")
			}
		}, retry)
	}
	first := r.host(t, classes(Retry{MaxAttempts: 9, BaseDelay: MaxRetryDelay, MaxDelay: MaxRetryDelay}))
	cron, life := first.schedule(t, r, "?cron", "tick")
	sequence := r.mail(t, "jo", testProject, failing(cron, life, 1000))
	before := r.awaitRecord(t, "jo", "the failed mail is parked", func(p protocol.Record) bool { return len(p.Parked) == 1 })
	if p := before.Parked[0]; p.Sequence != sequence || p.Attempts != 1 || !p.NotBefore.After(time.Now()) || before.Turn != 1 {
		t.Errorf("record %+v after one attempt of message %d: want it parked for a later moment, and no other turn", before, sequence)
	}
	first.kill(t)
	// The next host is to try at once.
	records := &records{store: r.store, where: bucketOf(protocol.AgentsBucket(testProject))}
	now, err := records.read(t.Context(), agentNamed("jo"))
	if err != nil {
		t.Fatal(err)
	}
	now.record.Parked = []protocol.Parked{{Sequence: sequence, Attempts: 1, NotBefore: time.Now()}}
	if _, err := records.write(t.Context(), agentNamed("jo"), now.sequence, now.record); err != nil {
		t.Fatal(err)
	}
	second := r.host(t, classes(Retry{MaxAttempts: 3, BaseDelay: time.Millisecond, MaxDelay: time.Millisecond}))
	second.expect(t, "/agents/desk/jo", 200, "") // it wakes the agent
	r.awaitRecord(t, "jo", "nothing is parked", func(p protocol.Record) bool { return len(p.Parked) == 0 })
	natstest.Eventually(t, soon, "the dead letter is there", func() bool { return len(r.deadLetters(t)) == 1 })
	if letter := r.deadLetters(t)[protocol.ScheduleSource(cron)]; letter.Attempts != 3 {
		t.Errorf("dead letter %+v, want one after 3 attempts", letter)
	}
	close(attempts)
	next := 1
	for got := range attempts {
		if got != next {
			t.Errorf("attempt %d, want %d", got, next)
		}
		next++
	}
	if next != 4 {
		t.Errorf("%d attempts on two hosts, want 3", next-1)
	}
}

func TestTooMuchParkedMailStopsTheInbox(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = cancelOrShow
		d.ring = func(context.Context, *desk, string) error { return errors.New("no luck") }
	}, never), timings(func(t *timing) { t.maxParked = 2 }))
	var ids []string
	var life uint64
	for i := range 3 {
		var id string
		id, life = h.schedule(t, r, "?cron", fmt.Sprint(i))
		ids = append(ids, id)
		r.mail(t, "jo", testProject, failing(id, life, 1000))
	}
	natstest.Eventually(t, soon, "the host says that the inbox has stopped", func() bool { return h.log.has("inbox has stopped") })
	r.mail(t, "jo", testProject, firing(ids[2], life, 2000, "behind"))
	other, _ := h.schedule(t, r, "", "other")
	r.mail(t, "jo", testProject, firing(other, life, 2000, "other"))
	h.expect(t, "/agents/desk/jo", 200, "") // requests go on
	if record, _ := r.record(t, "jo"); len(record.Parked) != 2 {
		t.Errorf("%d letters are parked, want 2 and no more", len(record.Parked))
	}
	// Making room makes the inbox go on: the third fails and takes the room, so one more is needed.
	for _, id := range ids[:2] {
		h.call(t, http.MethodDelete, "/agents/desk/jo?id="+id, "")
	}
	r.awaitRecord(t, "jo", "the other schedule has fired", func(p protocol.Record) bool {
		_, known := p.Seen[protocol.ScheduleSource(other)]
		return !known
	})
	h.expect(t, "/agents/desk/jo", 200, "other")
	record, _ := r.record(t, "jo")
	if len(record.Parked) != 1 || !h.log.has("inbox goes on") {
		t.Errorf("parked %+v, want the third only, and a line in the log", record.Parked)
	}
}

func TestInboxStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.idleHost(t).project
	if s, err := Inbox(t.Context(), p, "Desk", "jo"); s != (InboxStatus{}) || err != nil {
		t.Errorf("inbox of an agent that does not exist: %+v, %v", s, err)
	}
	soonest := time.Now().Add(time.Minute).UTC()
	record := protocol.Record{V: protocol.Version, Class: "Desk", Name: "jo", Commit: "c"}
	for n := range uint64(maxParked) {
		record.Parked = append(record.Parked, protocol.Parked{Sequence: n + 1, Attempts: 1, NotBefore: soonest.Add(time.Duration(n%7) * time.Hour)})
	}
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", "jo"), record)
	r.mail(t, "jo", testProject, protocol.Mail{Source: "a", Number: 1, Callback: "Note"})
	r.mail(t, "jo", "other", protocol.Mail{Source: "a", Number: 1, Callback: "Note"})
	r.mail(t, "al", testProject, protocol.Mail{Source: "a", Number: 1, Callback: "Note"})
	s, err := Inbox(t.Context(), p, "Desk", "jo")
	if err != nil || s.Waiting != 2 || s.Parked != maxParked || !s.Stopped || s.Next == nil || !s.Next.Equal(soonest) {
		t.Errorf("inbox %+v, %v; want 2 messages of two projects, and stopped by 1,000 that are parked", s, err)
	}
	if _, err := Inbox(t.Context(), p, "Desk", ""); err == nil {
		t.Error("inbox of an agent without a name is no mistake")
	}
}

func TestCancelledScheduleIsNotHeldByItsFailedFiring(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = cancelOrShow
		d.ring = func(context.Context, *desk, string) error { return errors.New("no luck") }
	}, never))
	cron, life := h.schedule(t, r, "?cron", "tick")
	r.mail(t, "jo", testProject, failing(cron, life, 1000))
	r.mail(t, "jo", testProject, firing(cron, life, 2000, "x"))
	r.awaitRecord(t, "jo", "the failed mail is parked", func(p protocol.Record) bool { return len(p.Parked) == 1 })
	h.call(t, http.MethodDelete, "/agents/desk/jo?id="+cron, "")
	r.inboxEmpty(t)
	if record, _ := r.record(t, "jo"); len(record.Parked)+len(record.Seen) != 0 {
		t.Errorf("record %+v, want nothing parked and no marks", record)
	}
}

// TestAgentSleepsUntilItsNextAttempt holds that a long delay needs no memory, and no bell that rings in vain.
func TestAgentSleepsUntilItsNextAttempt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.host(t, desks(func(d *desk) { d.request = showLog }))
	cron, life := first.schedule(t, r, "?cron", "tick")
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	records := &records{store: r.store, where: bucketOf(protocol.AgentsBucket(testProject))}
	v, err := records.read(t.Context(), agentNamed("jo"))
	if err != nil || v.record.Owner != "" {
		t.Fatalf("record %+v, %v: want one without an owner", v.record, err)
	}
	sequence := r.mail(t, "jo", testProject, firing(cron, life, 1000, "late"))
	r.mail(t, "jo", testProject, firing(cron, life, 2000, "later"))
	due := time.Now().Add(2 * time.Second)
	v.record.Parked = []protocol.Parked{{Sequence: sequence, Attempts: 1, NotBefore: due}}
	if _, err := records.write(t.Context(), agentNamed("jo"), v.sequence, v.record); err != nil {
		t.Fatal(err)
	}
	var made atomic.Int32
	r.host(t, desks(func(*desk) { made.Add(1) }, IdleAfter(50*time.Millisecond)))
	r.awaitRecord(t, "jo", "the agent sleeps", func(p protocol.Record) bool { return made.Load() > 0 && p.Owner == "" })
	if record, _ := r.record(t, "jo"); len(record.Parked) != 1 && time.Now().Before(due) {
		t.Errorf("parked %+v, want the letter as it was", record.Parked)
	}
	r.inboxEmpty(t)
	if time.Now().Before(due) {
		t.Error("applied before its time")
	}
	if n := made.Load(); n > 4 {
		t.Errorf("the agent was woken %d times, want once or twice: bells must wait with the mail", n)
	}
	if record, _ := r.record(t, "jo"); len(record.Parked) != 0 || string(record.State) != `{"Count":0,"Log":["late","later"]}` {
		t.Errorf("record %+v, want both applied in order", record)
	}
}

// TestOtherLanesPassManyLettersBehindAFailedOne holds that what waits behind a parked letter takes no room.
func TestOtherLanesPassManyLettersBehindAFailedOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = cancelOrShow
		d.ring = func(context.Context, *desk, string) error { return errors.New("no luck") }
	}, never))
	cron, life := h.schedule(t, r, "?cron", "tick")
	other, _ := h.schedule(t, r, "", "other")
	r.mail(t, "jo", testProject, failing(cron, life, 1))
	r.awaitRecord(t, "jo", "the failed mail is parked", func(p protocol.Record) bool { return len(p.Parked) == 1 })
	for number := range uint64(maxLoaded + 100) {
		r.mail(t, "jo", testProject, firing(cron, life, number+2, "x"))
	}
	r.mail(t, "jo", testProject, firing(other, life, 1, "other"))
	r.awaitRecord(t, "jo", "the other schedule has fired", func(p protocol.Record) bool { return len(p.Seen) == 1 })
	h.expect(t, "/agents/desk/jo", 200, "other")
}
