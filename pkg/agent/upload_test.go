package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/protocol"
)

// upload sends a body; of a reader that is no buffer, nobody knows the length.
func (h *testHost) upload(ctx context.Context, body io.Reader) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/agents/desk/jo", body)
	if err != nil {
		return 0, "", err
	}
	response, err := httpClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, strings.TrimSpace(string(text)), err
}

// onPost makes a desk count for GET and do something else for POST.
func onPost(handle func(*desk, http.ResponseWriter, *http.Request) error) func(*desk, http.ResponseWriter, *http.Request) error {
	return func(d *desk, w http.ResponseWriter, q *http.Request) error {
		if q.Method == http.MethodGet {
			return count(d, w, q)
		}
		return handle(d, w, q)
	}
}

// TestLongBodies reach the agent whole, wherever it lives, and whether their length is known or not.
func TestLongBodies(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, _ chan struct{}) {
		d.request = onPost(func(_ *desk, w http.ResponseWriter, q *http.Request) error {
			sum := sha256.New()
			n, err := io.Copy(sum, q.Body)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(w, "%d of %d %x", n, q.ContentLength, sum.Sum(nil))
			return err
		})
	}
	text := make([]byte, 5<<20)
	for i := range text {
		text[i] = byte(i * i >> 8)
	}
	both(t, prepare, func(t *testing.T, _ *rig, gate *testHost, _ chan struct{}) {
		for _, size := range []int{0, 1, maxRelayed - 1, maxRelayed, maxRelayed + 1, len(text)} {
			body := text[:size]
			for _, known := range []bool{true, false} {
				reader, length := io.Reader(bytes.NewReader(body)), size
				if !known {
					reader = struct{ io.Reader }{reader}
					if size >= maxRelayed {
						length = -1
					}
				}
				want := fmt.Sprintf("%d of %d %x", size, length, sha256.Sum256(body))
				if status, got, err := gate.upload(t.Context(), reader); status != 200 || got != want || err != nil {
					t.Errorf("body of %d bytes, length known: %v: %d %s, %v; want %s", size, known, status, got, err, want)
				}
			}
		}
	})
}

// TestBodyIsReadWhileItComes, and the answer can begin before its end.
func TestBodyIsReadWhileItComes(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, goOn chan struct{}) {
		d.request = onPost(func(_ *desk, w http.ResponseWriter, q *http.Request) error {
			if _, err := io.CopyN(io.Discard, q.Body, maxRelayed); err != nil {
				return err
			}
			goOn <- struct{}{}
			one := make([]byte, 3)
			if _, err := io.ReadFull(q.Body, one); err != nil {
				return err
			}
			fmt.Fprintf(w, "%s\n", one)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
			rest, err := io.ReadAll(q.Body)
			fmt.Fprintf(w, "%s\n", rest)
			return err
		})
	}
	both(t, prepare, func(t *testing.T, _ *rig, gate *testHost, goOn chan struct{}) {
		body, client := io.Pipe()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gate.url+"/agents/desk/jo", body)
		if err != nil {
			t.Fatal(err)
		}
		write := func(text string) {
			if _, err := io.WriteString(client, text); err != nil {
				t.Error(err)
			}
		}
		go func() {
			write(strings.Repeat("x", maxRelayed))
			<-goOn
			write("one")
		}()
		response, err := httpClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		first := make([]byte, 4)
		if _, err := io.ReadFull(response.Body, first); err != nil || string(first) != "one\n" {
			t.Fatalf("the answer begins with %q, %v", first, err)
		}
		write("two")
		_ = client.Close()
		if rest, err := io.ReadAll(response.Body); err != nil || string(rest) != "two\n" {
			t.Errorf("the answer ends with %q, %v", rest, err)
		}
	})
}

// noteCut reads a body, which must break off, and stores how.
func noteCut(d *desk, _ http.ResponseWriter, q *http.Request) error {
	n, err := io.Copy(io.Discard, q.Body)
	<-q.Context().Done() // ends as well
	cause := context.Cause(q.Context())
	text := fmt.Sprintf("cut: %v, gone: %v, whole: %v", errors.Is(err, io.ErrUnexpectedEOF), errors.Is(cause, ErrClientGone), n > maxRelayed)
	return d.add(context.WithoutCancel(q.Context()), text)
}

const cutState = `{"Count":0,"Log":["cut: true, gone: true, whole: false"]}`

