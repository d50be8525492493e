package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func listedIDs[P, R any](t *testing.T, b Bound[P, R], options ...ListOption) (all []string) {
	t.Helper()
	for s, err := range b.List(t.Context(), options...) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s.ID)
	}
	return all
}

// stand appends to the log of an instance what makes it stand as it shall.
func (d *desk) stand(id string, entries ...protocol.Entry) {
	d.t.Helper()
	instance, err := d.bound().Get(d.t.Context(), id)
	if err != nil {
		d.t.Fatal(err)
	}
	wake := protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: instance.incarnation}
	d.put(d.instance("w", id).LogSubject(), protocol.Append{
		V: 1, ID: id, Incarnation: instance.incarnation, Holder: wake, Runner: "r", Time: time.Now(), Entries: entries,
	})
}

// zoo has an instance in each state that is listed, and some that are not there.
func (d *desk) zoo() (ids []string) {
	d.t.Helper()
	wait := []protocol.Wait{{Key: protocol.Key{Op: protocol.OpEvent, Name: "e", Count: 1}, Type: "e"}}
	key := protocol.Key{Op: protocol.OpDo, Name: "s", Count: 1}
	for _, row := range []struct {
		id string
		protocol.Entry
	}{
		{"queued", protocol.Entry{}}, {"running", protocol.Entry{Kind: protocol.EntryStarted, Step: &key, Attempt: 1}},
		{"expired", protocol.Entry{Kind: protocol.EntryCompleted, Expires: past()}},
		{"waiting", protocol.Entry{Kind: protocol.EntryParked, Waits: wait}}, {"paused", protocol.Entry{Kind: protocol.EntryPaused}},
		{"deleted", protocol.Entry{Kind: protocol.EntryDeleted}},
		{"held", protocol.Entry{Kind: protocol.EntryHeld}}, {"complete", protocol.Entry{Kind: protocol.EntryCompleted}},
		{"errored", protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Name: "E", Message: "no"}}},
		{"terminated", protocol.Entry{Kind: protocol.EntryTerminated}},
	} {
		d.make(row.id)
		if row.Kind != "" {
			d.stand(row.id, row.Entry)
		}
		if row.id != "expired" && row.id != "deleted" {
			ids = append(ids, row.id)
		}
	}
	return ids
}

func TestList(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	if got := listedIDs(t, d.bound()); len(got) != 0 {
		t.Errorf("of a workflow without instances, listed is %q", got)
	}
	want := d.zoo()
	if got := listedIDs(t, d.bound()); !slices.Equal(got, want) {
		t.Errorf("listed is\n%q, want\n%q", got, want)
	}
	for s, err := range d.bound().List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if string(s.State) != s.ID || s.Workflow != "w" || s.Source.Kind != "program" || s.Steps != nil {
			t.Errorf("listed is %+v", s)
		}
		if got := listedIDs(t, d.bound(), States(s.State)); !slices.Equal(got, []string{s.ID}) {
			t.Errorf("with state %s, listed is %q", s.State, got)
		}
		at := slices.Index(want, s.ID)
		if at%3 != 0 {
			continue
		}
		if got := listedIDs(t, d.bound(), ListAfter(s.Cursor)); !slices.Equal(got, want[at+1:]) {
			t.Errorf("after %s, listed is %q", s.ID, got)
		}
		if got := listedIDs(t, d.bound(), CreatedFrom(s.Created)); !slices.Equal(got, want[at:]) {
			t.Errorf("created from %s on is %q", s.ID, got)
		}
		if got := listedIDs(t, d.bound(), CreatedBefore(s.Created)); !slices.Equal(got, want[:at]) {
			t.Errorf("created before %s is %q", s.ID, got)
		}
	}
	if got := listedIDs(t, d.bound(), States(Complete), States(Errored, Queued)); !slices.Equal(got, []string{"queued", "complete", "errored"}) {
		t.Errorf("listed is %q", got)
	}
	n := 0
	for range d.bound().List(t.Context()) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("the loop ran %d times", n)
	}
}

