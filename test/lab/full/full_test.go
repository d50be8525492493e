//go:build lab

package full

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

const (
	projectName = "full"
	creators    = 4
	createFor   = 4 * time.Second
)

// parcel is what an instance gets.
type parcel struct {
	Number  int
	Content string
}

// weigh is the workflow: two steps and a nap between them.
func weigh(ctx context.Context, e workflow.Event[parcel]) (string, error) {
	content, err := workflow.Do(ctx, "open", func(context.Context) (string, error) { return e.Payload.Content, nil })
	if err != nil {
		return "", err
	}
	if err := workflow.Sleep(ctx, "rest", 500*time.Millisecond); err != nil {
		return "", err
	}
	return workflow.Do(ctx, "weigh", func(context.Context) (string, error) {
		return fmt.Sprint(e.Payload.Number, " has ", len(content)), nil
	})
}

// TestDiskIsFull fills the disk below a NATS server amid work. What is created then is refused, or nobody can tell: it is never acknowledged and
// lost. When there is room and the server is restarted, all goes on by itself, and nothing is damaged.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		signal syscall.Signal
		// early restarts the server before there is room, too.
		early bool
	}{
		{"stopped", syscall.SIGTERM, false},
		{"killed", syscall.SIGKILL, false},
		{"restarted before there is room", syscall.SIGTERM, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			serveWorkflows(t, openProject(t, s))
			o := &office{t: t, project: openProject(t, s)}
			o.open()
			o.awaitMore("creates are acknowledged", func(k count) int { return k.acknowledged }, 100)
			s.fill()
			o.awaitMore("creates fail", func(k count) int { return k.failed }, creators)
			if row.early {
				s.restart(row.signal)
				o.awaitMore("creates fail again", func(k count) int { return k.failed }, creators)
			}
			s.free()
			s.restart(row.signal)
			o.awaitMore("creates are acknowledged again", func(k count) int { return k.acknowledged }, 100)
			o.close()
			o.check()
		})
	}
}

func openProject(t *testing.T, s *natsServer) *project.Project {
	t.Helper()
	config := project.Config{Name: projectName, Workflows: []project.Workflow{{Name: "weigh", ClassName: "Weigh"}}}
	config.Settings.NATSURL = s.url()
	p, err := project.Open(t.Context(), config, project.Logger(slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// serveWorkflows runs a runner until the test ends.
func serveWorkflows(t *testing.T, p *project.Project) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- project.Run(ctx, p, workflow.Runner(workflow.Define("Weigh", weigh))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the runner ended with %v", err)
		}
	})
	natstest.Eventually(t, natstest.Patience, "the runner takes work", p.IsReady)
}

// count is how many creates came to what.
type count struct{ acknowledged, failed int }

// office creates instances all the time.
type office struct {
	t       *testing.T
	project *project.Project
	next    atomic.Int64
	stop    context.CancelFunc
	working sync.WaitGroup

	mu           sync.Mutex // guards what follows
	acknowledged []int
	failed       []int // their creates came to an error
}

func (o *office) weighs() workflow.Bound[parcel, string] {
	return workflow.Bind[parcel, string]("weigh").In(o.project)
}

func (o *office) open() {
	var ctx context.Context
	ctx, o.stop = context.WithCancel(context.Background())
	o.t.Cleanup(o.close)
	for range creators {
		o.working.Go(func() {
			for ctx.Err() == nil {
				o.create(int(o.next.Add(1)))
			}
		})
	}
}

// close creates no more.
func (o *office) close() {
	o.stop()
	o.working.Wait()
}

func id(number int) string { return fmt.Sprint("parcel-", number) }

func content(number int) string { return strings.Repeat("x", number%40<<10) }

// create creates an instance. It may take as long as somebody waits for it.
func (o *office) create(number int) {
	ctx, cancel := context.WithTimeout(context.Background(), createFor)
	defer cancel()
	_, err := o.weighs().Create(ctx, parcel{number, content(number)}, workflow.ID(id(number)))
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.acknowledged = append(o.acknowledged, number)
		return
	}
	o.failed = append(o.failed, number)
	if !errors.Is(err, workflow.ErrNoSpace) && !errors.Is(err, journal.ErrUnknownOutcome) {
		o.t.Errorf("create: %v, want that there is no room, or that nobody can tell", err)
	}
}

