package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// streamed is an answer that is read as it comes.
type streamed struct {
	response *http.Response
	lines    *bufio.Reader
	stop     context.CancelFunc
}

func (h *testHost) stream(t *testing.T, path string) *streamed {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := httpClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() }) // it may have broken off
	return &streamed{response: response, lines: bufio.NewReader(response.Body), stop: cancel}
}

// expect reads one line.
func (s *streamed) expect(t *testing.T, want string) {
	t.Helper()
	if line, err := s.lines.ReadString('\n'); err != nil || line != want+"\n" {
		t.Fatalf("line %q, %v; want %q", line, err, want)
	}
}

// both runs a test with the host that has the agent, and with one that passes its answers on.
// Both get a channel for what they tell each other.
func both(t *testing.T, prepare func(*desk, chan struct{}), test func(t *testing.T, r *rig, gate *testHost, goOn chan struct{}), options ...hostOption) {
	t.Helper()
	for _, name := range []string{"at its host", "through another host"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			goOn := make(chan struct{})
			classes := desks(func(d *desk) { prepare(d, goOn) })
			owner := r.host(t, classes, options...)
			gate := owner
			owner.call(t, http.MethodGet, "/agents/desk/jo", "")
			if name != "at its host" {
				gate = r.host(t, classes, options...)
			}
			test(t, r, gate, goOn)
		})
	}
}

func await(ctx context.Context, goOn chan struct{}) error {
	select {
	case <-goOn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestStreamedAnswer: what the turn has asked for is stored before the first part leaves, other turns run while it is
// outside, and the end leaves after the last commit.
func TestStreamedAnswer(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, goOn chan struct{}) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			if err := d.add(q.Context(), "begun"); err != nil {
				return err
			}
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintln(w, "first")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
			if err := await(q.Context(), goOn); err != nil {
				return err
			}
			if err := Outside(q.Context(), func(ctx context.Context) error {
				if err := await(ctx, goOn); err != nil {
					return err
				}
				fmt.Fprintln(w, "outside")
				w.(http.Flusher).Flush()
				return await(ctx, goOn)
			}); err != nil {
				return err
			}
			fmt.Fprintln(w, "last")
			return d.add(q.Context(), "ended")
		}
	}
	both(t, prepare, func(t *testing.T, r *rig, gate *testHost, goOn chan struct{}) {
		s := gate.stream(t, "/agents/desk/jo")
		if s.response.StatusCode != http.StatusAccepted || s.response.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("head %d %v", s.response.StatusCode, s.response.Header)
		}
		s.expect(t, "first")
		if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":0,"Log":["begun"]}` {
			t.Errorf("the first part has left, and %s is stored", record.State)
		}
		goOn <- struct{}{}
		gate.expect(t, "/agents/desk/jo", 200, "0") // another turn
		goOn <- struct{}{}
		s.expect(t, "outside")
		goOn <- struct{}{}
		s.expect(t, "last")
		if rest, err := io.ReadAll(s.lines); len(rest) != 0 || err != nil {
			t.Errorf("at the end came %q, %v", rest, err)
		}
		if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":0,"Log":["begun","ended"]}` {
			t.Errorf("the end has left, and %s is stored", record.State)
		}
	})
}

// TestLongAnswers keep their order and size, whether they are flushed or not, and however slowly they are read.
func TestLongAnswers(t *testing.T) {
	t.Parallel()
	const lines = 40_000 // of 100 bytes
	prepare := func(d *desk, _ chan struct{}) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			for i := range lines {
				fmt.Fprintf(w, "%099d\n", i)
				if q.URL.Query().Has("flush") && i%1000 == 999 {
					if err := http.NewResponseController(w).Flush(); err != nil {
						return err
					}
				}
			}
			return nil
		}
	}
	both(t, prepare, func(t *testing.T, _ *rig, gate *testHost, _ chan struct{}) {
		for _, query := range []string{"", "?flush"} {
			s := gate.stream(t, "/agents/desk/jo"+query)
			for i := range lines {
				if line, err := s.lines.ReadString('\n'); err != nil || line != fmt.Sprintf("%099d\n", i) {
					t.Fatalf("line %d is %q, %v", i, line, err)
				}
			}
			if rest, err := io.ReadAll(s.lines); len(rest) != 0 || err != nil {
				t.Errorf("at the end came %q, %v", rest, err)
			}
		}
	})
}

