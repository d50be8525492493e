package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func sender(i int) string {
	return protocol.Agent{Project: testProject, Class: "Cart", Name: fmt.Sprint(i)}.TellSource(7)
}

// TestMarksOfSilentSendersAge: with many senders, those go of which nothing came for a week. What is the agent's own stays.
func TestMarksOfSilentSendersAge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	own := []string{protocol.SourceQueue, protocol.ScheduleSource("cron-1"), "workflow/1"}
	r := protocol.Record{Seen: map[string]uint64{protocol.KeySource("k"): 9, "shop:" + sender(1): 9}}
	for _, source := range own {
		r.Seen[source] = 5
	}
	age(&r, now)
	if r.AgedSince != nil || len(r.Seen) != 5 {
		t.Fatalf("marks of few senders age: %+v", r)
	}
	for i := range manySources {
		r.Seen[sender(i)] = uint64(i + 1)
	}
	age(&r, now)
	if len(r.Seen) != len(own) || len(r.Aged) != manySources+2 || !r.AgedSince.Equal(now) {
		t.Fatalf("%d marks are young and %d aged since %v", len(r.Seen), len(r.Aged), r.AgedSince)
	}
	for i := range 2 { // heard again
		r.Seen[sender(i)] = 1000
	}
	age(&r, now.Add(agedAfter-time.Second))
	if n, known := mark(r, sender(0)); n != 1000 || !known || len(r.Aged) != manySources {
		t.Errorf("mark of a sender that was heard again: %d (%v), %d are aged", n, known, len(r.Aged))
	}
	if n, known := mark(r, sender(2)); n != 3 || !known {
		t.Errorf("mark of a silent sender before the time: %d (%v)", n, known)
	}
	for i := range manySources {
		r.Seen[sender(1000+i)] = 1
	}
	later := now.Add(agedAfter)
	age(&r, later)
	for source, want := range map[string]bool{sender(0): true, sender(1001): true, sender(2): false, protocol.KeySource("k"): false,
		own[0]: true, own[1]: true, own[2]: true} {
		if _, known := mark(r, source); known != want {
			t.Errorf("after a week, the mark of %q is known: %v, want %v", source, known, want)
		}
	}
	if !r.AgedSince.Equal(later) {
		t.Errorf("aged since %v", r.AgedSince)
	}
}

// TestMarksHaveALimit: the error is of a type of its own; marks that are to be forgotten make room.
func TestMarksHaveALimit(t *testing.T) {
	t.Parallel()
	a := &desk{}
	full := protocol.Record{Life: 1, Seen: map[string]uint64{}, Aged: map[string]uint64{}, AgedSince: new(time.Now())}
	for i := range maxSources {
		if i%2 == 0 {
			full.Seen[sender(i)] = 1
		} else {
			full.Aged[sender(i)] = 1
		}
	}
	set := func(r protocol.Record, source string) (protocol.Record, error) {
		_, d := turnOf(t, desks(nil)[0], a, r)
		err := d.change(func() error { return d.mark(source, 2) })
		next, _ := d.next("c", time.Now())
		return next, err
	}
	_, err := set(full, "agent/new")
	if e, ok := errors.AsType[*SourcesError](err); !ok || e.Limit != maxSources || !strings.Contains(e.Error(), `"agent/new"`) {
		t.Errorf("one more source: %v, want a SourcesError", err)
	}
	for _, known := range []string{sender(0), sender(1)} {
		if next, err := set(full, known); err != nil || next.Seen[known] != 2 || next.Aged[known] != 0 {
			t.Errorf("mail of a known source: %v, mark %d, aged %d", err, next.Seen[known], next.Aged[known])
		}
	}
	full.AgedSince = new(time.Now().Add(-agedAfter))
	next, err := set(full, "agent/new")
	if _, stays := mark(next, sender(1)); err != nil || stays {
		t.Errorf("a week later: %v; a mark that nobody needs is there: %v", err, stays)
	}
}

// TestKeysAreKnownForAWeek: those that a sender has chosen. Others for an hour.
func TestKeysAreKnownForAWeek(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, desks(nil))
	p := r.program(t, project.Config{Name: testProject})
	ref := deskClass.In(p).Agent("jo")
	for range 2 {
		if err := Tell(t.Context(), ref, (*desk).Note, "chosen", ID("k1")); err != nil {
			t.Fatal(err)
		}
		if _, err := Call(t.Context(), ref, (*desk).Add, 1, ID("c1")); err != nil {
			t.Fatal(err)
		}
	}
	if err := Tell(t.Context(), ref, (*desk).Note, "any"); err != nil {
		t.Fatal(err)
	}
	record := r.awaitRecord(t, "jo", "has heard", func(p protocol.Record) bool { return string(p.State) == `{"Count":1,"Log":["chosen","any"]}` })
	if len(record.Calls) != 1 || len(record.Keys) != 2 {
		t.Fatalf("calls %+v, keys %+v; want one call, one key for an hour and one for a week", record.Calls, record.Keys)
	}
	for _, c := range record.Calls {
		wantLeft(t, c.Until, keepFor)
	}
	wantLeft(t, record.Keys[0].Until, copyFor)
	wantLeft(t, record.Keys[1].Until, keepFor)
}

