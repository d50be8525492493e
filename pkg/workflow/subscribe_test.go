package workflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// journey has one of each: a step that fails once, one that is sensitive, one whose result is large, a sleep, an event,
// an event that does not come, a call and two branches.
func journey(ctx context.Context, e Event[int]) (string, error) {
	if err := Exec(ctx, "flaky", func(ctx context.Context) error {
		if Step(ctx).Number == 1 {
			return errors.New("not yet")
		}
		return nil
	}, Retries(2, time.Millisecond, Constant)); err != nil {
		return "", err
	}
	if _, err := Do(ctx, "secret", func(context.Context) (string, error) { return "hunter2", nil }, Sensitive()); err != nil {
		return "", err
	}
	if _, err := Do(ctx, "large", func(context.Context) (string, error) { return strings.Repeat("x", 200<<10), nil }); err != nil {
		return "", err
	}
	if err := Sleep(ctx, "nap", 10*time.Millisecond); err != nil {
		return "", err
	}
	paid, err := WaitForEvent[string](ctx, "money", "paid")
	if err != nil {
		return "", err
	}
	if _, err := WaitForEvent[string](ctx, "more", "more", Timeout(time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		return "", err
	}
	return paid.Payload, nil
}

// journeyKinds is what a subscriber is told of a journey, without runs and waits in between.
var journeyKinds = []NoticeKind{
	NoticeQueued, NoticeStarted,
	NoticeStepStarted, NoticeAttemptStarted, NoticeAttemptFailed, NoticeAttemptStarted, NoticeAttemptCompleted, NoticeStepCompleted,
	NoticeStepStarted, NoticeAttemptStarted, NoticeAttemptCompleted, NoticeStepCompleted,
	NoticeStepStarted, NoticeAttemptStarted, NoticeAttemptCompleted, NoticeStepCompleted,
	NoticeSleepStarted, NoticeSleepEnded, NoticeWaitStarted, NoticeWaitEnded, NoticeWaitStarted, NoticeWaitTimedOut, NoticeCompleted,
}

// travel serves journeys as workflow "w" of project p.
func travel(t *testing.T) (b *bench, own Bound[int, string]) {
	t.Helper()
	b = setup(t)
	b.register(map[string]string{"w": "w"})
	b.serve(parks(), Define("w", journey))
	return b, Bind[int, string]("w").In(b.open("p", project.Workflow{Name: "w", ClassName: "w"}))
}

// foreign is the same from another project.
func (b *bench) foreign() Bound[int, string] {
	return Bind[int, string]("w").In(b.open("client", project.Workflow{Name: "w", ClassName: "w", ScriptName: "p"}))
}

// heard collects what a subscription tells, in the background. The notices so far are with all, the error with err.
type heard struct {
	t    testing.TB
	done chan struct{}

	mu  sync.Mutex
	all []Notice
	err error
}

func listen(t testing.TB, seq iter.Seq2[Notice, error]) *heard {
	h := &heard{t: t, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		for n, err := range seq {
			h.mu.Lock()
			if err != nil {
				h.err = err
			} else {
				h.all = append(h.all, n)
			}
			h.mu.Unlock()
		}
	}()
	return h
}

func (h *heard) kinds() []NoticeKind {
	h.mu.Lock()
	defer h.mu.Unlock()
	return kindsOf(h.all)
}

func kindsOf(all []Notice) []NoticeKind {
	var kinds []NoticeKind
	for _, n := range all {
		kinds = append(kinds, n.Kind)
	}
	return kinds
}

func (h *heard) reaches(kind NoticeKind) {
	h.t.Helper()
	natstest.Eventually(h.t, natstest.Patience, fmt.Sprintf("%s is told", kind), func() bool { return slices.Contains(h.kinds(), kind) })
}

// end waits for the end of the subscription and returns what was told. The cursors must rise.
func (h *heard) end() ([]Notice, error) {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(natstest.Patience):
		h.t.Fatalf("the subscription does not end; told is %v", h.kinds())
	}
	for i, n := range h.all {
		if i > 0 && n.Cursor.Compare(h.all[i-1].Cursor) <= 0 {
			h.t.Errorf("notice %d has cursor %v after %v", i, n.Cursor, h.all[i-1].Cursor)
		}
	}
	return h.all, h.err
}

