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

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// store is a request function that makes the body's length, times 1,000, that of the log; it answers with the revision.
func store(d *desk, w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		size := int(r.ContentLength) * 1000
		if err := d.SetState(r.Context(), deskState{Count: d.State().Count + 1, Log: []string{strings.Repeat("x", size)}}); err != nil {
			return err
		}
	}
	s := d.State()
	length := 0
	if len(s.Log) > 0 {
		length = len(s.Log[0])
	}
	_, err := fmt.Fprintf(w, "%d changes, %d bytes, revision %d", s.Count, length, d.Revision())
	return err
}

// states lists the subjects under which large states of a desk are.
func (r *rig) states(t *testing.T, name string) []string {
	t.Helper()
	l, err := r.store.Subjects(t.Context(), protocol.ObjectsStream(testProject), agentNamed(name).StateSubjects(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return l.Subjects
}

func TestLargeStateIsAnObject(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	storing := desks(func(d *desk) { d.request = store })
	h := r.host(t, storing)
	post := func(h *testHost, thousands int, want string) protocol.Record {
		t.Helper()
		if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", strings.Repeat("b", thousands)); status != 200 || body != want {
			t.Fatalf("POST = %d %s, want %s", status, body, want)
		}
		record, _ := r.record(t, "jo")
		return record
	}
	if record := post(h, 60, "1 changes, 60000 bytes, revision 1"); record.State == nil || record.StateObject != nil || record.Large {
		t.Errorf("a state of 60 KB stands in %+v, want the record", record.StateObject)
	}
	first := post(h, 300, "2 changes, 300000 bytes, revision 2")
	if first.State != nil || first.StateObject == nil || first.StateObject.Size < 300000 || !first.Large || first.Revision != 2 {
		t.Fatalf("record with a state of 300 KB: %d bytes inline, object %+v", len(first.State), first.StateObject)
	}
	second := post(h, 400, "3 changes, 400000 bytes, revision 3")
	natstest.Eventually(t, soon, "the replaced state is deleted", func() bool { return len(r.states(t, "jo")) == 1 })
	if _, err := objects.New(r.store).Get(t.Context(), testProject, *first.StateObject); err == nil {
		t.Error("the replaced state can still be read")
	}
	if whole, err := objects.New(r.store).Get(t.Context(), testProject, *second.StateObject); err != nil || len(whole) < 400000 {
		t.Errorf("the state has %d bytes, %v", len(whole), err)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = r.host(t, storing)
	h.expect(t, "/agents/desk/jo", 200, "3 changes, 400000 bytes, revision 3")
	post(h, 1, "4 changes, 1000 bytes, revision 4")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if record, _ := r.record(t, "jo"); len(r.states(t, "jo")) != 0 || record.Large || record.StateObject != nil {
		t.Errorf("after a small state there are objects %v; record %+v", r.states(t, "jo"), record)
	}
}

// TestStateOverTheLimit: the cap is a typed error before anything is stored, and the turn can go on with what it had.
func TestStateOverTheLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			err := d.SetState(q.Context(), deskState{Log: []string{strings.Repeat("x", protocol.MaxState)}})
			refused, ok := errors.AsType[*StateError](err)
			if !ok || refused.Limit != 16<<20 || refused.Size != protocol.MaxState+int64(len(`{"Count":0,"Log":[""]}`)) {
				t.Errorf("SetState of more than 16 MiB: %v", err)
			}
			most := strings.Repeat("x", protocol.MaxState-len(`{"Count":0,"Log":[""]}`))
			if err := d.SetState(q.Context(), deskState{Log: []string{most}}); err != nil {
				t.Errorf("SetState of 16 MiB: %v", err)
			}
			return d.SetState(q.Context(), deskState{Count: 7})
		}
	}))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	record, _ := r.record(t, "jo")
	if string(record.State) != `{"Count":7,"Log":null}` || record.Large || len(r.states(t, "jo")) != 0 {
		t.Errorf("record %+v, want the last state of the turn, and no object of the others", record)
	}
}

