package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// follow collects what is told of an instance until that ends.
func (r *rig) follow(i protocol.Instance, after protocol.Cursor) ([]protocol.Notice, error) {
	var all []protocol.Notice
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for n, err := range (Reader{Store: r.store, Project: "p", Shards: 1}).Follow(ctx, i, 0, after) {
		if err != nil {
			return all, err
		}
		all = append(all, n)
	}
	return all, nil
}

func kinds(all []protocol.Notice) string {
	var words []string
	for _, n := range all {
		words = append(words, string(n.Kind))
	}
	return strings.Join(words, " ")
}

// waiting is an instance that has run its steps and waits for an event, with what is told of that.
func (r *rig) waiting(runner *Runner, i protocol.Instance) (told []protocol.Notice) {
	r.t.Helper()
	r.begun(i, protocol.StateWaiting)
	for n, err := range runner.Follow(r.t.Context(), i, 0, protocol.Cursor{}) {
		if err != nil {
			r.t.Fatal(err)
		}
		if told = append(told, n); n.Kind == protocol.NoticeWaiting {
			break
		}
	}
	return told
}

// takeOver does to an instance what log cleaning does: its create is published again, and the log before the newest entry,
// cut, is purged when the snapshot is there.
func (r *rig) takeOver(i protocol.Instance) (cut, snapshot uint64) {
	r.t.Helper()
	r.control(i, protocol.Control{Input: "compact", Action: protocol.ActionCompact})
	r.until(i, "has a snapshot", func(protocol.Status) bool {
		return slices.ContainsFunc(r.entries(i), func(e protocol.Entry) bool { return e.Kind == protocol.EntrySnapshot })
	})
	log := r.log(i)
	cut, snapshot = log[len(log)-2].sequence, log[len(log)-1].sequence
	m, err := r.store.Last(r.t.Context(), i.Stream(), i.CreateSubject())
	var c protocol.Create
	if err == nil {
		err = json.Unmarshal(m.Data, &c)
	}
	if err == nil {
		c.Carried = m.Sequence
		_, err = r.store.Append(r.t.Context(), i.Stream(), i.CreateSubject(), m.Sequence, r.json(c))
	}
	if err == nil {
		err = r.store.Purge(r.t.Context(), protocol.WorkflowsStream("p", 0), protocol.WorkflowSubjects("p"), cut)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return cut, snapshot
}

// TestFollowWhatWasCleaned: who comes later is told that something is missing, who was there before goes on without it,
// and both are told the same of what follows.
func TestFollowWhatWasCleaned(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner()
	r.serve(runner)
	i := at("waits", "a")
	whole := r.waiting(runner, i)
	cut, snapshot := r.takeOver(i)
	r.send(i, "go")
	r.reaches(i, protocol.StateComplete)
	late, err := r.follow(i, protocol.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	if got := kinds(late); got != "queued cleaned running wait-ended completed" {
		t.Fatalf("told is %s", got)
	}
	if c := late[1]; c.State != protocol.StateWaiting || c.Cursor != (protocol.Cursor{Sequence: snapshot}) {
		t.Errorf("what was cleaned away is told as %+v", c)
	}
	if late[0].Cursor != whole[0].Cursor || !late[0].Time.Equal(whole[0].Time) {
		t.Errorf("the create is told as %+v, before as %+v", late[0], whole[0])
	}
	last := whole[len(whole)-1].Cursor
	if last.Sequence != cut {
		t.Fatalf("the newest cursor is %v, the log goes to %d", last, cut)
	}
	for _, row := range []struct {
		after protocol.Cursor
		want  []protocol.Notice
	}{
		{last, late[2:]},
		{whole[len(whole)-2].Cursor, late[1:]},
		{protocol.Cursor{Sequence: snapshot}, late[2:]},
		{late[2].Cursor, late[3:]},
	} {
		got, err := r.follow(i, row.after)
		if err != nil || kinds(got) != kinds(row.want) || got[len(got)-1].Cursor != late[len(late)-1].Cursor {
			t.Errorf("after %v, told is %s, %v, want %s", row.after, kinds(got), err, kinds(row.want))
		}
	}
}

// TestFollowWhileItIsCleaned: a follower that has not read what is cleaned away meanwhile says so, and one that has does not.
func TestFollowWhileItIsCleaned(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner()
	r.serve(runner)
	i := at("waits", "a")
	whole := r.waiting(runner, i)
	var followers []*follower
	for _, after := range []protocol.Cursor{{}, whole[3].Cursor, whole[len(whole)-1].Cursor} {
		f, err := runner.follower(t.Context(), i, 0, after)
		if err != nil {
			t.Fatal(err)
		}
		followers = append(followers, f)
	}
	old := followers[2]
	if told, err := old.next(t.Context()); err != nil || len(told) > 0 {
		t.Fatalf("told is %s, %v", kinds(told), err)
	}
	old.newest = old.newest.Add(-2 * safeAge)
	r.takeOver(i)
	r.send(i, "go")
	r.reaches(i, protocol.StateComplete)
	for n, want := range []string{"queued cleaned running wait-ended completed", "cleaned running wait-ended completed", "running wait-ended completed"} {
		var all []protocol.Notice
		for f := followers[n]; !f.ended; {
			told, err := f.next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, told...)
		}
		if got := kinds(all); got != want {
			t.Errorf("told is %s, want %s", got, want)
		}
	}
}

// TestFollowWithoutTheCreate: an instance that was cleaned away while somebody follows it is gone.
func TestFollowWithoutTheCreate(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i := r.create(at("waits", "a"))
	f, err := (Reader{Store: r.store, Project: "p", Shards: 1}).follower(t.Context(), i, 0, protocol.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	if told, err := f.next(t.Context()); err != nil || kinds(told) != "queued" {
		t.Fatalf("told is %s, %v", kinds(told), err)
	}
	if err := r.store.Purge(t.Context(), i.Stream(), i.InputsSubject(), 100); err != nil {
		t.Fatal(err)
	}
	f.found = f.found.Add(-2 * maxPoll)
	if _, err := f.next(t.Context()); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
}

// TestFollowAnotherOfTheSameID: who follows an instance is told of its end, and nothing of the next one that has the id.
func TestFollowAnotherOfTheSameID(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner()
	r.serve(runner)
	i := r.begun(at("waits", "a"), protocol.StateWaiting)
	f, err := runner.follower(t.Context(), i, 0, protocol.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.next(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.control(i, protocol.Control{Input: "1", Action: protocol.ActionDelete})
	natstest.Eventually(t, patience, "the instance is gone", func() bool {
		_, err := r.store.Last(t.Context(), i.Stream(), i.CreateSubject())
		return errors.Is(err, journal.ErrNotFound)
	})
	r.begun(i, protocol.StateWaiting)
	told, err := f.next(t.Context())
	if err != nil || kinds(told) != "deleted" || !f.ended {
		t.Errorf("told is %s, %v, ended %v", kinds(told), err, f.ended)
	}
	if _, err := runner.follower(t.Context(), i, f.teller.History().Incarnation, protocol.Cursor{}); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("looked for again: %v", err)
	}
}

// TestRefusedAppendsAreNotTold: what is published to a log and not stored is heard by whoever listens, and told to nobody.
func TestRefusedAppendsAreNotTold(t *testing.T) {
	t.Parallel()
	r := setup(t)
	i := r.create(at("waits", "a"))
	key := protocol.Key{Op: protocol.OpDo, Name: "a", Count: 1}
	step := func(name string) protocol.Entry {
		k := key
		k.Name = name
		return protocol.Entry{Kind: protocol.EntryStepCompleted, Step: &k}
	}
	r.beginLog(i, step("first"))
	first := r.tail(i).sequence
	var mu sync.Mutex
	var names []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n, err := range (Reader{Store: r.store, Project: "p", Shards: 1}).Follow(t.Context(), i, 0, protocol.Cursor{}) {
			if err != nil {
				t.Error(err)
				return
			}
			if n.Kind == protocol.NoticeStepCompleted {
				mu.Lock()
				names = append(names, n.Step.Name)
				mu.Unlock()
			}
		}
	}()
	heard, err := r.nc.SubscribeSync(i.LogSubject())
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		refused := nats.NewMsg(i.LogSubject())
		refused.Header.Set(protocol.HeaderExpectedSubjectSequence, fmt.Sprint(first+1000))
		a := r.tail(i).Append
		a.ID, a.Entries = fmt.Sprint("refused ", n), []protocol.Entry{step("refused")}
		refused.Data = r.json(a)
		if err := r.nc.PublishMsg(refused); err != nil {
			t.Fatal(err)
		}
		if _, err := heard.NextMsg(patience); err != nil {
			t.Fatalf("the refused message is not heard: %v", err)
		}
		r.append(i, step(fmt.Sprint(n)))
		if _, err := heard.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	r.append(i, protocol.Entry{Kind: protocol.EntryCompleted})
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the end is not told")
	}
	if len(names) != 21 || slices.Contains(names, "refused") {
		t.Errorf("told is %v", names)
	}
}

// TestFollowInPages: answers have a size, whatever an instance has to tell, and go on where the last one ended, at the
// runner that gave it and at any other.
func TestFollowInPages(t *testing.T) {
	t.Parallel()
	r := setup(t)
	one, other := r.runner(), r.runner()
	for _, runner := range []*Runner{one, other} {
		ctx, stop := context.WithCancel(t.Context())
		t.Cleanup(stop)
		runner.stopping = ctx
	}
	i := r.create(at("waits", "a"))
	large, err := json.Marshal(strings.Repeat("x", 100<<10))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		key := protocol.Key{Op: protocol.OpDo, Name: fmt.Sprint(n), Count: 1}
		e := protocol.Entry{Kind: protocol.EntryStepCompleted, Step: &key, Attempt: 1, Result: large}
		if n == 0 {
			r.beginLog(i, e)
			continue
		}
		r.append(i, e)
	}
	r.append(i, protocol.Entry{Kind: protocol.EntryCompleted})
	want, err := r.follow(i, protocol.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	ask := protocol.Ask{V: 1, Workflow: i.Workflow, ID: i.ID, Follow: &protocol.Following{}}
	var got []protocol.Notice
	pages := 0
	for end := false; !end && pages < 100; pages++ {
		from := one
		if pages%3 == 2 {
			from = other
		}
		answer := from.tellMore(t.Context(), ask)
		body, err := fit(answer)
		if err != nil || len(body) > maxAnswer || answer.Notices == nil {
			t.Fatalf("an answer of %d bytes: %v, %v", len(body), err, answer.Error)
		}
		page := answer.Notices
		got, end = append(got, page.Notices...), page.End
		ask.Follow = &protocol.Following{Incarnation: page.Incarnation, After: page.Cursor}
	}
	if kinds(got) != kinds(want) || pages < 4 {
		t.Errorf("in %d pages, told is %s, want %s", pages, kinds(got), kinds(want))
	}
	for n := 1; n < len(got); n++ {
		if got[n].Cursor.Compare(got[n-1].Cursor) <= 0 {
			t.Errorf("notice %d has cursor %v after %v", n, got[n].Cursor, got[n-1].Cursor)
		}
	}
	if n := len(one.following.idle.kept); n > maxIdle {
		t.Errorf("%d followers are kept", n)
	}
}

// TestFollowersAreKeptForAWhile: not more of them than there is room for, and the newest.
func TestFollowersAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	var f following
	name := func(n int) followed { return followed{instance: at("waits", fmt.Sprint(n))} }
	for n := range 2 * maxIdle {
		f.put(name(n), &follower{})
	}
	if len(f.idle.kept) != maxIdle || f.take(name(2*maxIdle-1)) == nil || f.take(name(0)) != nil {
		t.Errorf("%d are kept", len(f.idle.kept))
	}
	for key, kept := range f.idle.kept {
		kept.at = kept.at.Add(-2 * keepIdle)
		f.idle.kept[key] = kept
	}
	if f.put(name(0), &follower{}); len(f.idle.kept) != 1 {
		t.Errorf("%d are kept after a while", len(f.idle.kept))
	}
}
