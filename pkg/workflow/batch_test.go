package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func numbered(n int, options func(int) []CreateOption) []BatchItem[int] {
	var items []BatchItem[int]
	for i := range n {
		items = append(items, Item(i, options(i)...))
	}
	return items
}

func ids(prefix string) func(int) []CreateOption {
	return func(i int) []CreateOption { return []CreateOption{ID(fmt.Sprint(prefix, i))} }
}

// TestCreateBatch: each instance is told of, in order; what exists and what comes twice is told, and left out by who only
// wants the others.
func TestCreateBatch(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	all, err := d.bound().CreateBatch(t.Context(), numbered(MaxBatch, ids("a")))
	if err != nil || all.Err() != nil || len(all) != MaxBatch || len(all.Instances()) != MaxBatch {
		t.Fatalf("%d outcomes, %v, %v", len(all), err, all.Err())
	}
	for i, o := range all {
		if o.ID != fmt.Sprint("a", i) || o.Instance.ID() != o.ID || o.Instance.Origin() != Created {
			t.Errorf("outcome %d is %+v", i, o)
		}
		if i%20 != 0 {
			continue
		}
		s, err := o.Instance.Status(t.Context())
		if err != nil || string(s.Params) != fmt.Sprint(i) || s.Source.Kind != "program" {
			t.Errorf("instance %d: %+v, %v", i, s, err)
		}
	}
	again, err := d.bound().CreateBatch(t.Context(), []BatchItem[int]{
		Item(1, ID("b")), Item(2, ID("a7")), Item(3), Item(4, ID("b")), Item(5, ID("a8"), OnExisting(ReturnExisting)),
		Item(6, ID("a9"), OnExisting(RestartExisting)), Item(7, ID("a7")),
	})
	if err != nil || again.Err() != nil {
		t.Fatal(err, again.Err())
	}
	if got := len(again.Instances()); got != 4 {
		t.Errorf("%d instances are taken", got)
	}
	exists, ok := errors.AsType[*ExistsError](again[1].Err)
	if !ok || *exists != (ExistsError{"w", "a7"}) || again[1].Instance != nil || again[1].ID != "a7" {
		t.Errorf("of an id that is taken: %+v", again[1])
	}
	twice, ok := errors.AsType[*DuplicateError](again[3].Err)
	if !ok || *twice != (DuplicateError{"w", "b", 0}) || !errors.Is(twice, ErrExists) || !strings.Contains(twice.Error(), `"b"`) {
		t.Errorf("of an id that comes twice: %+v", again[3])
	}
	if _, ok := errors.AsType[*DuplicateError](again[6].Err); !ok {
		t.Errorf("of an id that comes twice and is taken: %+v", again[6])
	}
	for n, want := range map[int]Origin{0: Created, 2: Created, 4: Found, 5: Restarted} {
		if o := again[n]; o.Err != nil || o.Instance.Origin() != want {
			t.Errorf("outcome %d is %+v, want %s", n, o, want)
		}
	}
	if c, _ := d.control("a9"); c.Action != protocol.ActionRestart {
		t.Errorf("a9 was sent %+v", c)
	}
}

