package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

var deskClass = Bind[*desk]("Desk")

// Add is a method with a result.
func (d *desk) Add(ctx context.Context, n int) (int, error) {
	err := d.Update(ctx, func(s *deskState) error { s.Count += n; return nil })
	return d.State().Count, err
}

// Count is one that only looks.
func (d *desk) Count(ctx context.Context, _ struct{}) (int, error) {
	if d.count != nil {
		return d.count(ctx, d)
	}
	return d.State().Count, nil
}

// Ask is one that does what the test says.
func (d *desk) Ask(ctx context.Context, text string) (string, error) { return d.ask(ctx, d, text) }

// program opens a project as a program that is no server does.
func (r *rig) program(t *testing.T, config project.Config) *project.Project {
	t.Helper()
	p, err := project.Open(t.Context(), config, project.Conn(r.connect(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// callPatiently is Call by a program that waits as long for a host of the class: a busy machine starts hosts slowly.
func callPatiently[A, P, R any](ctx context.Context, ref Ref[A], method func(A, context.Context, P) (R, error), payload P) (result R, err error) {
	c, err := newCaller(ctx, ref, method, payload, []CallOption{Timeout(soon)})
	if err != nil {
		return result, err
	}
	c.nobodyFor = soon
	raw, err := c.run(ctx)
	if err == nil {
		err = json.Unmarshal(raw, &result)
	}
	return result, err
}

// TestCallsBetweenAgents: through any host, with results and errors of the method.
func TestCallsBetweenAgents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := desks(func(d *desk) {
		d.ask = func(ctx context.Context, d *desk, text string) (string, error) {
			if err := d.add(ctx, text); err != nil {
				return "", err
			}
			switch text {
			case "fail":
				return "", &Error{Name: "Full", Message: "no seats"}
			case "panic":
				panic("secret")
			}
			return strings.Join(d.State().Log, " "), nil
		}
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			n, err := Call(q.Context(), deskClass.Agent("other"), (*desk).Add, 2)
			if err != nil {
				return err
			}
			said, err := Call(q.Context(), deskClass.Agent("other"), (*desk).Ask, q.Method)
			if err != nil {
				return err
			}
			for text, want := range map[string]string{"fail": "no seats", "panic": "the agent panicked"} {
				_, err = Call(q.Context(), deskClass.Agent("other"), (*desk).Ask, text)
				failed, ok := errors.AsType[*CallError](err)
				if !ok || failed.Message != want || failed.Agent != "flight-desk/Desk/other" || failed.Method != "Ask" {
					t.Errorf("Call of a method that fails: %v", err)
				}
			}
			_, err = fmt.Fprintf(w, "%d %s", n, said)
			return err
		}
	})
	first, second := r.host(t, classes), r.host(t, classes)
	if _, err := Call(t.Context(), deskClass.In(r.program(t, project.Config{Name: testProject})).Agent("other"), (*desk).Add, 0); err != nil {
		t.Fatal(err)
	}
	for i, h := range []*testHost{first, second} {
		want := fmt.Sprintf("%d %s", 2*(i+1), strings.TrimSpace(strings.Repeat("POST ", i+1)))
		if status, body := h.call(t, http.MethodPost, fmt.Sprintf("/agents/desk/caller-%d", i), ""); status != 200 || body != want {
			t.Errorf("POST at host %d = %d %q, want %q", i, status, body, want)
		}
	}
	record, _ := r.record(t, "other")
	if string(record.State) != `{"Count":4,"Log":["POST","POST"]}` {
		t.Errorf("state %s, want what the turns that did not fail have made", record.State)
	}
	natstest.Eventually(t, soon, "the record forgets the calls whose callers have the answers", func() bool {
		first.call(t, http.MethodPost, "/agents/desk/caller-0", "")
		record, _ := r.record(t, "other")
		return len(record.Calls) <= 2
	})
}

// TestCallsOfOtherProjects: by a binding with script_name, only what is callable, with errors that name what there is.
func TestCallsOfOtherProjects(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, desks(nil, Callable((*desk).Add)))
	shop := r.program(t, project.Config{Name: "shop", Agents: []project.Agent{
		{ClassName: "Desk", Binding: "DESKS", ScriptName: testProject}, {ClassName: "Dessk", ScriptName: testProject},
		{ClassName: "Till", ScriptName: "nobody"},
	}})
	ctx := project.With(t.Context(), shop)
	if n, err := Call(ctx, Bind[*desk]("DESKS").Agent("jo"), (*desk).Add, 3); n != 3 || err != nil {
		t.Errorf("Call = %d, %v", n, err)
	}
	// The code of the class need not be at hand.
	type adder interface {
		Add(ctx context.Context, n int) (int, error)
	}
	if n, err := Call(ctx, Bind[adder]("DESKS").Agent("jo"), adder.Add, 4); n != 7 || err != nil {
		t.Errorf("Call by an interface = %d, %v", n, err)
	}
	_, err := Call(ctx, Bind[*desk]("DESKS").Agent("jo"), (*desk).Count, struct{}{})
	if failed, ok := errors.AsType[*CallError](err); !ok || failed.Name != "CallbackError" || !strings.Contains(failed.Message, "agent.Callable would allow it") {
		t.Errorf("Call of a method that is not callable: %v", err)
	}
	unknown, ok := errors.AsType[*NoClassError](Exec(ctx, Bind[*desk]("Dessk").Agent("jo"), (*desk).Note, "x"))
	if !ok || fmt.Sprint(unknown.Classes) != "[Desk]" {
		t.Errorf("Exec with an unknown class: %v", unknown)
	}
	if err := Exec(ctx, Bind[*desk]("Till").Agent("jo"), (*desk).Note, "x"); err == nil || !strings.Contains(err.Error(), `project "nobody" does not answer at its door`) {
		t.Errorf("Exec with an unknown project: %v", err)
	}
	if _, err := Call(ctx, Bind[*desk]("DESKS").Agent(""), (*desk).Add, 1); !errors.Is(err, protocol.ErrName) {
		t.Errorf("Call of an agent without a name: %v", err)
	}
	if _, err := Call(t.Context(), deskClass.Agent("jo"), (*desk).Add, 1); !errors.Is(err, workflow.ErrNoProject) {
		t.Errorf("Call without a project: %v", err)
	}
	for name, method := range map[string]func(*desk, context.Context, int) (int, error){
		"closure": func(*desk, context.Context, int) (int, error) { return 0, nil }, "nil": nil,
	} {
		if _, err := Call(ctx, deskClass.Agent("jo"), method, 1); err == nil || !strings.Contains(err.Error(), "method expression such as (*agent.desk).Method") {
			t.Errorf("Call of a %s: %v", name, err)
		}
	}
	for _, o := range []CallOption{Timeout(0), ID(""), ID("#x")} {
		if _, err := Call(ctx, deskClass.Agent("jo"), (*desk).Add, 1, o); err == nil {
			t.Errorf("Call with %v: no error", o)
		}
	}
}

// TestCallCycles: whoever would wait for itself is told at once, however the circle comes about.
func TestCallCycles(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	waiting := make(chan struct{})
	both := sync.OnceFunc(func() { close(waiting) })
	classes := desks(func(d *desk) {
		d.ask = func(ctx context.Context, d *desk, text string) (string, error) {
			next, rest, _ := strings.Cut(text, " ")
			switch next {
			case "":
				return "end", nil
			case "outside":
				next, rest, _ = strings.Cut(rest, " ")
				var said string
				err := Outside(ctx, func(ctx context.Context) (err error) {
					said, err = Call(ctx, deskClass.Agent(next), (*desk).Ask, rest)
					return err
				})
				return said, err
			case "meet":
				both()
				next, rest, _ = strings.Cut(rest, " ")
			}
			return Call(ctx, deskClass.Agent(next), (*desk).Ask, rest)
		}
	})
	r.host(t, classes)
	r.host(t, classes)
	p := r.program(t, project.Config{Name: testProject})
	ask := func(name, text string) (string, error) {
		return Call(t.Context(), deskClass.In(p).Agent(name), (*desk).Ask, text, Timeout(soon))
	}
	for _, test := range []struct{ text, chain string }{
		{"a", "flight-desk/Desk/a > flight-desk/Desk/a"},
		{"b a", "flight-desk/Desk/a > flight-desk/Desk/b > flight-desk/Desk/a"},
		{"b outside c a", "flight-desk/Desk/a > flight-desk/Desk/b > flight-desk/Desk/c > flight-desk/Desk/a"},
	} {
		if _, err := ask("a", test.text); err == nil || !strings.Contains(err.Error(), test.chain) {
			t.Errorf("%q: %v, want the cycle %s", test.text, err, test.chain)
		}
	}
	if said, err := ask("a", "outside b a"); err != nil || said != "end" {
		t.Errorf("a call back to an agent that is outside: %q, %v", said, err)
	}
	long := strings.Repeat("outside a ", protocol.MaxCallChain+1)
	if _, err := ask("a", strings.TrimSpace(long)); err == nil || !strings.Contains(err.Error(), "more than 16 agents wait for each other") {
		t.Errorf("a chain of 17: %v", err)
	}
	// Two turns, each of which begins before it is called by the other.
	var turns sync.WaitGroup
	errs := make([]error, 2)
	for i, names := range [][]string{{"x", "y"}, {"y", "x"}} {
		turns.Go(func() { _, errs[i] = ask(names[0], "meet "+names[1]) })
	}
	turns.Wait()
	<-waiting
	for _, err := range errs {
		if err != nil && !strings.Contains(err.Error(), "waits for this call itself") {
			t.Errorf("two turns that wait for each other: %v", err)
		}
	}
}

// TestTwoTurnsWaitForEachOther: neither's chain has the other, but the second to call is told that it would wait for ever.
func TestTwoTurnsWaitForEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inX, inY := make(chan struct{}), make(chan struct{})
	r.host(t, desks(func(d *desk) {
		d.ask = func(ctx context.Context, d *desk, text string) (string, error) {
			switch text {
			case "x":
				close(inX)
				<-inY
				return Call(ctx, deskClass.Agent("y"), (*desk).Ask, "plain")
			case "y":
				close(inY)
				<-inX
				return Call(ctx, deskClass.Agent("x"), (*desk).Ask, "plain")
			}
			return "plain", nil
		}
	}))
	p := r.program(t, project.Config{Name: testProject})
	var turns sync.WaitGroup
	errs := make([]error, 2)
	for i, name := range []string{"x", "y"} {
		turns.Go(func() {
			_, errs[i] = Call(t.Context(), deskClass.In(p).Agent(name), (*desk).Ask, name, Timeout(soon))
		})
	}
	turns.Wait()
	if errs[0] == nil && errs[1] == nil {
		t.Error("two turns that wait for each other have both ended well")
	}
	for _, err := range errs {
		if err != nil && !strings.Contains(err.Error(), "waits for this call itself") {
			t.Errorf("two turns that wait for each other: %v", err)
		}
	}
}

func TestCallThatIsLateSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn, goOn := make(chan struct{}), make(chan struct{})
	classes := desks(func(d *desk) {
		d.request = func(*desk, http.ResponseWriter, *http.Request) error {
			close(inTurn)
			<-goOn
			return nil
		}
		d.ask = func(ctx context.Context, _ *desk, _ string) (string, error) {
			_, err := Call(ctx, deskClass.Agent("jo"), (*desk).Add, 1, Timeout(400*time.Millisecond))
			return fmt.Sprint(err), nil
		}
	})
	h := r.host(t, classes)
	r.host(t, classes)
	var request sync.WaitGroup
	request.Go(func() {
		_, _, _ = h.tryCall(context.WithoutCancel(t.Context()), http.MethodGet, "/agents/desk/jo/seats", "")
	})
	<-inTurn
	defer request.Wait()
	defer close(goOn)
	p := r.program(t, project.Config{Name: testProject})
	// A busy machine may not have heard of the agent before the time is over.
	const busy = "busy with GET /agents/desk/jo/seats"
	natstest.Eventually(t, soon, "a program is told what the agent is busy with", func() bool {
		_, err := Call(t.Context(), deskClass.In(p).Agent("jo"), (*desk).Add, 1, Timeout(400*time.Millisecond))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a program's call of a busy agent: %v", err)
		}
		return strings.Contains(err.Error(), busy)
	})
	natstest.Eventually(t, soon, "an agent is told what the agent is busy with", func() bool {
		said, err := Call(t.Context(), deskClass.In(p).Agent("other"), (*desk).Ask, "")
		if err != nil {
			t.Fatalf("the call of an agent that calls a busy one: %v", err)
		}
		return strings.Contains(said, busy)
	})
	if record, _ := r.record(t, "jo"); record.Turn != 0 {
		t.Errorf("a call was applied whose caller had given up: %+v", record)
	}
}