// TestListMany: in pages, in order, each once, whatever is created or carried forward meanwhile.
func TestListMany(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	var want []string
	for round := range 2 {
		batch, err := d.bound().CreateBatch(t.Context(), numbered(MaxBatch, ids(fmt.Sprint("r", round, "-"))))
		if err != nil || batch.Err() != nil {
			t.Fatal(err, batch.Err())
		}
		for _, o := range batch {
			want = append(want, o.ID)
		}
	}
	slices.Sort(want)
	var got []string
	for s, err := range d.bound().List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, s.ID); len(got) == 5 {
			d.make("new")
			for _, id := range []string{got[0], want[len(want)-1]} { // one that was listed, and maybe one that was not
				d.carry(id)
			}
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("listed are %d, want %d", len(got), len(want))
	}
}

// carry publishes the create of an instance again, as log cleaning does, and removes the old one.
func (d *desk) carry(id string) {
	d.t.Helper()
	var c protocol.Create
	at, _ := d.last(d.instance("w", id).CreateSubject(), &c)
	c.Carried = at
	body, err := json.Marshal(c)
	if err == nil {
		_, err = d.store.Append(d.t.Context(), d.instance("w", id).Stream(), d.instance("w", id).CreateSubject(), at, body)
	}
	if err == nil {
		err = d.store.Purge(d.t.Context(), d.instance("w", id).Stream(), d.instance("w", id).CreateSubject(), at+1)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func TestRefusedLists(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	d.make("a")
	client := d.open("client", project.Workflow{Name: "w", ClassName: "W", ScriptName: "p"})
	foreign := Bind[int, int]("w").In(client)
	before := d.stored()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	all := func(ctx context.Context, b Bound[int, int], options ...ListOption) map[string]error {
		errs := map[string]error{}
		for _, err := range b.List(ctx, options...) {
			errs["List"] = err
		}
		for _, err := range b.DeleteAll(ctx, options...) {
			errs["DeleteAll"] = err
		}
		var terminate []TerminateAllOption
		for _, o := range options {
			terminate = append(terminate, o)
		}
		for _, err := range b.TerminateAll(ctx, terminate...) {
			errs["TerminateAll"] = err
		}
		return errs
	}
	for name, row := range map[string]struct {
		ctx     context.Context
		bound   Bound[int, int]
		options []ListOption
		want    error
	}{
		"foreign": {t.Context(), foreign, nil, ErrNotOwner},
		"state":   {t.Context(), d.bound(), []ListOption{States(RollingBack)}, ErrOption},
		"context": {ctx, d.bound(), nil, gone},
	} {
		errs := all(row.ctx, row.bound, row.options...)
		for _, call := range []string{"List", "DeleteAll", "TerminateAll"} {
			if !errors.Is(errs[call], row.want) {
				t.Errorf("%s: %s ends with %v", name, call, errs[call])
			}
		}
	}
	if d.stored() != before {
		t.Error("something is stored")
	}
}

// TestSteerAll: what is listed is steered, and told; a second run goes on, a loop that stops stops it.
func TestSteerAll(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	d.zoo()
	steered := func(all func(func(Steered, error) bool)) (ids []string) {
		t.Helper()
		for s, err := range all {
			if err != nil || s.Err != nil || s.Cursor == 0 {
				t.Fatal(s, err)
			}
			ids = append(ids, s.ID)
		}
		return ids
	}
	if got := steered(d.bound().TerminateAll(t.Context(), States(Paused, Held), RollbackFirst())); !slices.Equal(got, []string{"paused", "held"}) {
		t.Errorf("terminated are %q", got)
	}
	if c, _ := d.control("held"); c.Action != protocol.ActionTerminate || !c.Rollback || c.Incarnation == 0 {
		t.Errorf("what is held was sent %+v", c)
	}
	open := []string{"queued", "running", "waiting", "paused", "held"}
	for range 2 {
		if got := steered(d.bound().TerminateAll(t.Context())); !slices.Equal(got, open) {
			t.Errorf("terminated are %q", got)
		}
	}
	if got := steered(d.bound().DeleteAll(t.Context(), States(Errored, Complete))); !slices.Equal(got, []string{"complete", "errored"}) {
		t.Errorf("deleted are %q", got)
	}
	for s := range d.bound().TerminateAll(t.Context(), States(Complete)) {
		if _, at := d.control("complete"); at == 0 || s.ID != "complete" { // it was told to be deleted, and has not ended by itself
			t.Errorf("terminated is %+v", s)
		}
	}
}

// TestTerminateAllEndsAll: with runners, more than are steered at a time, and as often as it is done.
func TestTerminateAllEndsAll(t *testing.T) {
	t.Parallel()
	b, own := waits(t)
	const n = MaxBatch + 5
	batch, err := own.CreateBatch(t.Context(), numbered(MaxBatch, ids("a")))
	more, err2 := own.CreateBatch(t.Context(), numbered(n-MaxBatch, ids("b")))
	if err := errors.Join(err, err2, batch.Err(), more.Err()); err != nil {
		t.Fatal(err)
	}
	told := 0
	for s, err := range own.TerminateAll(t.Context()) {
		if err != nil || s.Err != nil {
			t.Fatal(s.Err, err)
		}
		told++
	}
	if told != n {
		t.Errorf("%d were told, want %d", told, n)
	}
	for _, i := range append(batch.Instances(), more.Instances()...) {
		if _, err := i.Result(t.Context()); !isTerminated(err) {
			t.Errorf("%s ends with %v", i.ID(), err)
		}
	}
	for s := range own.TerminateAll(t.Context()) {
		t.Errorf("%s is left", s.ID)
	}
	for s, err := range own.DeleteAll(t.Context(), States(Terminated)) {
		if err != nil || s.Err != nil {
			t.Fatal(s.Err, err)
		}
	}
	b.creates(0)
	if got := listedIDs(t, own); len(got) > 0 {
		t.Errorf("%q are left", got)
	}
}

func isTerminated(err error) bool {
	ended, ok := errors.AsType[*InstanceError](err)
	return ok && ended.Name == protocol.FailureTerminated
}

// waits serves instances that wait for an event "go" as workflow "w" of project p.
func waits(t *testing.T) (b *bench, own Bound[int, int]) {
	t.Helper()
	b = setup(t)
	b.register(map[string]string{"w": "w"})
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, e Event[int]) (int, error) {
		_, err := WaitForEvent[int](ctx, "go", "go")
		return e.Payload, err
	}))
	return b, Bind[int, int]("w").In(b.open("p", project.Workflow{Name: "w", ClassName: "w"}))
}