// TestBodyBreaksOff: a client that goes away in the middle ends the context of the request, and its handler has an error, not
// the end of the body.
func TestBodyBreaksOff(t *testing.T) {
	t.Parallel()
	begin := func(d *desk, began chan struct{}) {
		d.request = onPost(func(d *desk, w http.ResponseWriter, q *http.Request) error {
			close(began)
			return noteCut(d, w, q)
		})
	}
	both(t, begin, func(t *testing.T, r *rig, gate *testHost, began chan struct{}) {
		body, client := io.Pipe()
		left := make(chan struct{})
		go func() {
			defer close(left)
			_, _, _ = gate.upload(t.Context(), body)
		}()
		if _, err := client.Write(make([]byte, maxRelayed)); err != nil {
			t.Fatal(err)
		}
		_ = awaitTurn(t, "the handler has begun", began) // who leaves before has no turn
		_ = client.CloseWithError(errors.New("the client goes away"))
		<-left
		r.awaitRecord(t, "jo", "knows", func(p protocolRecord) bool { return string(p.State) == cutState })
	}, toldAtOnce)
}

// TestBodyEndsAsItsClientLeaves: what is not passed on by then, the other host must not wait for.
func TestBodyEndsAsItsClientLeaves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	parts := r.hear(t, protocol.BodySubject(testProject, "owner"))
	u := newUpload(-1)
	f := &forward{host: &host{name: testProject, nc: r.nc, times: defaultTiming()}, id: "once", upload: u}
	f.heard(protocol.Reply{Accepted: true, Owner: "owner"})
	f.halt()
	u.add([]byte("last"))
	u.end(io.EOF)
	f.giveUp(ErrClientGone)
	var request protocol.Request
	if err := json.Unmarshal(awaitTurn(t, "the other host is told", parts).Data, &request); err != nil || request.Part == nil || request.Part.Broken == nil {
		t.Errorf("the other host is told %+v, %v", request, err)
	}
}

// TestBodyOfAKilledHost breaks off: the host that took the request is gone.
func TestBodyOfAKilledHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	impatient := timings(func(t *timing) { t.acceptEvery, t.acceptLost, t.stallFor = 50*time.Millisecond, time.Second, time.Hour })
	begun := make(chan struct{}, 1)
	classes := desks(func(d *desk) {
		d.request = onPost(func(d *desk, w http.ResponseWriter, q *http.Request) error {
			begun <- struct{}{}
			return noteCut(d, w, q)
		})
	})
	owner := r.host(t, classes, impatient)
	owner.call(t, http.MethodGet, "/agents/desk/jo", "")
	gate := r.host(t, classes, impatient)
	body, client := io.Pipe()
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _, _ = gate.upload(t.Context(), body)
	}()
	if _, err := client.Write(make([]byte, maxRelayed)); err != nil {
		t.Fatal(err)
	}
	<-begun
	gate.kill(t)
	r.awaitRecord(t, "jo", "knows", func(p protocolRecord) bool { return string(p.State) == cutState })
	_ = client.CloseWithError(errors.New("the client goes away"))
	<-left
}

