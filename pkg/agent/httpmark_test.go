package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// relayed sends a request to the owner of jo, as the host does that has taken it, and returns the answer.
func (r *rig) relayed(t *testing.T, request protocol.Request) string {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	inbox := r.nc.NewInbox()
	answers, err := r.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := r.nc.PublishRequest(agentNamed("jo").RequestSubject(), inbox, body); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := answers.NextMsg(soon)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := readReply(m)
		if err != nil {
			t.Fatal(err)
		}
		if reply.HTTP != nil {
			return fmt.Sprintf("%d %s", reply.HTTP.Status, reply.HTTP.Body)
		}
	}
}

// TestRequestThatWasServed is not served again: the record tells its answer, or what became of it.
func TestRequestThatWasServed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	onlyTheRecord := timings(func(t *timing) { t.rememberFor = 0 })
	classes := desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			switch q.URL.RawQuery {
			case "large":
				_, _ = io.WriteString(w, strings.Repeat("x", maxMarkedResult))
				return d.add(q.Context(), "large")
			case "saved":
				if err := errors.Join(d.add(q.Context(), "saved"), Save(q.Context())); err != nil {
					return err
				}
				return errors.New("no luck")
			case "fails":
				return errors.Join(d.add(q.Context(), "never"), errors.New("no luck"))
			case "reads":
				return count(d, w, q)
			}
			w.WriteHeader(http.StatusCreated)
			return count(d, w, q)
		}
	})
	h := r.host(t, classes, onlyTheRecord)
	h.expect(t, "/agents/desk/jo?reads", 200, "0")
	at := func(query string) *protocol.HTTPRequest {
		return &protocol.HTTPRequest{Method: http.MethodPost, URL: (&url.URL{Path: "/agents/desk/jo", RawQuery: query}).String()}
	}
	if got := r.relayed(t, protocol.Request{V: protocol.Version, ID: "never", Again: true, HTTP: at("")}); !strings.HasPrefix(got, `502 {"error":{"name":"FateUnknown"`) {
		t.Errorf("request that an earlier life may have had: %s", got)
	}
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = r.host(t, classes, onlyTheRecord)
	h.expect(t, "/agents/desk/jo?reads", 200, "1")
	for _, test := range []struct{ query, first, again string }{
		{"", `201 2`, `201 2`},
		{"large", `200 xxxx`, `502 {"error":{"name":"AnswerLost"`},
		{"saved", `500 `, `502 {"error":{"name":"InterruptedError"`},
		{"fails", `500 `, `503 {"error":{"name":"NotServed"`},
	} {
		request := protocol.Request{V: protocol.Version, ID: "of " + test.query, HTTP: at(test.query)}
		if got := r.relayed(t, request); !strings.HasPrefix(got, test.first) {
			t.Errorf("%q: %.80s, want %s", test.query, got, test.first)
		}
		for _, again := range []bool{true, true, false} {
			if request.Again = again; test.query == "fails" && !again {
				continue // it may be served, as nothing is known of it
			}
			if got := r.relayed(t, request); !strings.HasPrefix(got, test.again) {
				t.Errorf("%q, again: %.80s, want %s", test.query, got, test.again)
			}
		}
	}
}

// TestRequestIsAskedForAgain under its id if the host that has accepted it says nothing more: not to be served, but for its
// answer.
func TestRequestIsAskedForAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	requests := make(chan protocol.Request, 10)
	sub, err := r.nc.Subscribe(agentNamed("jo").RequestSubject(), func(m *nats.Msg) {
		var request protocol.Request
		if err := json.Unmarshal(m.Data, &request); err != nil {
			t.Error(err)
		}
		if request.HTTP != nil {
			_ = m.Respond([]byte(`{"v":1,"accepted":true}`))
			if request.Again {
				_ = m.Respond([]byte(`{"v":1,"http":{"status":200,"body":"MQ=="},"kept":true}`))
			}
		}
		requests <- request
	})
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	gate := r.host(t, desks(nil), timings(func(t *timing) { t.acceptEvery, t.acceptWithin = 50*time.Millisecond, 3*time.Second }))
	if status, body := gate.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 || body != "1" {
		t.Errorf("answer %d %s, want that of the second time", status, body)
	}
	first, second := <-requests, <-requests
	if first.Again || !second.Again || first.ID != second.ID || first.ID == "" || first.HTTP.Until.IsZero() {
		t.Errorf("requests %+v and %+v, want the second to ask for the answer of the first", first, second)
	}
	select {
	case third := <-requests:
		t.Errorf("then came %+v: a copy is under way, so that the record must not forget", third)
	default:
	}
}

// TestAnsweredRequestIsForgotten: whoever passed it on has the answer, and the next commit needs no room for it any more.
func TestAnsweredRequestIsForgotten(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, _ chan struct{}) {
		d.request = onPost(func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if err := d.add(q.Context(), "x"); err != nil {
				return err
			}
			if q.URL.Query().Has("stream") {
				fmt.Fprint(w, "first ")
				w.(http.Flusher).Flush()
			}
			return d.add(q.Context(), "y")
		})
	}
	both(t, prepare, func(t *testing.T, r *rig, gate *testHost, _ chan struct{}) {
		for _, query := range []string{"", "?stream"} {
			if status, body := gate.call(t, http.MethodPost, "/agents/desk/jo"+query, ""); status != 200 {
				t.Errorf("%s: %d %s", query, status, body)
			}
		}
		r.awaitRecord(t, "jo", "remembers no call but the last", func(p protocolRecord) bool {
			gate.call(t, http.MethodPost, "/agents/desk/jo", "")
			return len(p.Calls) <= 1
		})
	})
}

// TestWhatEndsARequestThatWasNotStored: a host that was cut off while it stored the turn cannot know; one that was refused does.
func TestWhatEndsARequestThatWasNotStored(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		end       error
		condemned bool
		want      error
	}{
		{&endError{ErrLostOwnership}, false, errDropped},
		{&endError{ErrLostOwnership}, true, errEnded},
		{&endError{fmt.Errorf("write: %w", journal.ErrUnknownOutcome)}, false, errFate},
		{&endError{fmt.Errorf("write: %w", journal.ErrUnknownOutcome)}, true, errFate},
	} {
		a := &actor{}
		a.at.record.Condemned = row.condemned
		if err := a.dropped(row.end); !errors.Is(err, row.want) {
			t.Errorf("ended by %v (condemned: %v) it is %v, want %v", row.end, row.condemned, err, row.want)
		}
	}
}