// whole is end for a subscription that ends with its instance.
func (h *heard) whole() []Notice {
	h.t.Helper()
	all, err := h.end()
	if err != nil {
		h.t.Fatalf("the subscription ends with %v after %v", err, kindsOf(all))
	}
	return all
}

// without leaves out kinds.
func without(all []Notice, kinds ...NoticeKind) []Notice {
	return slices.DeleteFunc(slices.Clone(all), func(n Notice) bool { return slices.Contains(kinds, n.Kind) })
}

func sameNotices(t *testing.T, what string, got, want []Notice) {
	t.Helper()
	g, _ := json.MarshalIndent(got, "", " ")
	w, _ := json.MarshalIndent(want, "", " ")
	if len(got)+len(want) > 0 && !bytes.Equal(g, w) {
		t.Errorf("%s:\n%s\nwant\n%s", what, g, w)
	}
}

// TestSubscribe: who is there from the beginning, who comes in the middle, who comes after the end and who is of another
// project are told the same; a cursor goes on where it was, and a filter leaves out the rest.
func TestSubscribe(t *testing.T) {
	t.Parallel()
	b, own := travel(t)
	instance, err := own.Create(t.Context(), 7, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := b.foreign().Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	live, abroad := listen(t, instance.Subscribe(t.Context())), listen(t, theirs.Subscribe(t.Context()))
	live.reaches(NoticeWaiting)
	live.reaches(NoticeWaitStarted)
	middle := listen(t, instance.Subscribe(t.Context()))
	if err := instance.SendEvent(t.Context(), "paid", "gold"); err != nil {
		t.Fatal(err)
	}
	all := live.whole()
	if got := kindsOf(without(all, NoticeRunning, NoticeWaiting)); !slices.Equal(got, journeyKinds) {
		t.Errorf("told is\n%q, want\n%q", got, journeyKinds)
	}
	sameNotices(t, "told from the middle on", middle.whole(), all)
	sameNotices(t, "told to another project", abroad.whole(), all)
	sameNotices(t, "told after the end", listen(t, instance.Subscribe(t.Context())).whole(), all)
	sameNotices(t, "told to another project after the end", listen(t, theirs.Subscribe(t.Context())).whole(), all)
	for i, n := range all {
		raw, err := json.Marshal(n.Cursor)
		var back Cursor
		if err == nil {
			err = json.Unmarshal(raw, &back)
		}
		if err != nil || back != n.Cursor {
			t.Fatalf("cursor %v, stored and read, is %v, %v", n.Cursor, back, err)
		}
		from := instance
		if i%5 == 0 {
			from = theirs
		}
		sameNotices(t, fmt.Sprintf("told after notice %d", i), listen(t, from.Subscribe(t.Context(), After(back))).whole(), all[i+1:])
	}
	for _, from := range []*Instance[string]{instance, theirs} {
		steps := listen(t, from.Subscribe(t.Context(), Only(NoticeStepCompleted), Only(NoticeSleepEnded))).whole()
		if got := kindsOf(steps); !slices.Equal(got, []NoticeKind{NoticeStepCompleted, NoticeStepCompleted, NoticeStepCompleted, NoticeSleepEnded}) {
			t.Errorf("with a filter, told is %q", got)
		}
	}
	checkJourney(t, all)
}

// checkJourney looks at what the notices say.
func checkJourney(t *testing.T, all []Notice) {
	t.Helper()
	if raw, _ := json.Marshal(all); strings.Contains(string(raw), "hunter2") {
		t.Error("a sensitive result is told")
	}
	find := func(kind NoticeKind, step string) Notice {
		t.Helper()
		i := slices.IndexFunc(all, func(n Notice) bool { return n.Kind == kind && (n.Step == nil || n.Step.Name == step) })
		if i < 0 {
			t.Fatalf("no notice of %s %s", kind, step)
		}
		return all[i]
	}
	if n := find(NoticeQueued, ""); string(n.Value) != "7" {
		t.Errorf("params are told as %s", n.Value)
	}
	if n := find(NoticeAttemptFailed, "flaky"); n.Error == nil || n.Error.Message != "not yet" || n.Attempt != 1 || n.Until == nil || n.Runner == "" {
		t.Errorf("the failed attempt is told as %+v", n)
	}
	if n := find(NoticeStepStarted, "flaky"); n.Config == nil || n.Config.Retries != 2 {
		t.Errorf("the start of the step is told as %+v", n)
	}
	if n := find(NoticeStepCompleted, "secret"); string(n.Value) != protocol.Redacted {
		t.Errorf("the sensitive result is told as %s", n.Value)
	}
	if n := find(NoticeStepCompleted, "large"); n.Value != nil || n.Object == nil || n.Object.Size < 200<<10 {
		t.Errorf("the large result is told as %.80s, %+v", n.Value, n.Object)
	}
	if n := find(NoticeWaitEnded, "money"); string(n.Value) != `"gold"` || n.Type != "paid" {
		t.Errorf("the event is told as %+v", n)
	}
	if n := find(NoticeWaitTimedOut, "more"); n.Error == nil || n.Error.Name != protocol.FailureTimeout {
		t.Errorf("the time-out is told as %+v", n)
	}
	if n := find(NoticeCompleted, ""); string(n.Value) != `"gold"` {
		t.Errorf("the end is told as %+v", n)
	}
}

// TestSubscribeEnds: with the loop, with its context, and where it has no place.
func TestSubscribeEnds(t *testing.T) {
	t.Parallel()
	b, own := travel(t)
	instance, err := own.Create(t.Context(), 7, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := b.foreign().Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	for name, from := range map[string]*Instance[string]{"own": instance, "foreign": theirs} {
		n := 0
		for range from.Subscribe(t.Context()) {
			if n++; n == 3 {
				break
			}
		}
		if n != 3 {
			t.Errorf("%s: the loop ran %d times", name, n)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		h := listen(t, from.Subscribe(ctx))
		h.reaches(NoticeWaitStarted)
		cancel(gone)
		if _, err := h.end(); !errors.Is(err, gone) {
			t.Errorf("%s: the error is %v", name, err)
		}
		if _, err := listen(t, from.Subscribe(t.Context(), Only("step-done"))).end(); !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), `Only is step-done`) {
			t.Errorf("%s: of an unknown kind the error is %v", name, err)
		}
		ghost := *from.handle("ghost")
		if all, err := listen(t, ghost.Subscribe(t.Context())).end(); !errors.Is(err, ErrNotFound) || len(all) > 0 {
			t.Errorf("%s: of an instance that is not there, told is %v, %v", name, all, err)
		}
	}
}

// handle is one to another id.
func (i *Instance[R]) handle(id string) *Instance[R] {
	other := &Instance[R]{at: i.at, project: i.project, reader: i.reader}
	other.at.ID = id
	return other
}

// TestSubscribeThroughControls: a pause that lets a body finish, a restart of what runs and of what has ended, and a
// delete are told to whoever is there.
func TestSubscribeThroughControls(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.hearing = natstest.Patience // however slow the machine is, who executes is heard
	b.register(map[string]string{"w": "w"})
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
		n, err := Do(ctx, "work", func(ctx context.Context) (int, error) {
			entered <- struct{}{}
			select {
			case <-leave:
				return 1, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		})
		if err != nil {
			return n, err
		}
		_, err = WaitForEvent[int](ctx, "go", "go") // so that the pause comes before the end
		return n, err
	}))
	own := Bind[int, string]("w").In(b.open("p", project.Workflow{Name: "w", ClassName: "w"}))
	instance, err := own.Create(t.Context(), 1, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := b.foreign().Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first, abroad := listen(t, instance.Subscribe(t.Context())), listen(t, theirs.Subscribe(t.Context()))
	<-entered
	do(instance.Pause(t.Context()))
	first.reaches(NoticeWaitingForPause)
	leave <- struct{}{}
	first.reaches(NoticePaused)
	do(instance.Restart(t.Context()))
	<-entered
	leave <- struct{}{}
	do(instance.SendEvent(t.Context(), "go", 1))
	sameNotices(t, "told to another project", abroad.whole(), first.whole())
	want := []NoticeKind{
		NoticeQueued, NoticeStarted, NoticeRunning, NoticeStepStarted, NoticeAttemptStarted, NoticeWaitingForPause,
		NoticeAttemptCompleted, NoticeStepCompleted, NoticePaused, NoticeRestarted, NoticeRunning,
		NoticeStepStarted, NoticeAttemptStarted, NoticeAttemptCompleted, NoticeStepCompleted, NoticeWaitEnded, NoticeCompleted,
	}
	parks := func(n Notice) bool { return n.Kind == NoticeWaiting || n.Kind == NoticeWaitStarted }
	got := kindsOf(slices.DeleteFunc(slices.Clone(first.all), parks))
	if n := len(got); n > 4 && got[n-3] == NoticeRunning { // it was parked when the event came
		got = slices.Delete(got, n-3, n-2)
	}
	if !slices.Equal(got, want) {
		t.Errorf("told is\n%q, want\n%q", got, want)
	}
	// What has ended and was told to begin again has not ended: also if nobody has obeyed yet.
	do(instance.Restart(t.Context(), FromStep(StepDo, "work", 1)))
	again := listen(t, instance.Subscribe(t.Context(), After(first.all[len(first.all)-1].Cursor)))
	<-entered
	again.reaches(NoticeAttemptStarted)
	do(instance.Delete(t.Context()))
	last := again.whole()
	if got := kindsOf(last); !slices.Equal(got, []NoticeKind{NoticeRestarted, NoticeRunning, NoticeStepStarted, NoticeAttemptStarted, NoticeDeleted}) {
		t.Errorf("told is %q", got)
	}
	if last[0].Step == nil || last[0].Step.Name != "work" {
		t.Errorf("the restart is told as %+v", last[0])
	}
	natstest.Eventually(t, natstest.Patience, "the instance is gone", func() bool {
		_, err := own.Get(t.Context(), "a")
		return errors.Is(err, ErrNotFound)
	})
	if _, err := listen(t, instance.Subscribe(t.Context())).end(); !errors.Is(err, ErrNotFound) {
		t.Errorf("of an instance that is gone: %v", err)
	}
	if got, err := listen(t, instance.Subscribe(t.Context(), After(last[3].Cursor))).end(); err != nil || len(got) != 1 || got[0].Kind != NoticeDeleted {
		t.Errorf("told to who was there before the delete: %v, %v", kindsOf(got), err)
	}
}

