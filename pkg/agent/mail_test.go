package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// showLog answers with the log in the state; POST schedules Note with the body an hour ahead and answers with its id.
func showLog(d *desk, w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		_, err := io.WriteString(w, strings.Join(d.State().Log, ","))
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	when := After(time.Hour)
	if r.URL.Query().Has("cron") {
		when = Cron("@hourly")
	}
	task, err := Schedule(r.Context(), when, d.Note, string(body))
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, task.ID)
	return err
}

// schedule has the desk "jo" make a schedule and returns its id and the agent's life.
func (h *testHost) schedule(t *testing.T, r *rig, query, payload string) (id string, life uint64) {
	t.Helper()
	status, id := h.call(t, http.MethodPost, "/agents/desk/jo"+query, payload)
	if status != 200 {
		t.Fatalf("schedule = %d %s", status, id)
	}
	record, _ := r.record(t, "jo")
	return id, record.Life
}

// numbered is the number of the n-th firing of a test: firings are later than the schedule was made.
func numbered(n uint64) uint64 { return 4_000_000_000_000 + n }

func firing(id string, life, number uint64, payload string) protocol.Mail {
	raw, err := json.Marshal(payload)
	if err != nil {
		panic(err)
	}
	planned := time.UnixMilli(int64(numbered(number))).UTC()
	return protocol.Mail{Source: protocol.ScheduleSource(id), Number: numbered(number), Life: life, Callback: "Note", Payload: raw, Planned: &planned}
}

// TestLastFiringEndsTheSchedule holds that the agent forgets a schedule that is over, also if that becomes known only
// when its last firing comes again, or is left out.
func TestLastFiringEndsTheSchedule(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		mails func(first protocol.Mail) []protocol.Mail
		want  string
	}{
		{"with it", func(m protocol.Mail) []protocol.Mail { m.Last = true; return []protocol.Mail{m, m} }, "1"},
		{"when it comes again", func(m protocol.Mail) []protocol.Mail {
			again := m
			again.Last = true
			return []protocol.Mail{m, m, again, again}
		}, "1"},
		{"left out", func(m protocol.Mail) []protocol.Mail {
			end := protocol.Mail{Source: m.Source, Number: m.Number + 1, Life: m.Life, Planned: m.Planned, Last: true}
			return []protocol.Mail{m, end, end}
		}, "1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.host(t, desks(func(d *desk) { d.request = showLog }))
			id, life := h.schedule(t, r, "?cron", "tick")
			for _, m := range test.mails(firing(id, life, 1, "1")) {
				r.mail(t, "jo", testProject, m)
			}
			r.inboxEmpty(t)
			h.expect(t, "/agents/desk/jo", 200, test.want)
			if record, _ := r.record(t, "jo"); len(record.Seen) != 0 {
				t.Errorf("the record has marks of %v, want none", record.Seen)
			}
			if n := len(r.deadLetters(t)); n != 0 {
				t.Errorf("%d dead letters, want none", n)
			}
		})
	}
}

func TestFiringIsAppliedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) { d.request = showLog }))
	cron, life := h.schedule(t, r, "?cron", "tick")
	for _, number := range []uint64{1000, 1000, 2000, 1000, 2000} { // a second firing, and copies of both
		r.mail(t, "jo", testProject, firing(cron, life, number, fmt.Sprint(number)))
	}
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "1000,2000")
	record, _ := r.record(t, "jo")
	if record.Seen[protocol.ScheduleSource(cron)] != numbered(2000) || record.Turn != 3 {
		t.Errorf("record %+v, want the mark 2000 and 3 turns", record)
	}

	once, _ := h.schedule(t, r, "", "late")
	r.mail(t, "jo", testProject, firing(once, life, 3000, "once"))
	r.mail(t, "jo", testProject, firing(once, life, 3000, "once"))
	r.mail(t, "jo", testProject, firing(once, life, 4000, "once"))
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "1000,2000,once")
	record, _ = r.record(t, "jo")
	if _, known := record.Seen[protocol.ScheduleSource(once)]; known {
		t.Errorf("marks %v, want none of a schedule that has fired once for all", record.Seen)
	}
}

func TestBellThatRingsAgainAppliesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) { d.request = showLog }))
	cron, life := h.schedule(t, r, "?cron", "tick")
	sequence := r.mail(t, "jo", testProject, firing(cron, life, 1000, "a"))
	r.inboxEmpty(t)
	acked := make(chan string, 8)
	old := protocol.AckPrefix + "test"
	for _, subject := range []string{"elsewhere", old} {
		sub, err := r.nc.Subscribe(subject, func(m *nats.Msg) { acked <- m.Subject + " " + string(m.Data) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	for _, ack := range []string{"elsewhere", old} { // the first would have us publish where we should not
		request, err := json.Marshal(protocol.Request{V: protocol.Version, Bell: &protocol.Bell{Sequence: sequence, Ack: ack}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.nc.Request(agentNamed("jo").RequestSubject(), request, soon); err != nil {
			t.Fatal(err)
		}
		h.expect(t, "/agents/desk/jo", 200, "a") // the bell is dealt with
	}
	select {
	case got := <-acked:
		if got != old+" +ACK" {
			t.Errorf("bells of applied mail were answered by %q, want an ack of the second", got)
		}
	case <-time.After(soon):
		t.Error("bell of applied mail was not acked")
	}
	h.expect(t, "/agents/desk/jo", 200, "a")
}

func TestOwnMailOfUnknownSourceIsDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) { d.request = showLog }))
	cron, life := h.schedule(t, r, "?cron", "tick")
	// The row of a cancelled schedule that a frozen host has put again must not fire for ever.
	zombie := protocol.ScheduleKey("Desk", "jo", "cron-unknown")
	r.put(t, protocol.SchedulesBucket(testProject), zombie, protocol.Schedule{})
	for _, m := range []protocol.Mail{
		firing("cron-unknown", life, 1000, "unknown"),
		firing("9.9.9", life, 1000, "unknown"),
		firing(cron, life+1, 1000, "other life"),
		firing(cron, 0, 1000, "no life"),
	} {
		r.mail(t, "jo", testProject, m)
	}
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "")
	natstest.Eventually(t, soon, "the row of the unknown schedule is gone", func() bool {
		return r.row(t, protocol.SchedulesBucket(testProject), zombie) == nil
	})
	if rows := r.rows(t, protocol.SchedulesBucket(testProject)); len(rows) != 1 {
		t.Errorf("rows %v, want that of the known schedule only", rows)
	}
	if dead := r.rows(t, protocol.DeadBucket(testProject)); len(dead) != 0 {
		t.Errorf("dead letters %v, want none: void mail is dropped", dead)
	}
}

// deadLetters reads all dead letters, by source.
func (r *rig) deadLetters(t *testing.T) map[string]protocol.DeadLetter {
	t.Helper()
	letters := map[string]protocol.DeadLetter{}
	for _, raw := range r.rows(t, protocol.DeadBucket(testProject)) {
		var d protocol.DeadLetter
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		letters[d.Mail.Source] = d
	}
	return letters
}

func TestFailingCallbackBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var mu sync.Mutex
	var attempts []Moment
	var failures []error
	h := r.host(t, desks(func(d *desk) {
		d.request = showLog
		d.ring = func(ctx context.Context, d *desk, text string) error {
			m, _ := Firing(ctx)
			mu.Lock()
			attempts = append(attempts, m)
			mu.Unlock()
			if err := d.Note(ctx, "dropped with the attempt"); err != nil {
				return err
			}
			if text == "panic" {
				panic("boom")
			}
			return errors.New("no luck")
		}
		d.failed = func(ctx context.Context, d *desk, err error) error {
			mu.Lock()
			failures = append(failures, err)
			mu.Unlock()
			return d.Note(ctx, "told")
		}
	}, Retry{BaseDelay: time.Millisecond, MaxDelay: 4 * time.Millisecond}))
	cron, life := h.schedule(t, r, "?cron", "tick")
	failing := firing(cron, life, 1000, "error")
	failing.Callback = "Ring"
	r.mail(t, "jo", testProject, failing)
	r.mail(t, "jo", testProject, firing(cron, life, 2000, "later"))
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "told,later")
	mu.Lock()
	defer mu.Unlock()
	if len(attempts) != 3 || attempts[2].Attempt != 3 || uint64(attempts[0].Planned.UnixMilli()) != numbered(1000) || attempts[0].Schedule != cron {
		t.Errorf("attempts %+v, want three of the firing", attempts)
	}
	var gaveUp *MailError
	if len(failures) != 1 || !errors.As(failures[0], &gaveUp) || gaveUp.Attempts != 3 || gaveUp.Callback != "Ring" {
		t.Errorf("OnError got %v, want one MailError after 3 attempts", failures)
	}
	letter := r.deadLetters(t)[protocol.ScheduleSource(cron)]
	if letter.Attempts != 3 || letter.Error == nil || letter.Error.Message != "no luck" || letter.Mail.Number != numbered(1000) ||
		letter.From != testProject || string(letter.Mail.Payload) != `"error"` {
		t.Errorf("dead letter %+v", letter)
	}
}

func TestFailingLaneHoldsNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = showLog
		d.ring = func(context.Context, *desk, string) error { return errors.New("no luck") }
	}, Retry{BaseDelay: 1000 * time.Hour, MaxDelay: 1000 * time.Hour}))
	cron, life := h.schedule(t, r, "?cron", "tick")
	other, _ := h.schedule(t, r, "", "other")
	failing := firing(cron, life, 1000, "error")
	failing.Callback = "Ring"
	r.mail(t, "jo", testProject, failing)
	r.mail(t, "jo", testProject, firing(cron, life, 2000, "must not overtake"))
	r.mail(t, "jo", testProject, firing(other, life, 2000, "other"))
	r.awaitRecord(t, "jo", "the other schedule has fired", func(p protocol.Record) bool { return len(p.Seen) == 1 })
	h.expect(t, "/agents/desk/jo", 200, "other")
}

func TestMailThatCannotBeAppliedBecomesADeadLetterAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) { d.request = showLog }, Callable((*desk).Note), Renamed("OldNote", (*desk).Note)))
	stranger := func(source, callback, payload string) protocol.Mail {
		return protocol.Mail{Source: source, Number: 1, Callback: callback, Payload: json.RawMessage(payload)}
	}
	r.mail(t, "jo", testProject, stranger("no-method", "Gone", `"x"`))
	r.mail(t, "jo", testProject, stranger("hook", "OnError", `"x"`))
	r.mail(t, "jo", testProject, stranger("payload", "Note", `{"not":"a text"}`))
	r.mail(t, "jo", "other-project", stranger("not-callable", "Ring", `"x"`))
	r.mail(t, "jo", "other-project", stranger("callable", "Note", `"by another project"`))
	r.mail(t, "jo", "other-project", stranger("callable", "Note", `"a copy"`))
	r.mail(t, "jo", testProject, stranger("callable", "OldNote", `"by the same source of this project"`))
	r.mail(t, "jo", "other-project", stranger("schedule/x", "Note", `"no schedule of ours"`))
	if _, err := r.store.Publish(t.Context(), agentNamed("jo").InboxSubject(testProject), nil, []byte("no mail")); err != nil {
		t.Fatal(err)
	}
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "by another project,by the same source of this project,no schedule of ours")
	letters := r.deadLetters(t)
	for source, name := range map[string]string{
		"no-method": "CallbackError", "hook": "CallbackError", "payload": protocol.FailureEncoding,
		"not-callable": "CallbackError", "": "MalformedMailError",
	} {
		if letter, ok := letters[source]; !ok || letter.Error.Name != name {
			t.Errorf("dead letter of %q: %+v, want one because of %s", source, letter, name)
		}
	}
	if got := letters["payload"].Attempts; got != 1 {
		t.Errorf("%d attempts with a payload that no attempt could read, want 1", got)
	}
	if len(letters) != 5 {
		t.Errorf("%d dead letters, want 5: %v", len(letters), letters)
	}
	if got := string(letters[""].Mail.Payload); got != `"no mail"` {
		t.Errorf("payload of a dead letter that was no mail: %s", got)
	}
}

