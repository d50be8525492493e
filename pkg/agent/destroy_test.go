package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// traces lists, in all streams, the subjects that have to do with a desk.
func (r *rig) traces(t *testing.T, name string) (found []string) {
	t.Helper()
	token := protocol.Escape(name)
	names := r.js.StreamNames(t.Context())
	for stream := range names.Name() {
		l, err := r.store.Subjects(t.Context(), stream, ">", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, subject := range l.Subjects {
			object := protocol.ObjectNameOf(testProject, subject)
			if slices.Contains(strings.Split(subject, "."), token) || slices.Contains(strings.Split(object, "/"), token) {
				found = append(found, subject)
			}
		}
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// noTraces waits until nothing has to do with a desk.
func (r *rig) noTraces(t *testing.T, name string) {
	t.Helper()
	var left []string
	defer func() {
		if t.Failed() {
			t.Logf("left: %q", left)
		}
	}()
	natstest.Eventually(t, soon, "nothing of the agent is left", func() bool {
		left = r.traces(t, name)
		return len(left) == 0
	})
}

// furnish gives an agent something of everything that it can have, and lets it wait in the queue.
func furnish(ctx context.Context, d *desk, _ string) (string, error) {
	err := d.Update(ctx, func(s *deskState) error {
		s.Log = append(s.Log, strings.Repeat("x", protocol.InlineState))
		return nil
	})
	_, delayErr := Schedule(ctx, After(time.Hour), d.Note, "later")
	_, cronErr := Schedule(ctx, Cron("0 0 1 1 *"), d.Note, "yearly")
	_, queueErr := Queue(ctx, d.Fail, "first", Retry{MaxAttempts: 5, BaseDelay: time.Hour, MaxDelay: time.Hour})
	_, behindErr := Queue(ctx, d.Note, "second")
	_, deadErr := Schedule(ctx, After(time.Hour), d.Fail, "dies", Retry{MaxAttempts: 1})
	return "", errors.Join(err, delayErr, cronErr, queueErr, behindErr, deadErr)
}

// furnished makes such an agent, with a dead letter and a parked one.
func (r *rig) furnished(t *testing.T, p *project.Project, name string) protocol.Record {
	t.Helper()
	if _, err := Call(t.Context(), deskClass.In(p).Agent(name), (*desk).Ask, "furnish", Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	r.mail(t, name, testProject, protocol.Mail{Source: "someone", Number: 1, Callback: "Fail", Retry: &protocol.Retry{MaxAttempts: 1}})
	record := r.awaitRecord(t, name, "has all", func(p protocol.Record) bool { return len(p.Parked) == 1 && p.Seen["someone"] == 1 })
	natstest.Eventually(t, soon, "its rows and letters are there", func() bool {
		kinds := map[string]bool{}
		for _, subject := range r.traces(t, name) {
			kinds[strings.SplitN(subject, ".", 3)[0]+strings.SplitN(subject, ".", 3)[1]] = true
		}
		return len(kinds) >= 5
	})
	return record
}

func ends(d *desk) {
	d.ask = func(ctx context.Context, d *desk, text string) (string, error) {
		switch text {
		case "furnish":
			return furnish(ctx, d, text)
		case "fail":
			return "", errors.Join(d.Destroy(ctx), errors.New("no"))
		case "end":
			err := errors.Join(d.Destroy(ctx), Tell(ctx, deskClass.Agent("heir"), (*desk).Note, "inherits"))
			if saveErr, outErr := Save(ctx), Outside(ctx, func(context.Context) error { return nil }); !errors.Is(saveErr, ErrDestroyed) || !errors.Is(outErr, ErrDestroyed) {
				err = errors.Join(err, errors.New("a turn that destroys its agent is stored early"))
			}
			return strconv.FormatUint(d.Revision(), 10), err
		}
		return text, d.add(ctx, text)
	}
}

// TestDestroyLeavesNothingBehind: whatever an agent can have. What it has told others arrives.
func TestDestroyLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(ends))
	r.scheduler(t)
	p := r.program(t, project.Config{Name: testProject})
	ref := deskClass.In(p).Agent("jo@example.com")
	before := r.furnished(t, p, "jo@example.com")
	if _, err := Call(t.Context(), ref, (*desk).Ask, "fail"); err == nil || err.Error() == "" {
		t.Errorf("turn that fails: %v", err)
	}
	if now, _ := r.record(t, "jo@example.com"); now.Condemned || now.Life != before.Life {
		t.Errorf("a turn that failed has destroyed its agent: %+v", now)
	}
	if _, err := Call(t.Context(), ref, (*desk).Ask, "end", Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	r.noTraces(t, "jo@example.com")
	r.awaitRecord(t, "heir", "has heard", func(p protocol.Record) bool { return string(p.State) == `{"Count":0,"Log":["inherits"]}` })
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo@example.com", 200, "0")
	if now, _ := r.record(t, "jo@example.com"); now.Life <= before.Life || now.Seen != nil || now.Calls != nil || now.Keys != nil {
		t.Errorf("the next life is %+v, want one of its own after %d", now, before.Life)
	}
}

// TestDestroyByAProgram ends one life, and no other, however often it is asked for.
func TestDestroyByAProgram(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.host(t, desks(ends))
	r.host(t, desks(ends))
	r.scheduler(t)
	p := r.program(t, project.Config{Name: testProject})
	ref := deskClass.In(p).Agent("jo")
	record := r.furnished(t, p, "jo")
	if err := Destroy(t.Context(), ref, Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	if _, exists := r.record(t, "jo"); exists {
		t.Error("Destroy returned before the agent was gone")
	}
	r.noTraces(t, "jo")
	if err := Destroy(t.Context(), ref); err != nil {
		t.Errorf("Destroy of what does not exist: %v", err)
	}
	if _, exists := r.record(t, "jo"); exists {
		t.Error("Destroy of what does not exist has made it")
	}
	first.call(t, http.MethodPost, "/agents/desk/jo", "")
	c := &caller{project: p, target: agentNamed("jo"), timeout: soon, nobodyFor: nobodyFor,
		call: protocol.AgentCall{From: testProject, Destroy: record.Life}}
	if err := c.condemn(t.Context()); err != nil {
		t.Errorf("the end of a life that is over: %v", err)
	}
	first.expect(t, "/agents/desk/jo", 200, "1")
	shop := r.program(t, project.Config{Name: "shop", Agents: []project.Agent{{ClassName: "Desk", ScriptName: testProject}}})
	if err := Destroy(t.Context(), deskClass.In(shop).Agent("jo")); err == nil || !strings.Contains(err.Error(), "only its own project may") {
		t.Errorf("Destroy by another project: %v", err)
	}
	now, _ := r.record(t, "jo")
	c = &caller{project: shop, target: agentNamed("jo"), timeout: soon, nobodyFor: nobodyFor,
		call: protocol.AgentCall{From: testProject, Destroy: now.Life}}
	if err := c.condemn(t.Context()); err == nil || !strings.Contains(err.Error(), `project "shop" may not destroy`) {
		t.Errorf("end of an agent of another project: %v", err)
	}
	if err := Destroy(t.Context(), deskClass.In(p).Agent("")); !errors.Is(err, protocol.ErrName) {
		t.Errorf("Destroy of no name: %v", err)
	}
}

// TestMailAtTheEndOfAnAgent: what was applied is not applied again, what others have told and nobody has applied belongs to
// the next life, and what the life has sent itself goes with it.
func TestMailAtTheEndOfAnAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn, goOn := make(chan struct{}), make(chan struct{})
	starts := make(chan uint64, 100)
	r.host(t, desks(func(d *desk) {
		d.ring = func(ctx context.Context, d *desk, text string) error {
			info, err := Info(ctx)
			if err != nil {
				return err
			}
			starts <- info.Life
			if text != "end" {
				return d.Note(ctx, text)
			}
			close(inTurn)
			<-goOn
			_, err = Queue(ctx, d.Note, "never")
			return errors.Join(err, d.Destroy(ctx))
		}
	}))
	r.mail(t, "jo", testProject, protocol.Mail{Source: "a", Number: 5, Callback: "Ring", Payload: []byte(`"end"`)})
	<-inTurn
	life := <-starts
	for _, m := range []protocol.Mail{
		{Source: "a", Number: 5, Callback: "Ring", Payload: []byte(`"end"`)}, // the same once more
		{Source: "a", Number: 6, Callback: "Ring", Payload: []byte(`"six"`)},
		{Source: protocol.SourceQueue, Number: 1, Life: life, Callback: "Ring", Payload: []byte(`"queued"`)},
		{Source: protocol.ScheduleSource("s"), Number: 1, Life: life, Callback: "Ring", Payload: []byte(`"fired"`)},
		{Source: protocol.RedriveSource(protocol.OutgoingID(life, 1, 1)), Number: 1},
		{Source: protocol.KeySource("k"), Key: "k", Callback: "Ring", Payload: []byte(`"keyed"`)},
	} {
		r.mail(t, "jo", testProject, m)
	}
	close(goOn)
	record := r.awaitRecord(t, "jo", "lives again", func(p protocol.Record) bool { return p.Life > life && p.Turn == 2 })
	if want := `{"Count":0,"Log":["six","keyed"]}`; string(record.State) != want {
		t.Errorf("the next life has applied %s, want %s: what strangers sent", record.State, want)
	}
	r.inboxEmpty(t)
	if record, _ := r.record(t, "jo"); record.Turn != 2 {
		t.Errorf("the next life has had %d turns, want one for each of two strangers", record.Turn)
	}
}

// TestMailForALifeThatIsOver brings no agent into being, and takes the row of a schedule along that is left of it.
func TestMailForALifeThatIsOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.ring = func(context.Context, *desk, string) error { t.Error("a turn of a life that is over"); return nil }
	}))
	bucket, key := bucketOf(protocol.SchedulesBucket(testProject)), protocol.ScheduleKey("Desk", "jo", "cron-1")
	if _, err := r.store.Publish(t.Context(), bucket.subject(key), nil, []byte(`{"v":1,"life":7}`)); err != nil {
		t.Fatal(err)
	}
	for _, m := range []protocol.Mail{
		{Source: protocol.ScheduleSource("cron-1"), Number: 9, Life: 7, Callback: "Ring", Payload: []byte(`"x"`)},
		{Source: protocol.SourceQueue, Number: 9, Life: 7, Callback: "Ring", Payload: []byte(`"x"`)},
		{Source: protocol.RedriveSource("7.1.1"), Number: 9},
	} {
		r.mail(t, "jo", testProject, m)
	}
	r.inboxEmpty(t)
	if row := r.row(t, bucket.name, key); row != nil {
		t.Errorf("row %s, want it deleted", row)
	}
	if h.log.has("took the agent") {
		t.Error("mail for a life that is over has made an agent")
	}
	r.awaitRecord(t, "jo", "is none", func(p protocol.Record) bool { return p.V == 0 })
}