// TestRefusedBatches: a batch with one bad part stores nothing.
func TestRefusedBatches(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	d.make("there")
	values := Bind[string, int]("w").In(d.own)
	d.own.Config.Settings.MaxValueSize = 1 << 20
	before := d.stored()
	good := func(n int) []CreateOption { return nil }
	batch := func(last BatchItem[int]) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := d.bound().CreateBatch(ctx, append(numbered(MaxBatch-1, good), last))
			return err
		}
	}
	ids := func(n int) (all []string) {
		for range n {
			all = append(all, "there")
		}
		return all
	}
	for _, row := range []struct {
		name string
		call func(context.Context) error
		want error
		says string
	}{
		{"empty", func(ctx context.Context) error { _, err := d.bound().CreateBatch(ctx, nil); return err }, ErrBatchSize, "has 0 instances, allowed are 1 to 100"},
		{"too many", func(ctx context.Context) error {
			_, err := d.bound().CreateBatch(ctx, numbered(MaxBatch+1, good))
			return err
		}, ErrBatchSize, "CreateBatch: a batch of this size is not allowed: it has 101 instances"},
		{"a bad id", batch(Item(1, ID("-x"))), protocol.ErrName, "instance 99 of the batch"},
		{"a reserved id", batch(Item(1, ID("batch"))), protocol.ErrName, "instance 99 of the batch"},
		{"a bad option", batch(Item(1, Retention(-time.Second, 0))), ErrOption, "instance 99 of the batch"},
		{"large params", func(ctx context.Context) error {
			_, err := values.CreateBatch(ctx, []BatchItem[string]{Item(strings.Repeat("x", 200<<10)), Item(strings.Repeat("x", 2<<20))})
			return err
		}, ErrTooLarge, "instance 1 of the batch"},
		{"to terminate none", func(ctx context.Context) error { _, err := d.bound().TerminateBatch(ctx, nil); return err }, ErrBatchSize, "TerminateBatch"},
		{"to delete too many", func(ctx context.Context) error { _, err := d.bound().DeleteBatch(ctx, ids(101)); return err }, ErrBatchSize, "DeleteBatch"},
		{"to delete a bad id", func(ctx context.Context) error {
			_, err := d.bound().DeleteBatch(ctx, append(ids(3), "a.b"))
			return err
		}, protocol.ErrName, "id 3"},
		{"to terminate a bad id", func(ctx context.Context) error {
			_, err := d.bound().TerminateBatch(ctx, []string{"there", ""})
			return err
		}, protocol.ErrName, "id 1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := row.call(t.Context())
			if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("error is %v", err)
			}
			if at := d.stored(); at != before {
				t.Errorf("%d messages are stored", at-before)
			}
			if objects := d.objects(); objects != 0 {
				t.Errorf("%d objects are stored", objects)
			}
		})
	}
}

// TestLargeBatch: params that are too large for messages come with their instances, and go if the id is taken.
func TestLargeBatch(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	d.make("there")
	values := Bind[string, int]("w").In(d.own)
	batch, err := values.CreateBatch(t.Context(), []BatchItem[string]{
		Item(strings.Repeat("x", 200<<10), ID("a")), Item(strings.Repeat("x", 200<<10), ID("there")), Item("small", ID("b")),
	})
	if err != nil || len(batch.Instances()) != 2 || !errors.Is(batch[1].Err, ErrExists) {
		t.Fatalf("%+v, %v", batch, err)
	}
	s, err := batch[0].Instance.Status(t.Context())
	if err != nil || s.ParamsObject == nil || s.Params != nil {
		t.Errorf("the first is %+v, %v", s, err)
	}
	if n := d.objects(); n != 1 {
		t.Errorf("%d objects are stored, want that of the first", n)
	}
}

// TestBatchInAStep: a body that is tried again finds what it has created.
func TestBatchInAStep(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.start(b.open("p", project.Workflow{Name: "parent", ClassName: "Parent"}, project.Workflow{Name: "w", ClassName: "W"}),
		Define("W", func(context.Context, Event[int]) (int, error) { return 1, nil }),
		Define("Parent", func(ctx context.Context, _ Event[int]) (string, error) {
			if _, err := Bind[int, int]("w").CreateBatch(ctx, numbered(1, ids("x"))); !errors.Is(err, ErrBetweenSteps) {
				return "", fmt.Errorf("between steps: %w", err)
			}
			return Do(ctx, "start", func(ctx context.Context) (string, error) {
				batch, err := Bind[int, int]("w").CreateBatch(ctx, numbered(5, ids("c")))
				if err == nil {
					err = batch.Err()
				}
				if err == nil && Step(ctx).Number == 1 {
					err = errors.New("again")
				}
				return fmt.Sprint(len(batch.Instances())), err
			}, Retries(1, time.Millisecond, Constant))
		}))
	b.create("parent", "a", 1)
	if got := string(b.complete("parent", "a").Output); got != `"5"` {
		t.Errorf("the step created %s", got)
	}
	for i := range 5 {
		b.complete("w", fmt.Sprint("c", i))
	}
}