func TestCallbackThatCancelsItsOwnSchedule(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = showLog
		d.ring = func(ctx context.Context, d *desk, _ string) error {
			m, _ := Firing(ctx)
			found, err := CancelSchedule(ctx, m.Schedule)
			if !found || err != nil {
				t.Errorf("CancelSchedule = %v, %v", found, err)
			}
			return d.Note(ctx, "cancelled")
		}
	}))
	cron, life := h.schedule(t, r, "?cron", "tick")
	for number := uint64(1); number <= 3; number++ {
		m := firing(cron, life, number, "x")
		m.Callback = "Ring"
		r.mail(t, "jo", testProject, m)
	}
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "cancelled")
	if record, _ := r.record(t, "jo"); len(record.Seen) != 0 {
		t.Errorf("marks %v, want none", record.Seen)
	}
	if rows := r.rows(t, protocol.SchedulesBucket(testProject)); len(rows) != 0 {
		t.Errorf("rows %v, want none", rows)
	}
}

func TestMailReachesTheOwnerInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := desks(func(d *desk) { d.request = showLog }, IdleAfter(50*time.Millisecond))
	first := r.host(t, classes)
	r.host(t, classes)
	cron, life := first.schedule(t, r, "?cron", "tick")
	var want []string
	for number := uint64(1); number <= 200; number++ {
		text := fmt.Sprint(number)
		want = append(want, text)
		r.mail(t, "jo", testProject, firing(cron, life, number, text))
	}
	r.inboxEmpty(t)
	record, _ := r.record(t, "jo")
	var state deskState
	if err := json.Unmarshal(record.State, &state); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(state.Log, want) {
		t.Errorf("applied %v, want 1 to 200 in order", state.Log)
	}
}

func TestMailOfAKilledHostIsAppliedByTheNext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn := make(chan struct{}, 8)
	first := r.host(t, desks(func(d *desk) {
		d.request = showLog
		d.ring = func(ctx context.Context, _ *desk, _ string) error {
			inTurn <- struct{}{}
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}))
	cron, life := first.schedule(t, r, "?cron", "tick")
	m := firing(cron, life, 1000, "x")
	m.Callback = "Ring"
	r.mail(t, "jo", testProject, m)
	<-inTurn
	second := r.host(t, desks(func(d *desk) {
		d.request = showLog
		d.ring = func(ctx context.Context, d *desk, text string) error { return d.Note(ctx, "second host") }
	}))
	first.kill(t)
	second.expect(t, "/agents/desk/jo", 200, "second host") // it reads its mail when it takes the agent
	record := r.awaitRecord(t, "jo", "the firing is applied", func(p protocol.Record) bool {
		return p.Seen[protocol.ScheduleSource(cron)] == numbered(1000)
	})
	if record.Turn != 2 {
		t.Errorf("%d turns, want 2: the schedule and one firing", record.Turn)
	}
}