// creates waits until so many instances of workflow "w" are there.
func (b *bench) creates(n int) {
	b.t.Helper()
	natstest.Eventually(b.t, natstest.Patience, fmt.Sprintf("%d instances are there", n), func() bool {
		l, err := b.store.Subjects(b.t.Context(), protocol.WorkflowsStream("p", 0), protocol.CreateSubjects("p", "w"), 0)
		if err != nil {
			b.t.Fatal(err)
		}
		return len(l.Subjects) == n
	})
}

// TestWhatHasBegunAgainIsLeftAlone: between the look at an instance for its state and the control that it is to be sent, it
// was sent one that lets it go on, or has gone on.
func TestWhatHasBegunAgainIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	errored := protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Name: "E", Message: "no"}}
	if _, err := d.bound().CreateBatch(t.Context(), numbered(MaxBatch, ids("a"))); err != nil {
		t.Fatal(err)
	}
	for n := range MaxBatch {
		d.stand(fmt.Sprint("a", n), errored)
	}
	for _, id := range []string{"restarted", "runs", "resumed", "rests"} {
		d.make(id)
	}
	for _, id := range []string{"restarted", "runs"} {
		d.stand(id, errored)
	}
	for _, id := range []string{"resumed", "rests"} {
		d.stand(id, protocol.Entry{Kind: protocol.EntryPaused})
	}
	sent := map[string]uint64{}
	change := func(id string, steer func(*Instance[int]) error) {
		t.Helper()
		instance, err := d.bound().Get(t.Context(), id)
		if err == nil {
			err = steer(instance)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, sent[id] = d.control(id)
	}
	var told []string
	for s, err := range d.bound().DeleteAll(t.Context(), States(Errored, Paused)) {
		if err != nil || s.Err != nil {
			t.Fatal(s, err)
		}
		if told = append(told, s.ID); len(told) == 1 { // the others are in a page that is read
			change("restarted", func(i *Instance[int]) error { return i.Restart(t.Context()) })
			change("resumed", func(i *Instance[int]) error { return i.Resume(t.Context()) })
			d.stand("runs", protocol.Entry{Kind: protocol.EntryRestarted}, protocol.Entry{Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpDo, Name: "s", Count: 1}, Attempt: 1})
		}
	}
	if len(told) != MaxBatch+1 || told[MaxBatch] != "rests" {
		t.Errorf("%d are told, at the end %q", len(told), told[len(told)-2:])
	}
	for _, id := range []string{"restarted", "resumed", "runs"} {
		if c, at := d.control(id); at != sent[id] {
			t.Errorf("%s was sent %+v", id, c)
		}
	}
	if c, _ := d.control("rests"); c.Action != protocol.ActionDelete {
		t.Errorf("what is paused still was sent %+v", c)
	}
}