func (o *office) count() count {
	o.mu.Lock()
	defer o.mu.Unlock()
	return count{len(o.acknowledged), len(o.failed)}
}

// awaitMore waits until that many more creates came to something.
func (o *office) awaitMore(what string, of func(count) int, more int) {
	o.t.Helper()
	before := of(o.count())
	natstest.Eventually(o.t, natstest.Patience, what, func() bool { return of(o.count()) >= before+more })
}

// check sees that everything that was created has ended once and as it should, and that nothing is damaged.
func (o *office) check() {
	t := o.t
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	for _, number := range o.acknowledged {
		o.awaitEnd(ctx, number)
	}
	stored := 0
	for _, number := range o.failed {
		if _, err := o.weighs().Get(ctx, id(number)); errors.Is(err, workflow.ErrNotFound) {
			continue
		}
		stored++
		o.awaitEnd(ctx, number)
	}
	t.Logf("%d creates are acknowledged; of %d that failed, %d were stored", len(o.acknowledged), len(o.failed), stored)
	o.examine(ctx)
}

func (o *office) awaitEnd(ctx context.Context, number int) {
	o.t.Helper()
	instance, err := o.weighs().Get(ctx, id(number))
	var result string
	if err == nil {
		result, err = instance.Result(ctx)
	}
	if want := fmt.Sprint(number, " has ", len(content(number))); err != nil || result != want {
		o.t.Fatalf("%s: %q, %v, want %q", id(number), result, err, want)
	}
	o.checkLog(ctx, number)
}

// checkLog sees that an instance was created once, that each of its steps has one result, and that it has ended once.
func (o *office) checkLog(ctx context.Context, number int) {
	o.t.Helper()
	at := protocol.Instance{Project: projectName, Workflow: "weigh", ID: id(number)}
	kinds := map[protocol.EntryKind]int{}
	for m := range o.messages(ctx, at.Stream(), at.LogSubject()) {
		var a protocol.Append
		if err := json.Unmarshal(m.Data, &a); err != nil {
			o.t.Fatal(err)
		}
		for _, e := range a.Entries {
			kinds[e.Kind]++
		}
	}
	creates := 0
	for range o.messages(ctx, at.Stream(), at.CreateSubject()) {
		creates++
	}
	if creates != 1 || kinds[protocol.EntryStepCompleted] != 2 || kinds[protocol.EntrySlept] != 1 || kinds[protocol.EntryCompleted] != 1 {
		o.t.Errorf("%s has %d creates and %v", id(number), creates, kinds)
	}
}

// messages are those of a subject.
func (o *office) messages(ctx context.Context, stream, subject string) iter.Seq[*journal.Message] {
	return func(yield func(*journal.Message) bool) {
		for from := uint64(1); ; {
			m, err := o.project.Journal().NextFromLeader(ctx, stream, subject, from)
			if errors.Is(err, journal.ErrNotFound) {
				return
			}
			if err != nil {
				o.t.Fatal(err)
			}
			if !yield(m) {
				return
			}
			from = m.Sequence + 1
		}
	}
}

// examine has a doctor look at the project.
func (o *office) examine(ctx context.Context) {
	o.t.Helper()
	row, err := streams.LookUp(ctx, o.project.JS, projectName)
	if err != nil {
		o.t.Fatal(err)
	}
	report, err := doctor.New(doctor.Options{
		Store: o.project.Journal(), Project: *row, Patience: time.Second,
		Found: func(f doctor.Finding) error { o.t.Errorf("the doctor finds %v", f); return nil },
	}).Examine(ctx)
	if err != nil || report.Undecided > 0 || report.Unreadable > 0 {
		o.t.Errorf("examine: %+v, %v", report, err)
	}
}