// TestStreamedAnswerBreaksOff visibly: an error, a panic and a lost agent are no end. What was flushed stays stored.
func TestStreamedAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, _ chan struct{}) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			if err := d.add(q.Context(), "kept"); err != nil {
				return err
			}
			fmt.Fprintln(w, "first")
			w.(http.Flusher).Flush()
			if err := d.add(q.Context(), "dropped"); err != nil {
				return err
			}
			fmt.Fprintln(w, "never")
			if q.URL.Query().Has("panic") {
				panic("secret")
			}
			return errors.New("no luck")
		}
	}
	both(t, prepare, func(t *testing.T, r *rig, gate *testHost, _ chan struct{}) {
		for _, query := range []string{"", "?panic"} {
			s := gate.stream(t, "/agents/desk/jo"+query)
			s.expect(t, "first")
			if rest, err := io.ReadAll(s.lines); len(rest) != 0 || err == nil {
				t.Errorf("after the first part came %q, %v; want it to break off", rest, err)
			}
		}
		if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":0,"Log":["kept","kept"]}` {
			t.Errorf("stored is %s", record.State)
		}
	})
}

// TestStreamOfARequestThatComesTwice: the copy that comes late, because nobody heard that the first had come, gets it all.
func TestStreamOfARequestThatComesTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	begun, goOn := make(chan struct{}, 1), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			fmt.Fprint(w, "first ")
			w.(http.Flusher).Flush()
			begun <- struct{}{}
			<-goOn
			fmt.Fprint(w, "last")
			return nil
		}
	}))
	h.expect(t, "/agents/desk/jo", 200, "0")
	request, err := json.Marshal(protocol.Request{V: protocol.Version, ID: "once",
		HTTP: &protocol.HTTPRequest{Method: http.MethodPost, URL: "/agents/desk/jo"}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() *nats.Subscription {
		inbox := r.nc.NewInbox()
		answers, err := r.nc.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.nc.PublishRequest(agentNamed("jo").RequestSubject(), inbox, request); err != nil {
			t.Fatal(err)
		}
		return answers
	}
	first := ask()
	<-begun
	second := ask()
	natstest.Eventually(t, soon, "the second copy is answered", func() bool {
		n, _, err := second.Pending()
		return err == nil && n >= 2 // that it is accepted, and the part that was sent before
	})
	close(goOn)
	for _, answers := range []*nats.Subscription{first, second} {
		var parts []string
		for end := false; !end; {
			m, err := answers.NextMsg(soon)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := readReply(m)
			if err != nil {
				t.Fatal(err)
			}
			if reply.Stream == nil {
				continue
			}
			end = reply.Stream.End
			parts = append(parts, fmt.Sprint(reply.Stream.Number, ":", string(reply.Stream.Data)))
		}
		if got, want := strings.Join(parts, ","), "1:first ,2:last,3:"; got != want {
			t.Errorf("parts %q, want %q", got, want)
		}
	}
}

// TestReaderGoesAway: the context of the turn ends, and it can still store something.
func TestReaderGoesAway(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, _ chan struct{}) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			err := Outside(q.Context(), func(ctx context.Context) error {
				fmt.Fprintln(w, "first")
				w.(http.Flusher).Flush()
				<-ctx.Done()
				return nil
			})
			if cause := context.Cause(q.Context()); !errors.Is(cause, ErrClientGone) {
				return cause
			}
			return errors.Join(err, d.add(q.Context(), "gone"))
		}
	}
	both(t, prepare, func(t *testing.T, r *rig, gate *testHost, _ chan struct{}) {
		s := gate.stream(t, "/agents/desk/jo")
		s.expect(t, "first")
		s.stop()
		r.awaitRecord(t, "jo", "knows", func(p protocolRecord) bool { return string(p.State) == `{"Count":0,"Log":["gone"]}` })
	}, toldAtOnce)
}

// toldAtOnce lets no host conclude from silence that a client has gone.
var toldAtOnce = timings(func(t *timing) { t.acceptLost = time.Hour })