// TestBodyOfAHostThatWasNotHeard: a body does not break off while this host has not read what its sender says, and does when it has
// and nothing more comes.
func TestBodyOfAHostThatWasNotHeard(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := &host{name: testProject, id: "owner", nc: r.nc, times: defaultTiming()}
	h.times.acceptLost = 300 * time.Millisecond
	subject := protocol.BodySubject(h.name, h.id)
	var err error
	if h.parts.sub, err = r.nc.Subscribe(subject, h.onBody); err != nil {
		t.Fatal(err)
	}
	say := func(id string) {
		body, err := json.Marshal(protocol.Request{V: protocol.Version, ID: id, Part: &protocol.BodyPart{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.nc.Publish(subject, body); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func() int {
		n, _, err := h.parts.sub.Pending()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	slow := h.flows.open(h, protocol.Request{ID: "slow", HTTP: &protocol.HTTPRequest{Length: -1}}, "")
	slow.mu.Lock()
	say("slow") // whose reader waits for the lock, before all that comes
	natstest.Eventually(t, soon, "something is to be read", func() bool { return h.parts.come() > 0 })
	one := h.flows.open(h, protocol.Request{ID: "one", HTTP: &protocol.HTTPRequest{Length: -1}}, "")
	ends := func() error {
		_, _, err := one.upload.part(0)
		return err
	}
	words := time.NewTicker(20 * time.Millisecond)
	defer words.Stop()
	for began := time.Now(); time.Since(began) < 5*h.times.acceptLost || waiting() < 10 && time.Since(began) < soon; <-words.C {
		say("one")
		if err := ends(); err != nil {
			t.Fatalf("%d words wait, and the body has ended with %v", waiting(), err)
		}
	}
	if waiting() < 10 {
		t.Fatalf("only %d words have waited", waiting())
	}
	read := time.Now()
	slow.mu.Unlock()
	natstest.Eventually(t, natstest.Patience, "all is read", func() bool { return waiting() == 0 })
	if err := ends(); err != nil && time.Since(read) < h.times.acceptLost {
		t.Errorf("all is read, and the body has ended with %v", err)
	}
	natstest.Eventually(t, natstest.Patience, "the body breaks off, since nothing more comes", func() bool { return ends() != nil })
}

// TestBodyOfASlowHost: a body does not break off while the process is there that has taken it and says nothing, for as long as a client may
// send nothing. If that process is gone, it breaks off at once.
func TestBodyOfASlowHost(t *testing.T) {
	t.Parallel()
	for name, stall := range map[string]time.Duration{"is there": time.Hour, "is gone": time.Hour, "says nothing for long": 200 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.idleHost(t)
			h.times.acceptLost, h.times.stallFor = 20*time.Millisecond, stall
			var err error
			if h.parts.sub, err = r.nc.SubscribeSync(protocol.BodySubject(h.name, h.id)); err != nil {
				t.Fatal(err)
			}
			const inbox = protocol.InboxPrefix + ".taker"
			words, err := r.nc.SubscribeSync(inbox)
			if err != nil {
				t.Fatal(err)
			}
			if name == "is gone" {
				if err := words.Unsubscribe(); err != nil {
					t.Fatal(err)
				}
			}
			f := h.flows.open(h, protocol.Request{ID: "one", HTTP: &protocol.HTTPRequest{Length: -1}}, inbox)
			if name != "is there" {
				natstest.Eventually(t, soon, "the body breaks off", f.upload.isOver)
				return
			}
			for range 3 { // each time it was missed
				m, err := words.NextMsg(soon)
				if err != nil || !strings.Contains(string(m.Data), `"accepted":true`) {
					t.Fatalf("the host that has taken the body is told %+v, %v", m, err)
				}
			}
			if f.upload.isOver() {
				t.Error("the body has ended, and the host is there that has taken it")
			}
			f.end(nil)
		})
	}
}

// TestBodyThatIsTooLong has one limit, wherever the agent lives.
func TestBodyThatIsTooLong(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, _ chan struct{}) {
		d.request = onPost(func(d *desk, _ http.ResponseWriter, q *http.Request) error {
			if _, err := io.ReadAll(q.Body); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			return d.add(q.Context(), "whole")
		})
	}
	limited := settings(func(s *process.Settings) { s.HTTPMaxBody = 1 << 20 })
	both(t, prepare, func(t *testing.T, r *rig, gate *testHost, _ chan struct{}) {
		for _, known := range []bool{true, false} {
			for size, want := range map[int]int{1 << 20: 200, 1<<20 + 1: 413, 3 << 20: 413} {
				body := io.Reader(bytes.NewReader(make([]byte, size)))
				if !known {
					body = struct{ io.Reader }{body}
				}
				status, text, err := gate.upload(t.Context(), body)
				if status != want || err != nil || want == 413 && !strings.Contains(text, `{"error":{"name":"BodyTooLarge","message":"the body is over 1048576 bytes long`) {
					t.Errorf("%d bytes, length known: %v: %d %s, %v; want %d", size, known, status, text, err, want)
				}
			}
		}
		if record, _ := r.record(t, "jo"); record.Turn != 2 {
			t.Errorf("%d turns are stored, want those of the two bodies that fit", record.Turn)
		}
	}, limited)
}

// TestUnreadBody is no reason to wait for the rest of it, nor to keep the connection.
func TestUnreadBody(t *testing.T) {
	t.Parallel()
	prepare := func(d *desk, _ chan struct{}) {
		d.request = onPost(func(*desk, http.ResponseWriter, *http.Request) error {
			return &Error{Status: http.StatusForbidden, Name: "No"}
		})
	}
	both(t, prepare, func(t *testing.T, _ *rig, gate *testHost, _ chan struct{}) {
		body, client := io.Pipe()
		go func() { _, _ = client.Write(make([]byte, maxRelayed+1)) }() // and no end
		status, text, err := gate.upload(t.Context(), body)
		_ = client.Close()
		if status != http.StatusForbidden || err != nil {
			t.Errorf("answer %d %s, %v", status, text, err)
		}
	})
}

// TestUploadWaitsForItsHandler: no more than a window is in memory.
func TestUploadWaitsForItsHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newUpload(-1)
		put := 0
		go func() {
			for u.put([]byte{1}) {
				put++
			}
		}()
		for taken := range 3 {
			if synctest.Wait(); put != windowParts+taken {
				t.Fatalf("%d parts were put and %d taken", put, taken)
			}
			if _, err := u.next(); err != nil {
				t.Fatal(err)
			}
		}
		u.end(io.EOF)
		synctest.Wait()
	})
}