// send sends a call as a caller does that repeats it, and returns the answer.
func (r *rig) send(t *testing.T, request protocol.Request) protocol.Reply {
	t.Helper()
	p := r.program(t, project.Config{Name: testProject})
	q := asker{nc: p.NC, answers: p.Answers(), times: defaultTiming(), log: p.Log}
	var reply protocol.Reply
	natstest.Eventually(t, soon, "the call is answered", func() bool {
		var err error
		reply, err = q.ask(t.Context(), protocol.CallSubject(testProject, testProject, "Desk"), request, func(protocol.Reply) error { return nil })
		return err == nil
	})
	return reply
}

// TestRepeatedCallIsAppliedOnce: whoever owns the agent then, until its caller has confirmed the answer.
func TestRepeatedCallIsAppliedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	request := protocol.Request{V: protocol.Version, ID: "once", Activate: &protocol.Activate{Class: "Desk", Name: "jo"},
		Call: &protocol.AgentCall{Method: "Add", Payload: json.RawMessage(`5`), Within: protocol.Duration(soon)}}
	asks := desks(func(d *desk) {
		d.ask = func(ctx context.Context, d *desk, text string) (string, error) {
			return strings.Repeat(text, maxMarkedResult), d.add(ctx, text)
		}
	})
	large := request
	large.ID, large.Call = "large", &protocol.AgentCall{Method: "Ask", Payload: json.RawMessage(`"x"`), Within: protocol.Duration(soon)}
	first := r.host(t, asks)
	if reply := r.send(t, large); len(reply.Result) != maxMarkedResult+2 {
		t.Errorf("answer of %d bytes, %v", len(reply.Result), reply.Error)
	}
	for range 3 {
		if reply := r.send(t, request); string(reply.Result) != "5" || !reply.Kept {
			t.Errorf("answer %+v, want 5", reply)
		}
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := r.host(t, asks)
	if reply := r.send(t, request); string(reply.Result) != "5" || !reply.Kept {
		t.Errorf("answer of the next owner %+v, want 5", reply)
	}
	if reply := r.send(t, large); reply.Error == nil || reply.Error.Name != protocol.FailureResultLost {
		t.Errorf("answer of the next owner to a call with a large result: %+v, want that it is lost", reply.Error)
	}
	if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":5,"Log":["x"]}` {
		t.Errorf("state %s, want both calls applied once", record.State)
	}
	second.expect(t, "/agents/desk/jo", 200, "5")
	if err := r.nc.Publish(protocol.CallSubject(testProject, testProject, "Desk"),
		[]byte(`{"v":1,"confirm":"once","activate":{"class":"Desk","name":"jo"}}`)); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, soon, "the record forgets the call", func() bool {
		second.call(t, http.MethodPost, "/agents/desk/jo", "")
		record, _ := r.record(t, "jo")
		_, known := record.Calls[protocol.CallMark("once")]
		return !known
	})
}