// TestReaderGoesAwayBeforeTheFirstPart: that ends no turn, but a turn that begins to stream later learns at once that nobody reads it.
func TestReaderGoesAwayBeforeTheFirstPart(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, goOn chan struct{}) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			for range 2 {
				goOn <- struct{}{}
			}
			if err := q.Context().Err(); err != nil {
				return err
			}
			fmt.Fprintln(w, "first")
			w.(http.Flusher).Flush()
			<-q.Context().Done()
			return d.add(context.WithoutCancel(q.Context()), fmt.Sprint(context.Cause(q.Context())))
		}
	}
	both(t, prepare, func(t *testing.T, r *rig, gate *testHost, goOn chan struct{}) {
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _, _ = gate.tryCall(ctx, http.MethodPost, "/agents/desk/jo", "")
		}()
		awaitTurn(t, "the handler has begun", goOn)
		leave()
		<-ended
		natstest.Eventually(t, soon, "the host knows that the client has gone", func() bool { return gate.log.has("a client has gone before the answer") })
		awaitTurn(t, "the handler goes on", goOn)
		want := fmt.Sprintf(`{"Count":0,"Log":[%q]}`, ErrClientGone)
		r.awaitRecord(t, "jo", "knows", func(p protocolRecord) bool { return string(p.State) == want })
	}, toldAtOnce)
}

// TestSlowReader: the turn waits for whoever reads slowly, and for who reads nothing no longer than the limit.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, _ chan struct{}) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			sent := 0
			err := Outside(q.Context(), func(context.Context) error {
				for ; sent < 1000; sent++ {
					fmt.Fprint(w, strings.Repeat("x", partBytes))
					if err := http.NewResponseController(w).Flush(); err != nil {
						return nil
					}
				}
				return errors.New("everything was taken, though nobody reads")
			})
			return errors.Join(err, d.add(context.WithoutCancel(q.Context()), "gone"))
		}
	}
	impatient := timings(func(t *timing) { t.stallFor = 300 * time.Millisecond })
	both(t, prepare, func(t *testing.T, r *rig, gate *testHost, _ chan struct{}) {
		gate.stream(t, "/agents/desk/jo") // and nothing is read
		r.awaitRecord(t, "jo", "knows", func(p protocolRecord) bool { return string(p.State) == `{"Count":0,"Log":["gone"]}` })
	}, impatient)
}

// TestStreamedAnswersEndWithTheirHost: at its shutdown at once, so that it is not held up.
func TestStreamedAnswersEndWithTheirHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepare := func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			return Outside(q.Context(), func(ctx context.Context) error {
				fmt.Fprintln(w, "first")
				w.(http.Flusher).Flush()
				<-ctx.Done()
				return nil
			})
		}
	}
	patient := settings(func(s *process.Settings) { s.ShutdownGrace = process.Duration(time.Hour) })
	owner := r.host(t, desks(prepare), patient)
	owner.call(t, http.MethodGet, "/agents/desk/jo", "")
	gate := r.host(t, desks(prepare), patient)
	direct, passed, again := owner.stream(t, "/agents/desk/jo"), gate.stream(t, "/agents/desk/jo"), gate.stream(t, "/agents/desk/jo")
	for _, s := range []*streamed{direct, passed, again} {
		s.expect(t, "first")
	}
	again.stop()
	if err := owner.stop(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*streamed{direct, passed} {
		if rest, err := io.ReadAll(s.lines); len(rest) != 0 || err == nil {
			t.Errorf("at the end of the host came %q, %v; want it to break off", rest, err)
		}
	}
	last := gate.stream(t, "/agents/desk/jo")
	last.expect(t, "first")
	if err := gate.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(last.lines); err == nil {
		t.Error("the answer of a host that has ended came to its end")
	}
}

// TestStreamedAnswerOfAKilledHost breaks off: SIGKILL of the host that has the agent, while another passes its answer on.
func TestStreamedAnswerOfAKilledHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	victim := r.process(t, r.server.URL(), "")
	p := r.program(t, project.Config{Name: testProject})
	if _, err := Call(t.Context(), deskClass.In(p).Agent("jo"), (*desk).Add, 1); err != nil {
		t.Fatal(err)
	}
	gate := r.host(t, desks(nil))
	s := gate.stream(t, "/agents/desk/jo?stream")
	s.expect(t, "data: 1")
	victim.kill()
	if _, err := io.ReadAll(s.lines); err == nil {
		t.Error("the answer of a host that was killed came to its end")
	}
	gate.expect(t, "/agents/desk/jo", 200, "1")
	natstest.Eventually(t, soon, "it is told", func() bool { return gate.log.has("a streamed answer is broken off") })
}
