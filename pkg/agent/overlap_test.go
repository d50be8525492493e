package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// beats are the turns of one agent whose schedule fires every second.
type beats struct {
	overlap Overlap
	// first is what becomes of the first firing, in each of its attempts; later ones return at once.
	first func(context.Context) error

	mu      sync.Mutex // guards what follows
	planned []time.Time
}

func (b *beats) ring(ctx context.Context) error {
	m, _ := Firing(ctx)
	b.mu.Lock()
	b.planned = append(b.planned, m.Planned)
	first := b.planned[0].Equal(m.Planned)
	b.mu.Unlock()
	if first {
		return b.first(ctx)
	}
	return nil
}

// moments are the planned ones of all turns so far, in seconds since the first.
func (b *beats) moments() (all []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.planned {
		all = append(all, int(p.Sub(b.planned[0]).Seconds()))
	}
	return all
}

func (b *beats) await(t *testing.T, n int) []int {
	t.Helper()
	natstest.Eventually(t, soon, "enough turns have begun", func() bool { return len(b.moments()) >= n })
	return b.moments()
}

// beating is a host, a scheduler and the schedule of an agent.
type beating struct {
	*rig
	classes []Class
	host    *testHost
	all     Schedules
	id      string
}

func (b *beats) start(t *testing.T, options ...ScheduleOption) *beating {
	t.Helper()
	s := &beating{rig: newRig(t)}
	options = append(options, b.overlap, CatchUp(1000)) // a busy machine is late: no moment is left out for that
	s.classes = desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			task, err := Schedule(r.Context(), Cron("* * * * * *"), d.Ring, "x", options...)
			if err == nil {
				_, err = io.WriteString(w, task.ID)
			}
			return err
		}
		d.ring = func(ctx context.Context, _ *desk, _ string) error { return b.ring(ctx) }
	})
	s.host = s.rig.host(t, s.classes)
	s.all = SchedulesOf(s.program(t, project.Config{Name: testProject}))
	s.scheduler(t)
	_, id := s.host.call(t, http.MethodPost, "/agents/desk/jo", "")
	s.id = "Desk/jo/" + id
	return s
}

// awaitTask waits until what a schedule has done is as wanted.
func (s *beating) awaitTask(t *testing.T, what string, wanted func(AgentTask) bool) (task AgentTask) {
	t.Helper()
	natstest.Eventually(t, soon, what, func() bool {
		var err error
		task, err = s.all.Get(t.Context(), s.id)
		return err == nil && wanted(task)
	})
	return task
}

// blocked is a first firing whose turn runs until it is released.
func blocked(t *testing.T) (first func(context.Context) error, release func()) {
	released := make(chan struct{})
	release = sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	return func(context.Context) error { <-released; return nil }, release
}

// TestOverlapSkip has a turn that runs while moments pass, also while its host is dead.
func TestOverlapSkip(t *testing.T) {
	t.Parallel()
	first, release := blocked(t)
	b := &beats{overlap: OverlapSkip, first: first}
	s := b.start(t)
	b.await(t, 1)
	skipped := s.awaitTask(t, "a moment is skipped", func(task AgentTask) bool { return task.Skipped >= 1 })
	if skipped.Overlap != OverlapSkip || skipped.Runs != 1 || skipped.Missed != 0 {
		t.Errorf("got %+v, want one run", skipped)
	}
	s.host.kill(t)
	s.awaitTask(t, "more are skipped without a host", func(task AgentTask) bool { return task.Skipped > skipped.Skipped })
	if n := len(b.moments()); n != 1 {
		t.Fatalf("%d turns have begun, want 1", n)
	}
	release()
	s.rig.host(t, s.classes)
	s.awaitTask(t, "the schedule fires again", func(task AgentTask) bool { return task.Runs >= 2 })
	if m := b.await(t, 3); m[1] != 0 || m[2] < 2 {
		t.Errorf("turns began at %v, want two of the first moment and then one of a later one that was not skipped", m)
	}
}