func TestMailboxKeepsLanesInOrder(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := newMailbox()
	m.resume([]protocol.Parked{{Sequence: 1, Attempts: 1, NotBefore: now.Add(time.Minute)}, {Sequence: 9}})
	for i, lane := range []string{"a", "a", "b", "c"} {
		m.cursor = uint64(i + 2)
		m.take(&letter{sequence: uint64(i + 1), lane: lane, mail: protocol.Mail{Payload: json.RawMessage("1234")}})
	}
	if m.loaded != 2 || m.bytes != 8 {
		t.Errorf("%d letters of %d bytes are loaded, want two: not those of the lane that waits", m.loaded, m.bytes)
	}
	var order []string
	take := func(now time.Time) {
		l, _ := m.next(now, false)
		order = append(order, fmt.Sprint(l.lane, l.sequence))
		m.settle(l)
	}
	if l, _ := m.next(now, true); l != nil {
		t.Errorf("next = %+v of a stopped mailbox, want nothing that was not tried before", l)
	}
	take(now)
	take(now)
	l, due := m.next(now, false)
	if l != nil || !due.Equal(now.Add(time.Minute)) {
		t.Errorf("next = %+v, %s; want nothing until the parked letter is due", l, due)
	}
	if l, _ := m.next(now.Add(time.Minute), true); l == nil || l.attempts != 1 {
		t.Errorf("next = %+v of a stopped mailbox, want the parked letter", l)
	}
	take(now.Add(time.Minute))
	take(now.Add(time.Minute))
	if want := []string{"b3", "c4", "a1", "a2"}; !reflect.DeepEqual(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if len(m.held) != 0 || len(m.lanes) != 0 || m.loaded != 0 || m.bytes != 0 {
		t.Errorf("mailbox %+v holds something that is settled", m)
	}
	if lost := m.lost(); len(lost) != 0 {
		t.Errorf("%v was lost, want nothing: it may be in the inbox", lost)
	}
	m.cursor = 10
	if lost := m.lost(); !slices.Equal(lost, []uint64{9}) {
		t.Errorf("%v was lost, want 9: it was read over", lost)
	}
}

// TestBellsAreLookedAtOnce: not again with every letter, however many wait behind those that are read. What is rung again for
// mail that was applied is acked at once, what is rung for mail that is no more when that is known.
func TestBellsAreLookedAtOnce(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	acks, err := nc.SubscribeSync(protocol.AckPrefix + ">")
	if err != nil {
		t.Fatal(err)
	}
	m := newMailbox()
	ring := func(sequence uint64, n int) {
		m.ring(protocol.Bell{Sequence: sequence, Ack: fmt.Sprint(protocol.AckPrefix, sequence, ".", n)})
	}
	wantAck := func(sequence uint64, n int) {
		t.Helper()
		got, err := acks.NextMsg(soon)
		if want := fmt.Sprint(protocol.AckPrefix, sequence, ".", n); err != nil || got.Subject != want {
			t.Fatalf("ack %+v, %v; want %s", got, err, want)
		}
	}
	for n := range 2 { // every bell twice
		for sequence := range uint64(1000) {
			ring(sequence+1, n)
		}
	}
	m.cursor = 3
	m.take(&letter{sequence: 2, lane: "a"}) // 1 was applied
	for range 2 {
		if newest := m.newest(nc); newest != 1000 || len(m.fresh) != 0 || len(m.ahead) != 998 {
			t.Errorf("newest is %d; %d bells are to be looked at, and %d when everything is read", newest, len(m.fresh), len(m.ahead))
		}
	}
	wantAck(1, 1)
	m.settle(m.held[2])
	m.ackSettled(nc)
	wantAck(2, 1)
	ring(2, 2)
	m.newest(nc)
	wantAck(2, 2)
	m.cursor = 1001
	m.take(&letter{sequence: 1000, lane: "a"}) // all others are no more
	if newest := m.newest(nc); newest != 0 || len(m.ahead) != 0 || len(m.bells) != 1 {
		t.Errorf("newest is %d; %d bells are ahead, %d are kept, want that of the letter that is held", newest, len(m.ahead), len(m.bells))
	}
	wantAck(3, 1)
}