// TestFrozenHostHarmsNoNextLife: what a host takes away that was frozen in between is told by its life.
func TestFrozenHostHarmsNoNextLife(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(ends))
	r.scheduler(t)
	p := r.program(t, project.Config{Name: testProject})
	old := r.furnished(t, p, "jo")
	if err := Destroy(t.Context(), deskClass.In(p).Agent("jo"), Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	now := r.furnished(t, p, "jo")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	var before []string
	natstest.Eventually(t, soon, "the clock has forgotten the schedules of the first life", func() bool {
		before = r.traces(t, "jo")
		return !slices.ContainsFunc(before, func(subject string) bool { return strings.Contains(subject, fmt.Sprintf(".jo.%d=2E", old.Life)) })
	})
	zombie := r.idleHost(t)
	zombie.renew(t)
	old.Condemned = true
	a := &actor{host: zombie, id: agentNamed("jo"), log: zombie.log, mail: newMailbox(), stuck: map[string]bool{}, again: map[string]bool{},
		at: version{record: old, sequence: old.Epoch, exists: true}}
	a.states = zombie.statesOf(a)
	for _, step := range []func(context.Context) error{a.emptyOutbox, a.dropRows, a.dropDead, a.dropStates, a.dropMail, a.dropRecord} {
		if err := step(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if after := r.traces(t, "jo"); !slices.Equal(before, after) {
		t.Errorf("left of life %d are\n%q, want\n%q", now.Life, after, before)
	}
}

// TestTurnOutsideWhenItsAgentEnds ends without being stored, and says why.
func TestTurnOutsideWhenItsAgentEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside, goOn := make(chan struct{}), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		ends(d)
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			err := Outside(q.Context(), func(context.Context) error {
				close(outside)
				<-goOn
				return nil
			})
			return errors.Join(err, d.add(q.Context(), "lost"))
		}
	}))
	type answer struct {
		status int
		body   string
	}
	answers := make(chan answer, 1)
	go func() {
		status, body, _ := h.tryCall(t.Context(), http.MethodPost, "/agents/desk/jo", "")
		answers <- answer{status, body}
	}()
	<-outside
	p := r.program(t, project.Config{Name: testProject})
	if err := Destroy(t.Context(), deskClass.In(p).Agent("jo"), Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if got := <-answers; got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "AgentDestroyed") {
		t.Errorf("answer %+v, want that the agent was destroyed", got)
	}
	h.expect(t, "/agents/desk/jo", 200, "0")
}