// TestSubscribeThroughRunners: runners that stop, and a time without one, lose and double nothing.
func TestSubscribeThroughRunners(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.register(map[string]string{"w": "w"})
	code := Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
		for n := range 40 {
			if n%10 == 9 {
				if err := Sleep(ctx, "nap", 5*time.Millisecond); err != nil {
					return 0, err
				}
			}
			if err := Exec(ctx, "work", func(context.Context) error { return nil }); err != nil {
				return 0, err
			}
		}
		_, err := WaitForEvent[int](ctx, "go", "go")
		return 1, err
	})
	stop := b.serve(parks(), code)
	own := Bind[int, string]("w").In(b.open("p", project.Workflow{Name: "w", ClassName: "w"}))
	instance, err := own.Create(t.Context(), 1, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := b.foreign().Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	live, abroad := listen(t, instance.Subscribe(t.Context())), listen(t, theirs.Subscribe(t.Context()))
	abroad.reaches(NoticeWaitStarted)
	stop()
	if err := instance.SendEvent(t.Context(), "go", 1); err != nil {
		t.Fatal(err)
	}
	b.serve(parks(), code)
	all := live.whole()
	sameNotices(t, "told to another project", abroad.whole(), all)
	sameNotices(t, "told after the end", listen(t, instance.Subscribe(t.Context())).whole(), all)
	count := map[NoticeKind]int{}
	for _, n := range all {
		count[n.Kind]++
	}
	if count[NoticeStepCompleted] != 40 || count[NoticeStepStarted] != 40 || count[NoticeSleepEnded] != 4 || count[NoticeStarted] != 1 {
		t.Errorf("told is %v", count)
	}
}

// TestSubscribeWithoutARunner: a project reads its own logs itself; what another project's instance does, nobody tells.
func TestSubscribeWithoutARunner(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	instance, incarnation := d.make("a")
	h := listen(t, instance.Subscribe(t.Context()))
	h.reaches(NoticeQueued)
	wake := protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: incarnation}
	d.put(d.instance("w", "a").LogSubject(), protocol.Append{
		V: 1, ID: "x", Incarnation: incarnation, Holder: wake, Time: time.Now(), Entries: []protocol.Entry{{Kind: protocol.EntryCompleted}},
	})
	if got := kindsOf(h.whole()); !slices.Equal(got, []NoticeKind{NoticeQueued, NoticeStarted, NoticeRunning, NoticeCompleted}) {
		t.Errorf("told is %q", got)
	}
}