// TestPartsOfABody: one that is missing breaks the body off, one that comes twice does not.
func TestPartsOfABody(t *testing.T) {
	t.Parallel()
	part := func(n int) protocol.BodyPart { return protocol.BodyPart{Number: n, Data: []byte{byte('0' + n)}} }
	end := func(n int) protocol.BodyPart { return protocol.BodyPart{Number: n, End: true} }
	alive := func(n int) protocol.BodyPart { return protocol.BodyPart{Number: n} }
	for _, test := range []struct {
		name  string
		parts []protocol.BodyPart
		body  string
		whole bool
	}{
		{"in order", []protocol.BodyPart{alive(0), part(1), alive(1), part(2), end(3)}, "12", true},
		{"again from the start", []protocol.BodyPart{part(1), part(2), part(1), part(2), part(3), end(4), end(4)}, "123", true},
		{"the first is missing", []protocol.BodyPart{part(2), end(3)}, "", false},
		{"one is missing", []protocol.BodyPart{part(1), part(3), end(4)}, "1", false},
		{"the last is missing", []protocol.BodyPart{part(1), end(3)}, "1", false},
		{"the last is missing, and the sender waits", []protocol.BodyPart{part(1), alive(2)}, "1", false},
		{"given up", []protocol.BodyPart{part(1), {Broken: &protocol.Failure{Name: protocol.FailureBodyBroken}}, part(2)}, "1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := &flow{window: newWindow(&host{times: defaultTiming()})}
			f.await(-1)
			for _, p := range test.parts {
				f.receive(p)
			}
			f.end(nil)
			f.upload.took = nil
			body, err := io.ReadAll(&uploadReader{upload: f.upload})
			if string(body) != test.body || (err == nil) != test.whole || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("read %q, %v; want %q, whole: %v", body, err, test.body, test.whole)
			}
		})
	}
}

// TestPartsOfManyBodies: parts that come while a host is behind with those of other bodies are not lost, however many there are.
func TestPartsOfManyBodies(t *testing.T) {
	t.Parallel()
	r, behind, goOn := newRig(t), make(chan struct{}), make(chan struct{})
	classes := desks(func(d *desk) {
		d.request = onPost(func(_ *desk, w http.ResponseWriter, q *http.Request) error {
			u := q.Body.(*uploadReader).upload
			u.mu.Lock() // so that the host can go on with no part of any body
			close(behind)
			<-goOn
			u.mu.Unlock()
			n, err := io.Copy(io.Discard, q.Body)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(w, n)
			return err
		})
	})
	owner := r.host(t, classes)
	owner.call(t, http.MethodGet, "/agents/desk/jo", "")
	gate := r.host(t, classes)
	parts, err := r.nc.SubscribeSync(protocol.BodySubject(testProject, "*"))
	if err == nil {
		err = errors.Join(parts.SetPendingLimits(-1, -1), r.nc.Flush())
	}
	if err != nil {
		t.Fatal(err)
	}
	passes := func(number int) (subject string) {
		for {
			m, err := parts.NextMsg(soon)
			if err != nil {
				t.Fatalf("part %d does not come: %v", number, err)
			}
			var q protocol.Request
			if json.Unmarshal(m.Data, &q) == nil && q.Part != nil && len(q.Part.Data) > 0 && q.Part.Number == number {
				return m.Subject
			}
		}
	}
	body, client := io.Pipe()
	var answer string
	var sending sync.WaitGroup
	sending.Go(func() {
		status, text, err := gate.upload(t.Context(), body)
		answer = fmt.Sprint(status, " ", text, " ", err)
	})
	write := func(bytes int) {
		if _, err := client.Write(make([]byte, bytes)); err != nil {
			t.Error(err)
		}
	}
	write(maxRelayed)
	<-behind
	write(1)
	subject := passes(maxRelayed/partBytes + 1) // the host cannot go on with that one
	// More than the 64 MB that NATS clients let wait, unless told otherwise, and each less than the last part.
	const others, otherBytes, more = 20_000, 4 << 10, 1_000
	came := owner.nc.Stats().InBytes
	other := func(n int) {
		for range n {
			if err := r.nc.Publish(subject, make([]byte, otherBytes)); err != nil {
				t.Fatal(err)
			}
		}
	}
	await := func(n int) {
		natstest.Eventually(t, soon, "parts of others have come", func() bool { return owner.nc.Stats().InBytes >= came+uint64(n)*otherBytes })
	}
	other(others)
	await(others)
	const last = 4 * otherBytes
	write(last)
	_ = client.Close()
	passes(maxRelayed/partBytes + 2)
	other(more)
	await(others + more)
	close(goOn)
	sending.Wait()
	if want := fmt.Sprint("200 ", maxRelayed+1+last, " <nil>"); answer != want {
		t.Errorf("the answer is %s, want %s", answer, want)
	}
}