// TestRestartRightBeforeADelete: a restart that is stored between the look at an instance and the delete that it is to be sent
// wins. Any other control in between lets it be looked at again.
func TestRestartRightBeforeADelete(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	for _, tt := range []struct {
		name    string
		between protocol.Action
		sent    bool
	}{{"restarted", protocol.ActionRestart, false}, {"compacted", protocol.ActionCompact, true}, {"deleted", protocol.ActionDelete, true}} {
		d.make(tt.name)
		d.stand(tt.name, protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Name: "E", Message: "no"}})
		i, err := d.bound().Get(t.Context(), tt.name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := i.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i.incarnation = s.Incarnation
		looks, between := 0, uint64(0)
		sent, err := i.steerWhile(t.Context(), protocol.Control{Action: protocol.ActionDelete}, func(ctx context.Context) (bool, runner.Standing, error) {
			stands, now, err := i.standing([]State{Errored}, protocol.ActionDelete)(ctx)
			if looks++; looks == 1 {
				d.put(i.at.ControlSubject(), protocol.Control{V: protocol.Version, Input: tt.name, Action: tt.between, Incarnation: s.Incarnation})
				_, between = d.control(tt.name)
			}
			return stands, now, err
		})
		c, at := d.control(tt.name)
		if err != nil || sent != tt.sent || looks != 2 || (at > between) != tt.sent || tt.sent && c.Action != protocol.ActionDelete {
			t.Errorf("%s meanwhile: sent %t after %d looks, %v; the newest control is %+v", tt.name, sent, looks, err, c)
		}
	}
}

// TestUnreadableInstances: each is told of as what it is, and stands in the way of no other.
func TestUnreadableInstances(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	d.make("first")
	d.put(d.instance("w", "newer").CreateSubject(), protocol.Create{V: protocol.Version + 1, Workflow: "w", ID: "newer"})
	for _, id := range []string{"garbage", "log", "kind", "last"} {
		d.make(id)
	}
	if _, err := d.store.Publish(t.Context(), d.instance("w", "garbage").LogSubject(), nil, []byte("no")); err != nil {
		t.Fatal(err)
	}
	d.put(d.instance("w", "log").LogSubject(), protocol.Append{V: protocol.Version + 1})
	d.stand("kind", protocol.Entry{Kind: "unheard of"})
	all := []string{"first", "newer", "garbage", "log", "kind", "last"}
	readable := []string{"first", "last"}
	check := func(call, id string, cursor uint64, err error) {
		t.Helper()
		broken, ok := errors.AsType[*UnreadableError](err)
		switch {
		case slices.Contains(readable, id):
			if err != nil {
				t.Errorf("%s: %s: %v", call, id, err)
			}
		case !ok || broken.Workflow != "w" || broken.ID != id || !errors.Is(err, ErrUnreadable) || cursor == 0:
			t.Errorf("%s: %s, cursor %d: %v", call, id, cursor, err)
		}
	}
	var listed []string
	cursors := map[string]uint64{}
	for s, err := range d.bound().List(t.Context(), States(Queued)) {
		listed, cursors[s.ID] = append(listed, s.ID), s.Cursor
		check("List", s.ID, s.Cursor, err)
	}
	if !slices.Equal(listed, all) {
		t.Errorf("listed are %q", listed)
	}
	if got := listedIDs(t, d.bound(), ListAfter(cursors["kind"])); !slices.Equal(got, []string{"last"}) {
		t.Errorf("listed after one that cannot be read are %q", got)
	}
	steers := func(call string, steered iter.Seq2[Steered, error]) {
		t.Helper()
		var told []string
		for s, err := range steered {
			if err != nil {
				t.Fatal(call, err)
			}
			told = append(told, s.ID)
			check(call, s.ID, s.Cursor, s.Err)
		}
		if !slices.Equal(told, all) {
			t.Errorf("%s tells of %q", call, told)
		}
	}
	steers("TerminateAll", d.bound().TerminateAll(t.Context()))
	steers("DeleteAll", d.bound().DeleteAll(t.Context()))
	for _, id := range all {
		if _, at := d.control(id); (at != 0) != slices.Contains(readable, id) {
			t.Errorf("%s was sent a control: %t", id, at != 0)
		}
	}
}