func TestOverlapBufferOne(t *testing.T) {
	t.Parallel()
	first, release := blocked(t)
	b := &beats{overlap: OverlapBufferOne, first: first}
	s := b.start(t)
	b.await(t, 1)
	task := s.awaitTask(t, "two moments are skipped", func(task AgentTask) bool { return task.Skipped >= 2 })
	if task.Runs != 2 {
		t.Errorf("got %+v, want that one waits beside the one that runs", task)
	}
	release()
	if m := b.await(t, 3); m[1] != 1 || m[2] < 4 {
		t.Errorf("turns began at %v, want that of the second moment, and then one that was not skipped", m)
	}
}

func TestOverlapBufferAll(t *testing.T) {
	t.Parallel()
	first, release := blocked(t)
	b := &beats{overlap: OverlapBufferAll, first: first}
	s := b.start(t)
	b.await(t, 1)
	if task := s.awaitTask(t, "moments pass", func(task AgentTask) bool { return task.Runs >= 3 }); task.Skipped != 0 {
		t.Errorf("got %+v, want nothing skipped", task)
	}
	release()
	if m := b.await(t, 3); !slices.Equal(m[:3], []int{0, 1, 2}) {
		t.Errorf("turns began at %v, want each once and in their order", m)
	}
}

// TestOverlapAllowAll has a first firing that fails until all others are applied, the last among them.
func TestOverlapAllowAll(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	b := &beats{overlap: OverlapAllowAll, first: func(context.Context) error {
		select {
		case <-released:
			return nil
		default:
			return errors.New("not yet")
		}
	}}
	s := b.start(t, Times(3), Retry{MaxAttempts: MaxAttempts, BaseDelay: 50 * time.Millisecond, MaxDelay: 400 * time.Millisecond})
	natstest.Eventually(t, soon, "turns of both others have begun", func() bool {
		m := b.moments()
		return slices.Contains(m, 1) && slices.Contains(m, 2)
	})
	natstest.Eventually(t, soon, "the last is over for the scheduler", func() bool {
		return len(s.rows(t, protocol.SchedulesBucket(testProject))) == 0
	})
	if r, _ := s.record(t, "jo"); r.Seen[s.source()] == 0 {
		t.Errorf("the agent has forgotten the schedule, marks %v", r.Seen)
	}
	close(released)
	s.awaitRecord(t, "jo", "the schedule is forgotten", func(r protocol.Record) bool {
		_, known := r.Seen[s.source()]
		return !known && len(r.Parked) == 0
	})
	s.inboxEmpty(t)
	if dead := s.deadLetters(t); len(dead) != 0 {
		t.Errorf("dead letters %+v", dead)
	}
}

// TestOverlapCancelRunning has a turn that runs until it is cancelled.
func TestOverlapCancelRunning(t *testing.T) {
	t.Parallel()
	causes := make(chan error, 8)
	b := &beats{overlap: OverlapCancelRunning, first: func(ctx context.Context) error {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	}}
	s := b.start(t)
	if m := b.await(t, 3); !slices.Equal(m[:3], []int{0, 1, 2}) {
		t.Errorf("turns of %v, want one of each moment", m)
	}
	if cause := <-causes; !errors.Is(cause, ErrOverlapped) {
		t.Errorf("the turn ended with %v", cause)
	}
	if task := s.awaitTask(t, "it goes on", func(task AgentTask) bool { return task.Runs >= 3 }); task.Skipped+task.Missed != 0 {
		t.Errorf("got %+v, want nothing skipped", task)
	}
	if dead := s.deadLetters(t); len(dead) != 0 {
		t.Errorf("dead letters %+v", dead)
	}
}