// TestCallWithoutAHost: it waits for one to come, as in a deployment, and not for ever.
func TestCallWithoutAHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.host(t, desks(nil)).stop(); err != nil {
		t.Fatal(err)
	}
	p := r.program(t, project.Config{Name: testProject})
	impatient, err := newCaller(t.Context(), deskClass.In(p).Agent("jo"), (*desk).Add, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	impatient.nobodyFor = 50 * time.Millisecond
	if _, err := impatient.run(t.Context()); err == nil || !strings.Contains(err.Error(), `no host of class "Desk" of project "flight-desk" is there`) {
		t.Errorf("call without a host: %v, want a NoHostError", err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := callPatiently(t.Context(), deskClass.In(p).Agent("jo"), (*desk).Add, 1)
		ended <- err
	}()
	r.host(t, desks(nil))
	if err := <-ended; err != nil {
		t.Errorf("call while a host starts: %v", err)
	}
}

// TestCallThatSavedEarly: it is not begun anew after its host has died in mid-turn, and its caller is told.
func TestCallThatSavedEarly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	saved := make(chan struct{})
	first := r.host(t, desks(func(d *desk) {
		d.ask = func(ctx context.Context, d *desk, text string) (string, error) {
			if err := d.add(ctx, text); err != nil {
				return "", err
			}
			if err := Save(ctx); err != nil {
				return "", err
			}
			close(saved)
			<-ctx.Done()
			return "", context.Cause(ctx)
		}
	}))
	p := r.program(t, project.Config{Name: testProject})
	ended := make(chan error, 1)
	go func() {
		_, err := Call(context.WithoutCancel(t.Context()), deskClass.In(p).Agent("jo"), (*desk).Ask, "half", Timeout(soon))
		ended <- err
	}()
	<-saved
	first.kill(t)
	r.host(t, desks(nil))
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "was interrupted") {
		t.Errorf("call whose host died after Save: %v, want that it was interrupted", err)
	}
	if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":0,"Log":["half"]}` {
		t.Errorf("state %s, want what was saved, once", record.State)
	}
}