// TestDestroySurvivesItsHost: SIGKILL at every point between the commit and the end. Nothing of the old life is left, and
// nothing of the next one lost.
func TestDestroySurvivesItsHost(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		testsignal.AgentAfterCommit, testsignal.AgentOutboxEmpty, testsignal.AgentSocketsClosed, testsignal.AgentRowsGone,
		testsignal.AgentDeadGone, testsignal.AgentStatesGone, testsignal.AgentMailGone, testsignal.AgentRecordGone,
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.destroyAndKill(t, r.server.URL(), point)
		})
	}
}

// TestDestroySurvivesItsHostOnACluster is the same on three servers.
func TestDestroySurvivesItsHostOnACluster(t *testing.T) {
	t.Parallel()
	r, url := newClusterRig(t)
	r.destroyAndKill(t, url, testsignal.AgentStatesGone)
}

func (r *rig) destroyAndKill(t *testing.T, url, point string) {
	t.Helper()
	p := r.program(t, project.Config{Name: testProject})
	ref := deskClass.In(p).Agent("jo")
	maker := r.process(t, url, "")
	old := r.furnished(t, p, "jo")
	maker.kill()
	r.scheduler(t)
	victim := r.process(t, url, point)
	ended, called := make(chan error, 1), make(chan error, 1)
	go func() { ended <- Destroy(t.Context(), ref, Timeout(soon)) }()
	victim.await(t, "testsignal: "+point)
	want := `{"Count":7,"Log":null}`
	if point == testsignal.AgentMailGone { // mail takes longer: its bell rings again after 15 s
		want = `{"Count":7,"Log":["told"]}`
		if err := Tell(t.Context(), ref, (*desk).Note, "told"); err != nil {
			t.Errorf("Tell during the end: %v", err)
		}
	}
	go func() {
		_, err := callPatiently(t.Context(), ref, (*desk).Add, 7)
		called <- err
	}()
	victim.kill()
	r.process(t, url, "")
	if err := <-ended; err != nil {
		t.Errorf("Destroy whose host was killed: %v", err)
	}
	if err := <-called; err != nil {
		t.Errorf("Call during the end: %v", err)
	}
	r.awaitRecord(t, "jo", "lives again with "+want, func(p protocol.Record) bool { return p.Life > old.Life && string(p.State) == want })
	r.inboxEmpty(t)
	if err := Destroy(t.Context(), ref, Timeout(soon)); err != nil {
		t.Error(err)
	}
	r.noTraces(t, "jo")
}

// TestAgentThatStoresNothingLeavesNothing: also if its host dies meanwhile.
func TestAgentThatStoresNothingLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.host(t, desks(nil, IdleAfter(time.Millisecond)), timings(quick))
	first.expect(t, "/agents/desk/nobody", 200, "0")
	r.noTraces(t, "nobody")
	lost := r.host(t, desks(nil), timings(quick))
	lost.expect(t, "/agents/desk/somebody", 200, "0")
	if len(r.traces(t, "somebody")) == 0 {
		t.Error("an agent in memory has no record")
	}
	lost.kill(t)
	r.noTraces(t, "somebody")
}