// TestCancelledFirings has firings that cancel those before them, whatever has become of these.
func TestCancelledFirings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		ring  func(ctx context.Context) error
		parks bool   // it has another attempt, and waits for that
		want  string // the log, after two firings
	}{
		{"returns nil all the same", func(ctx context.Context) error { <-ctx.Done(); return nil }, false, "1,2"},
		{"returns another error", func(ctx context.Context) error { <-ctx.Done(); return errors.New("no luck") }, false, "2"},
		{"panics", func(ctx context.Context) error { <-ctx.Done(); panic("no luck") }, false, "2"},
		{"is outside", func(ctx context.Context) error {
			return Outside(ctx, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
		}, false, "2"},
		{"waits for another attempt", func(context.Context) error { return errors.New("no luck") }, true, "2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			began := make(chan struct{}, 8)
			retry := Retry{MaxAttempts: 1}
			if test.parks {
				retry = Retry{MaxAttempts: 2, BaseDelay: time.Hour, MaxDelay: time.Hour}
			}
			h := r.host(t, desks(func(d *desk) {
				d.request = showLog
				d.ring = func(ctx context.Context, d *desk, text string) error {
					if text == "1" {
						began <- struct{}{}
						if err := test.ring(ctx); err != nil {
							return err
						}
					}
					return d.Note(ctx, text)
				}
			}, retry))
			id, life := h.schedule(t, r, "?cron", "tick")
			send := func(number uint64, payload string) {
				m := firing(id, life, number, payload)
				m.Callback, m.Overlap = "Ring", protocol.OverlapCancelRunning
				r.mail(t, "jo", testProject, m)
			}
			send(1, "1")
			<-began
			if test.parks {
				r.awaitRecord(t, "jo", "it is parked", func(p protocol.Record) bool { return len(p.Parked) == 1 })
			}
			send(1, "1") // a copy
			send(2, "2")
			r.inboxEmpty(t)
			h.expect(t, "/agents/desk/jo", 200, test.want)
			record, _ := r.record(t, "jo")
			if len(record.Parked) != 0 || record.Seen[protocol.ScheduleSource(id)] != numbered(2) || len(r.deadLetters(t)) != 0 {
				t.Errorf("record %+v, dead letters %+v", record, r.deadLetters(t))
			}
			if len(began) != 0 {
				t.Errorf("%d more attempts", len(began))
			}
		})
	}
}

func (s *beating) source() string { return protocol.ScheduleSource(s.id[len("Desk/jo/"):]) }

// TestFiringAloneIsAppliedOnce has firings that wait for no other one, copies of them, and the end of their schedule.
func TestFiringAloneIsAppliedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) { d.request = cancelOrShow }))
	id, life := h.schedule(t, r, "?cron", "tick")
	alone := func(number uint64, payload string) protocol.Mail {
		m := firing(id, life, number, payload)
		m.Source, m.Key, m.Number = protocol.AloneSource(id, int(number)), protocol.AloneKey(id, *m.Planned), 0
		m.Schedule, m.Overlap = id, protocol.OverlapAllowAll
		return m
	}
	for _, number := range []uint64{2, 1, 2, 1, 1} { // in any order
		r.mail(t, "jo", testProject, alone(number, string(rune('0'+number))))
	}
	r.inboxEmpty(t)
	record, _ := r.record(t, "jo")
	if log := record.State; string(log) != `{"Count":0,"Log":["2","1"]}` || record.Seen[protocol.ScheduleSource(id)] != numbered(2) {
		t.Errorf("state %s, marks %v", log, record.Seen)
	}
	// It was applied if it is the newest, also when its key is forgotten.
	again := alone(2, "again")
	again.Key += " forgotten"
	r.mail(t, "jo", testProject, again)
	other := alone(3, "of another life")
	other.Life++
	r.mail(t, "jo", testProject, other)
	if status, _ := h.call(t, http.MethodDelete, "/agents/desk/jo?id="+id, ""); status != 200 {
		t.Fatalf("cancel = %d", status)
	}
	r.mail(t, "jo", testProject, alone(4, "cancelled"))
	r.inboxEmpty(t)
	if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":0,"Log":["2","1"]}` {
		t.Errorf("state %s", record.State)
	}
}

func TestOverlapIsChecked(t *testing.T) {
	t.Parallel()
	desk := &desk{}
	ctx, d := turnOf(t, desks(nil)[0], desk, protocol.Record{Life: 1})
	for _, test := range []struct {
		when  When
		value Overlap
		want  string
	}{
		{Cron("@hourly"), "sometimes", `overlap sometimes: allowed are ["skip" "buffer_one" "buffer_all" "cancel_running" "allow_all"]`},
		{After(time.Hour), OverlapSkip, `overlap of a delay: is only for schedules that fire more than once`},
	} {
		_, err := Schedule(ctx, test.when, desk.Ring, "x", test.value)
		if refused, ok := errors.AsType[*ScheduleError](err); !ok || refused.Field != "overlap" || len(d.out) != 0 {
			t.Errorf("%v: %v", test, err)
		} else if got := refused.Field + " " + refused.Value + ": " + refused.Reason; got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