// TestSteerBatches: each id is told of, and what comes twice is sent once.
func TestSteerBatches(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	for _, id := range []string{"a", "b"} {
		d.make(id)
	}
	_, incarnation := d.make("ended")
	d.announce("ended", protocol.Done{Incarnation: incarnation})
	all := []string{"a", "gone", "b", "a", "ended"}
	before := d.stored()
	got, err := d.bound().TerminateBatch(t.Context(), all, RollbackFirst())
	if err != nil || len(got) != len(all) {
		t.Fatal(got, err)
	}
	for n, want := range []error{nil, ErrNotFound, nil, nil, ErrFinished} {
		if got[n].ID != all[n] || !errors.Is(got[n].Err, want) || want == nil && got[n].Err != nil {
			t.Errorf("outcome %d is %+v, want %v", n, got[n], want)
		}
	}
	if n := d.stored() - before; n != 2 {
		t.Errorf("%d controls are stored, want 2", n)
	}
	if c, _ := d.control("a"); c.Action != protocol.ActionTerminate || !c.Rollback {
		t.Errorf("a was sent %+v", c)
	}
	if got, err = d.bound().DeleteBatch(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for n, want := range []error{nil, ErrNotFound, nil, nil, nil} {
		if got[n].ID != all[n] || !errors.Is(got[n].Err, want) || want == nil && got[n].Err != nil {
			t.Errorf("outcome %d is %+v, want %v", n, got[n], want)
		}
	}
	if c, _ := d.control("ended"); c.Action != protocol.ActionDelete {
		t.Errorf("what has ended was sent %+v", c)
	}
}

// TestBatchIsCarriedOut: instances of a batch run, and end when they are told to.
func TestBatchIsCarriedOut(t *testing.T) {
	t.Parallel()
	b, bound := waits(t)
	batch, err := bound.CreateBatch(t.Context(), numbered(12, ids("a")))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range batch {
		names = append(names, o.ID)
	}
	if _, err := bound.TerminateBatch(t.Context(), names[:8]); err != nil {
		t.Fatal(err)
	}
	for _, o := range batch[:8] {
		if _, err := o.Instance.Result(t.Context()); !isTerminated(err) {
			t.Errorf("%s ends with %v", o.ID, err)
		}
	}
	if _, err := bound.DeleteBatch(t.Context(), names[4:]); err != nil {
		t.Fatal(err)
	}
	b.creates(4)
	if got := listedIDs(t, bound, States(Terminated)); !slices.Equal(slices.Sorted(slices.Values(got)), names[:4]) { // stored side by side
		t.Errorf("left are %q", got)
	}
	again, err := bound.CreateBatch(t.Context(), numbered(12, ids("a")))
	if err != nil || again.Err() != nil || len(again.Instances()) != 8 {
		t.Errorf("created again are %d, %v", len(again.Instances()), err)
	}
}

// objects is how many large values are stored.
func (b *bench) objects() int {
	b.t.Helper()
	info, err := b.objectsStream().Info(b.t.Context(), jetstream.WithSubjectFilter(protocol.ObjectMetaSubjects("p")))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(info.State.Subjects)
}

// TestBatchEndsWithItsContext: also if its params are there in part, and no server to take them away from.
func TestBatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	values := Bind[string, int]("w").In(d.own)
	var items []BatchItem[string]
	for n := range 4 * together {
		items = append(items, Item(large(fmt.Sprint(n))))
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	puts, some := 0, make(chan struct{})
	if _, err := d.nc.Subscribe(protocol.ObjectMetaSubjects("p"), func(*nats.Msg) {
		if puts++; puts == 4*together { // an intent and an object each, of not more than so many at a time
			close(some)
		}
	}); err != nil {
		t.Fatal(err)
	}
	d.server.Lose(t, protocol.ShardSubjects("p", 0)) // it must not be done before the server stops
	var err error
	ended := make(chan struct{})
	go func() {
		_, err = values.CreateBatch(ctx, items)
		close(ended)
	}()
	await := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(natstest.Patience):
			t.Fatalf("timeout: %s", what)
		}
	}
	await("some params are there", some)
	d.server.Stop(t)
	cancel(stopped)
	await("the batch has ended", ended)
	if !errors.Is(err, stopped) {
		t.Errorf("the batch ended with %v", err)
	}
}