// TestReadsRunBesideATurn: on what is stored, many at a time, and change nothing.
func TestReadsRunBesideATurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn, goOn := make(chan struct{}), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if _, err := d.Add(q.Context(), 1); err != nil {
				return err
			}
			if q.Method == http.MethodPut {
				close(inTurn)
				<-goOn
			}
			return nil
		}
		d.count = func(ctx context.Context, d *desk) (int, error) {
			if err := d.SetState(ctx, deskState{}); !errors.Is(err, ErrReads) {
				t.Errorf("SetState in a method that reads: %v, want ErrReads", err)
			}
			if _, err := Schedule(ctx, After(0), d.Note, "x"); !errors.Is(err, ErrReads) {
				t.Errorf("Schedule in a method that reads: %v, want ErrReads", err)
			}
			if err := Save(ctx); !errors.Is(err, ErrReads) {
				t.Errorf("Save in a method that reads: %v, want ErrReads", err)
			}
			return d.State().Count, nil
		}
	}, Reads((*desk).Count)))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	var put sync.WaitGroup
	put.Go(func() { _, _, _ = h.tryCall(t.Context(), http.MethodPut, "/agents/desk/jo", "") })
	<-inTurn
	p := r.program(t, project.Config{Name: testProject})
	count := func(options ...CallOption) (int, error) {
		return Call(t.Context(), deskClass.In(p).Agent("jo"), (*desk).Count, struct{}{}, options...)
	}
	for range 3 {
		if n, err := count(); n != 1 || err != nil {
			t.Errorf("read beside a turn: %d, %v; want what is stored", n, err)
		}
	}
	close(goOn)
	put.Wait()
	if n, err := count(); n != 2 || err != nil {
		t.Errorf("read after the turn: %d, %v", n, err)
	}
	before, _ := r.record(t, "jo")
	if n, err := count(Fresh()); n != 2 || err != nil {
		t.Errorf("fresh read: %d, %v", n, err)
	}
	if after, _ := r.record(t, "jo"); after.Turn != before.Turn+1 || string(after.State) != string(before.State) {
		t.Errorf("after a fresh read the record is at turn %d, before at %d; want one that wrote", after.Turn, before.Turn)
	}
}

// TestCallFromAHostThatStops: its turns are finished, and what they call lives elsewhere by then.
func TestCallFromAHostThatStops(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn, goOn := make(chan *host, 1), make(chan struct{})
	first := r.host(t, desks(func(d *desk) {
		d.ring = func(ctx context.Context, d *desk, _ string) error {
			inTurn <- hostOf(ctx)
			<-goOn
			n, err := Call(ctx, deskClass.Agent("other"), (*desk).Add, 3)
			if err != nil {
				return err
			}
			return d.add(ctx, fmt.Sprint(n))
		}
	}))
	r.mail(t, "jo", testProject, protocol.Mail{Source: "a", Number: 1, Callback: "Ring", Payload: []byte(`""`)})
	stopping := <-inTurn
	r.host(t, desks(nil))
	stopped := make(chan error, 1)
	go func() { stopped <- first.stop() }()
	natstest.Eventually(t, soon, "the host takes no agents any more", func() bool {
		stopping.mu.Lock()
		defer stopping.mu.Unlock()
		return stopping.closed
	})
	close(goOn)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":0,"Log":["3"]}` || record.Owner == stopping.id {
		t.Errorf("record %+v, want that of a turn that was finished, and handed over", record)
	}
}

func TestMarksOfCallsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	after := func(calls map[string]protocol.AppliedCall, confirmed map[string]bool, now time.Time, turn *callMark) map[string]protocol.AppliedCall {
		r := protocol.Record{Calls: calls}
		rememberCalls(&r, confirmed, now, turn)
		return r.Calls
	}
	calls := map[string]protocol.AppliedCall{}
	for i := range maxMarks {
		calls[fmt.Sprint(i)] = protocol.AppliedCall{Until: now.Add(time.Duration(i) * time.Second)}
	}
	next := after(calls, nil, now, &callMark{key: "new", until: now.Add(time.Hour), ended: true})
	if _, oldest := next["0"]; oldest || len(next) != maxMarks {
		t.Errorf("%d marks, the oldest among them: %v", len(next), oldest)
	}
	if next = after(calls, map[string]bool{"7": true}, now.Add(5*time.Second), nil); len(next) != maxMarks-6 {
		t.Errorf("%d marks, want those without the five that are out of date and the one that is confirmed", len(next))
	}
	large := map[string]protocol.AppliedCall{}
	for i := range 20 {
		large[fmt.Sprint(i)] = protocol.AppliedCall{Until: now.Add(time.Duration(i+1) * time.Second), Result: make([]byte, maxMarkedResult)}
	}
	next = after(large, nil, now, nil)
	if !next["0"].Lost || next["19"].Lost || len(next) != 20 {
		t.Errorf("results that are too much: the oldest is kept: %v, the newest: %v", !next["0"].Lost, !next["19"].Lost)
	}
}