// TestHostDiesBetweenObjectAndCommit: the object that no record refers to harms nothing and is taken away.
func TestHostDiesBetweenObjectAndCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	storing := desks(func(d *desk) { d.request = store })
	h := r.host(t, storing)
	body := strings.Repeat("b", 100)
	h.call(t, http.MethodPost, "/agents/desk/jo", body)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	before, _ := r.record(t, "jo")
	// What a dead owner leaves: an object of its epoch, and no commit.
	owner := protocol.StateOwner(agentNamed("jo"), before.Epoch, 99)
	if _, err := objects.New(r.store).Put(t.Context(), objects.Value{Owner: owner, JSON: json.RawMessage(`{"Count":66}`)}); err != nil {
		t.Fatal(err)
	}
	if n := len(r.states(t, "jo")); n != 2 {
		t.Fatalf("%d objects, want that of the state and that of the dead owner", n)
	}
	h = r.host(t, storing)
	h.expect(t, "/agents/desk/jo", 200, "1 changes, 100000 bytes, revision 1")
	natstest.Eventually(t, soon, "the dead owner's object is deleted", func() bool { return len(r.states(t, "jo")) == 1 })
	h.expect(t, "/agents/desk/jo", 200, "1 changes, 100000 bytes, revision 1")
}

// watcher is an agent with all the hooks of the state.
type watcher struct {
	Base[int]
	validate func(ctx context.Context, w *watcher, next int) error
	changed  func(ctx context.Context, w *watcher, now int) error
	failed   func(error)
}

func (w *watcher) InitialState() int { return 5 }

func (w *watcher) ValidateStateChange(ctx context.Context, next int) error {
	return w.validate(ctx, w, next)
}
func (w *watcher) OnStateChanged(ctx context.Context, now int) error { return w.changed(ctx, w, now) }
func (w *watcher) OnError(_ context.Context, err error) error        { w.failed(err); return nil }

func (w *watcher) OnRequest(out http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		if err := w.SetState(r.Context(), int(r.ContentLength)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "%d at revision %d", w.State(), w.Revision())
	return err
}

func TestHooksOfTheState(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var mu sync.Mutex
	var seen []int
	var errs []error
	classes := []Class{Define("Watcher", func() *watcher {
		return &watcher{
			validate: func(ctx context.Context, w *watcher, next int) error {
				if err := w.SetState(ctx, 1); err == nil {
					t.Error("ValidateStateChange can set the state")
				}
				if next == 3 {
					return &Error{Status: http.StatusConflict, Name: "Odd", Message: "three is too odd"}
				}
				return nil
			},
			changed: func(ctx context.Context, w *watcher, now int) error {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, now)
				if now == 4 {
					return w.SetState(ctx, 40)
				}
				if err := w.SetState(ctx, 1000); err != nil {
					t.Error(err)
				}
				return fmt.Errorf("did not like %d", now)
			},
			failed: func(err error) { mu.Lock(); defer mu.Unlock(); errs = append(errs, err) },
		}
	})}
	h := r.host(t, classes)
	h.expect(t, "/agents/watcher/jo", 200, "5 at revision 0")
	for _, step := range []struct {
		size   int
		status int
		body   string
		then   string
	}{
		{2, 200, "2 at revision 1", "2 at revision 1"},
		{3, 409, `{"error":{"name":"Odd","message":"three is too odd"}}`, "2 at revision 1"},
		{2, 200, "2 at revision 1", "2 at revision 1"},
		{4, 200, "4 at revision 2", "40 at revision 3"},
	} {
		if status, body := h.call(t, http.MethodPost, "/agents/watcher/jo", strings.Repeat("b", step.size)); status != step.status || body != step.body {
			t.Errorf("POST of %d = %d %s, want %d %s", step.size, status, body, step.status, step.body)
		}
		h.expect(t, "/agents/watcher/jo", 200, step.then)
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(seen) != "[2 4]" {
		t.Errorf("OnStateChanged was called for %v, want it for 2 and 4, and not for what it set itself", seen)
	}
	if len(errs) != 1 || errs[0].Error() != "OnStateChanged: did not like 2" {
		t.Errorf("OnError got %v, want what OnStateChanged returned", errs)
	}
}

type wrongHooks struct{ Base[int] }

func (*wrongHooks) ValidateStateChange(context.Context, string) error { return nil }
func (*wrongHooks) OnStateChanged(context.Context) error              { return nil }
func (*wrongHooks) OnStateChange(context.Context, int) error          { return nil }

func TestHooksOfTheStateHaveItsType(t *testing.T) {
	t.Parallel()
	err := Define("Wrong", func() *wrongHooks { return &wrongHooks{} }).Err()
	for _, want := range []string{
		"ValidateStateChange has the signature func(context.Context, string) error, wanted is func(context.Context, int) error",
		"OnStateChanged has the signature func(context.Context) error, wanted is func(context.Context, int) error",
		"OnStateChange: no such hook, did you mean OnStateChanged?",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of: %s\nin: %v", want, err)
		}
	}
}
