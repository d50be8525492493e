package crontab_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/crontab"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestMain(m *testing.M) {
	natstest.Parallel(4)
	os.Exit(m.Run())
}

const project = "shop"

var now = time.Date(2026, 11, 22, 14, 0, 0, 0, time.UTC)

type world struct {
	js    jetstream.JetStream
	store *journal.Store
	table crontab.Table
}

func setup(t *testing.T) *world {
	t.Helper()
	nc := natstest.Start(t).Connect(t)
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{js: natstest.JetStream(t, nc), store: store, table: crontab.Table{Store: store, Project: project}}
	if err := streams.EnsureSchedules(t.Context(), w.js, project, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// line is a schedule of the workflow digest; change makes it what the test needs.
func line(cron string, change func(*protocol.Schedule)) protocol.Schedule {
	row := protocol.Schedule{
		V: protocol.ScheduleVersion, ID: protocol.CronID(cron, ""), Class: protocol.ClassCron, Name: "digest", Workflow: "digest",
		Kind: protocol.ScheduleCron, Cron: cron,
	}
	change(&row)
	return row
}

func plain(*protocol.Schedule) {}

// set sets the schedules, and returns what that has changed, as "<verb> <line>".
func (w *world) set(t *testing.T, at time.Time, wanted ...protocol.Schedule) []string {
	t.Helper()
	changes, err := w.table.Set(t.Context(), wanted, at)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range changes {
		all = append(all, string(c.Did)+" "+c.Workflow+" "+c.Row.Cron)
	}
	slices.Sort(all)
	return all
}

// rows are all rows of the bucket, by key.
func (w *world) rows(t *testing.T) map[string]protocol.Schedule {
	t.Helper()
	bucket := protocol.SchedulesBucket(project)
	listing, err := w.store.Subjects(t.Context(), protocol.KVStream(bucket), protocol.KVSubject(bucket, ">"), 0)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]protocol.Schedule{}
	for _, subject := range listing.Subjects {
		m, err := w.store.Last(t.Context(), protocol.KVStream(bucket), subject)
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get(protocol.HeaderKVOperation) != "" {
			continue
		}
		var row protocol.Schedule
		if err := json.Unmarshal(m.Data, &row); err != nil {
			t.Fatal(err)
		}
		rows[subject[len(protocol.KVSubject(bucket, "")):]] = row
	}
	return rows
}

func (w *world) row(t *testing.T, want protocol.Schedule) protocol.Schedule {
	t.Helper()
	row, ok := w.rows(t)[protocol.ScheduleKey(protocol.ClassCron, "digest", want.ID)]
	if !ok {
		t.Fatalf("there is no row of %q", want.Cron)
	}
	return row
}

func (w *world) put(t *testing.T, key, body string) {
	t.Helper()
	subject := protocol.KVSubject(protocol.SchedulesBucket(project), key)
	if _, err := w.store.Publish(t.Context(), subject, nil, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	w := setup(t)
	hourly, daily := line("@hourly", plain), line("@daily", plain)
	richer := line("@hourly", func(s *protocol.Schedule) { s.Payload, s.Times = json.RawMessage(`{"n":1}`), 3 })
	for i, step := range []struct {
		wanted []protocol.Schedule
		want   []string
	}{
		{nil, nil},
		{[]protocol.Schedule{hourly, daily}, []string{"created digest @daily", "created digest @hourly"}},
		{[]protocol.Schedule{daily, hourly}, nil},
		{[]protocol.Schedule{richer, daily}, []string{"updated digest @hourly"}},
		{[]protocol.Schedule{richer, daily}, nil},
		{[]protocol.Schedule{richer}, []string{"removed digest @daily"}},
		{[]protocol.Schedule{richer}, nil},
		{[]protocol.Schedule{daily}, []string{"created digest @daily", "removed digest @hourly"}},
		{nil, []string{"removed digest @daily"}},
		{nil, nil},
	} {
		at := now.Add(time.Duration(i) * time.Hour)
		if got := w.set(t, at, step.wanted...); !slices.Equal(got, step.want) {
			t.Errorf("step %d has done %q, want %q", i, got, step.want)
		}
		if n := len(w.rows(t)); n != len(step.wanted) {
			t.Errorf("step %d: there are %d rows, want %d", i, n, len(step.wanted))
		}
	}
}

// What is changed is still the same schedule, and stays paused.
func TestUpdateKeepsWhatItIs(t *testing.T) {
	t.Parallel()
	w := setup(t)
	hourly := line("@hourly", plain)
	w.set(t, now, hourly)
	paused := w.row(t, hourly)
	if !paused.Created.Equal(now) || paused.Updated != nil {
		t.Errorf("the new row is %+v", paused)
	}
	paused.Resumed = new(now.Add(time.Minute))
	paused.Pause(now.Add(2*time.Minute), "for a test")
	body, err := json.Marshal(paused)
	if err != nil {
		t.Fatal(err)
	}
	w.put(t, protocol.ScheduleKey(protocol.ClassCron, "digest", hourly.ID), string(body))
	if got := w.set(t, now.Add(time.Hour), hourly); got != nil {
		t.Errorf("a pause was taken for a change: %q", got)
	}
	w.set(t, now.Add(2*time.Hour), line("@hourly", func(s *protocol.Schedule) { s.CatchUp = new(3) }))
	row := w.row(t, hourly)
	if !row.Created.Equal(now) || row.Updated == nil || !row.Updated.Equal(now.Add(2*time.Hour)) || *row.CatchUp != 3 ||
		row.Paused == nil || row.Paused.Note != "for a test" || row.Resumed == nil {
		t.Errorf("the changed row is %+v", row)
	}
}

// An update tells which fields it has changed, and not what params are.
func TestChanged(t *testing.T) {
	t.Parallel()
	w := setup(t)
	from, until := now.Add(time.Hour), now.Add(24*time.Hour)
	for i, step := range []struct {
		change func(*protocol.Schedule)
		want   string
	}{
		{func(s *protocol.Schedule) {
			s.Payload, s.Jitter, s.Times = json.RawMessage(`{"to":"<me>"}`), protocol.Duration(5*time.Minute), 3
		}, ""},
		{func(s *protocol.Schedule) {
			s.Payload, s.Jitter, s.Until, s.CatchUp = json.RawMessage(`{"to": "<me>"}`), protocol.Duration(9*time.Minute), &until, new(0)
		}, "jitter 5m0s→9m0s, until added, times removed, catch_up added"},
		{func(s *protocol.Schedule) {
			s.Payload, s.From, s.Until, s.CatchUp, s.Overlap = json.RawMessage(`{"to":"you"}`), &from, new(until.Add(time.Second)), new(2), protocol.OverlapSkip
		}, "params, jitter removed, from added, until 2026-11-23T14:00:00Z→2026-11-23T14:00:01Z, catch_up 0→2, overlap added"},
		{plain, "params removed, from removed, until removed, catch_up removed, overlap removed"},
	} {
		changes, err := w.table.Set(t.Context(), []protocol.Schedule{line("@hourly", step.change)}, now)
		if err != nil || len(changes) != 1 {
			t.Fatalf("step %d: changes %+v, error %v", i, changes, err)
		}
		if got := changes[0].Changed(); got != step.want {
			t.Errorf("step %d has changed %q, want %q", i, got, step.want)
		}
	}
}

func TestWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	w := setup(t)
	hourly, daily := line("@hourly", plain), line("@daily", plain)
	w.put(t, protocol.ScheduleKey("Desk", "jo", "s"), `{"v":1,"id":"s"}`)
	w.put(t, protocol.ScheduleKey(protocol.ClassCron, "digest", hourly.ID), `{"v":99,"cron":"@hourly"}`)
	w.put(t, protocol.ScheduleKey(protocol.ClassCron, "digest", daily.ID), `garbage`)
	w.put(t, protocol.ClassCron+".odd", `garbage`)
	left := string(crontab.Left) + " digest @hourly"
	if got, want := w.set(t, now, hourly, daily), []string{"created digest @daily", left, "removed  "}; !slices.Equal(got, want) {
		t.Errorf("done is %q, want %q", got, want)
	}
	rows := w.rows(t)
	if keys := slices.Sorted(maps.Keys(rows)); len(keys) != 3 || rows["Desk.jo.s"].ID != "s" || w.row(t, hourly).V != 99 || !w.row(t, daily).Created.Equal(now) {
		t.Errorf("rows are %+v", rows)
	}
}

// Many runners that start at once make each row once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var wanted []protocol.Schedule
	for i := range 10 {
		wanted = append(wanted, line(fmt.Sprintf("%d * * * *", i), plain))
	}
	const runners = 8
	done := make([]int, runners)
	var g errgroup.Group
	for i := range runners {
		g.Go(func() error {
			changes, err := w.table.Set(t.Context(), wanted, now.Add(time.Duration(i)*time.Millisecond))
			done[i] = len(changes)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, n := range done {
		sum += n
	}
	if n := len(w.rows(t)); n != len(wanted) || sum != len(wanted) {
		t.Errorf("%d rows and %d changes (%v), want %d of both", n, sum, done, len(wanted))
	}
}

func TestNoBucketAndNothingWanted(t *testing.T) {
	t.Parallel()
	w := setup(t)
	other := crontab.Table{Store: w.store, Project: "other"}
	if changes, err := other.Set(t.Context(), nil, now); err != nil || len(changes) != 0 {
		t.Errorf("changes %+v, error %v", changes, err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	w := setup(t)
	hourly := line("@hourly", plain)
	w.set(t, now, hourly, line("@daily", plain), line("@weekly", plain), line("@yearly", plain), line("@monthly", func(s *protocol.Schedule) { s.Overlap = protocol.OverlapBufferOne }))
	tick := func(cron, subject, body string) {
		t.Helper()
		at := map[string]func(string, string, string, string) string{"at": protocol.ClockSubject, "due": protocol.ClockDueSubject}[subject]
		if _, err := w.store.Publish(t.Context(), at(project, protocol.ClassCron, "digest", protocol.CronID(cron, "")), nil, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	tick("@hourly", "at", `{"v":1,"planned":"2026-11-22T17:00:00Z","progress":{"runs":2,"missed":1,"last":"2026-11-22T16:00:00Z"}}`)
	tick("@monthly", "at", `{"v":1,"planned":"2026-11-01T00:00:00Z","since":"2026-11-22T14:00:00Z","progress":{"runs":3,"skipped":2}}`)
	tick("@daily", "due", `{"v":1,"planned":"2026-11-23T00:00:00Z"}`)
	tick("@weekly", "at", `{"v":1,"planned":"2026-11-22T16:00:00Z","over":true,"parked":true,"progress":{"runs":3}}`)
	w.put(t, protocol.ScheduleKey("Desk", "jo", "s"), `{"v":1,"id":"s"}`)
	all, err := w.table.List(t.Context())
	if err != nil || len(all) != 5 {
		t.Fatalf("schedules %+v, error %v", all, err)
	}
	lines := map[string]crontab.Status{}
	for _, s := range all {
		lines[s.Cron] = s
	}
	if s := lines["@hourly"]; !s.Next.Equal(now.Add(3*time.Hour)) || !s.Last.Equal(now.Add(2*time.Hour)) || s.Runs != 2 || s.Missed != 1 || s.Workflow != "digest" || s.ID != hourly.ID {
		t.Errorf("armed: %+v", s)
	}
	if s := lines["@daily"]; s.Next == nil || !s.Next.Equal(now.Add(10*time.Hour)) {
		t.Errorf("fires: %+v", s)
	}
	if s := lines["@weekly"]; s.Next != nil || s.Runs != 3 {
		t.Errorf("over: %+v", s)
	}
	if s := lines["@monthly"]; s.Waits == nil || !s.Waits.Equal(now) || s.Next == nil || s.Skipped != 2 || s.Overlap != protocol.OverlapBufferOne {
		t.Errorf("waits: %+v", s)
	}
	if s := lines["@yearly"]; s.Next == nil || !s.Next.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("not armed yet: %+v", s)
	}
}