// wantLeft reports an error if it is not as long until a moment, or up to a minute more.
func wantLeft(t *testing.T, until time.Time, want time.Duration) {
	t.Helper()
	if left := time.Until(until); left < want-natstest.Patience || left > want+time.Minute {
		t.Errorf("%v are left, want %v", left, want)
	}
}

// TestKeysAreBounded: a record remembers 1,000 calls and keys, those that are needed longest. One more takes some 16 bytes.
func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	var r protocol.Record
	now := time.Now()
	soon, late := keyUntil(copyFor), keyUntil(keepFor)
	tell := func(key string, until time.Time) {
		rememberCalls(&r, nil, now, &callMark{key: protocol.CallMark(key), until: until, isMail: true})
	}
	knows := func(key string) bool { return isRemembered(r, protocol.CallMark(key)) }
	for i := range maxMarks {
		tell(fmt.Sprint("any", i), soon)
	}
	if size := len(encoded(t, r)); size > 17*maxMarks {
		t.Errorf("%d keys take %d bytes", maxMarks, size)
	}
	before := encoded(t, r)
	rememberCalls(&protocol.Record{Keys: r.Keys}, nil, now, &callMark{key: protocol.CallMark("draft"), until: soon, isMail: true})
	if !bytes.Equal(encoded(t, r), before) {
		t.Error("a turn that is not stored changes what the record remembers")
	}
	tell("chosen", late)
	rememberCalls(&r, nil, now, &callMark{key: "call", until: soon.Add(time.Second), ended: true})
	if knows("any0") || knows("any1") || !knows("any2") || !knows(fmt.Sprint("any", maxMarks-1)) || !knows("chosen") || len(r.Calls) != 1 {
		t.Errorf("with 1,002, not the two that came first are forgotten")
	}
	for i := range maxMarks - 2 {
		tell(fmt.Sprint("more", i), late)
	}
	if knows("any999") || len(r.Calls) != 1 || !knows("chosen") || len(r.Keys) != 1 {
		t.Errorf("those that nobody will use again stay")
	}
	tell("last", late)
	if len(r.Calls) != 0 || !knows("chosen") {
		t.Errorf("a call that may be forgotten before all keys stays")
	}
	rememberCalls(&r, nil, late.Add(time.Second), nil)
	if len(r.Keys) != 0 {
		t.Errorf("%d moments of keys that are out of date", len(r.Keys))
	}
	r.Calls = map[string]protocol.AppliedCall{protocol.CallMark("old"): {Until: late}}
	if !knows("old") {
		t.Error("a key among the calls, as earlier programs have stored it, is not known")
	}
}

func encoded(t *testing.T, r protocol.Record) []byte {
	t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestLongNames: an agent of 1,024 bytes that are all escaped has everything that others have.
func TestLongNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(ends))
	r.scheduler(t)
	p := r.program(t, project.Config{Name: testProject})
	name := strings.Repeat("é.", protocol.MaxAgentName/3) + "."
	if len(name) != protocol.MaxAgentName {
		t.Fatalf("the name has %d bytes", len(name))
	}
	record := r.furnished(t, p, name)
	path := "/agents/desk/" + url.PathEscape(name)
	if status, body := h.call(t, http.MethodPost, path, ""); status != 200 || body != "1" {
		t.Errorf("POST = %d %s", status, body)
	}
	if _, err := Call(t.Context(), deskClass.In(p).Agent(name), (*desk).Ask, "x"); err != nil {
		t.Error(err)
	}
	if len(record.Seen) == 0 || record.StateObject == nil {
		t.Errorf("record %+v, want a large state and marks", record)
	}
	if err := Destroy(t.Context(), deskClass.In(p).Agent(name), Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	r.noTraces(t, name)
	l, err := r.store.Subjects(t.Context(), protocol.ObjectsStream(testProject), ">", 0)
	if err != nil || l.Total != 0 {
		t.Errorf("objects %q are left, %v", l.Subjects, err)
	}
	if source := agentNamed(name).TellSource(7); len(source) > 128 {
		t.Errorf("what it tells others has the source %q", source)
	}
}
