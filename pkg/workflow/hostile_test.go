package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestEventsThatAreNone: whoever may send events may send anything. It must not hold up what is an event.
func TestEventsThatAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	send := func(body string) {
		t.Helper()
		if _, err := b.store.Publish(t.Context(), b.instance("w", "a").EventSubject(), nil, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	var none []string
	none = append(none, ``, `{`, `null`, `[]`, `{"type":7}`, `{"v":99,"input":"n","type":"go","payload":0}`,
		`{"v":1,"input":"l","type":"go","payload":"`+strings.Repeat("<", 200<<10)+`"}`, // six bytes each in the log
		`{"v":1,"input":"`+strings.Repeat("i", 2<<10)+`","type":"go","payload":0}`)
	b.create("w", "a", 1)
	for _, body := range none[:4] {
		send(body)
	}
	b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) ([]string, error) {
		var all []string
		for range 3 {
			e, err := WaitForEvent[json.RawMessage](ctx, "go", "go")
			if err != nil {
				return nil, err
			}
			all = append(all, string(e.Payload))
		}
		return all, nil
	}))
	b.reaches("w", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	for _, body := range none[4:] {
		send(body)
	}
	for n := range 3 { // by hand: without an id, and with blanks, which a replay would not see
		send(fmt.Sprintf(`{"v":1,"type":"go","payload":{"n": %d}}`, n))
	}
	if got, want := string(b.complete("w", "a").Output), `["{\"n\":0}","{\"n\":1}","{\"n\":2}"]`; got != want {
		t.Errorf("the workflow received %s, want %s", got, want)
	}
}

// TestCreatesThatAreNone: an instance that nobody can read ends with an error that people can see.
func TestCreatesThatAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	create := func(id, body string) {
		t.Helper()
		if _, err := b.store.Append(t.Context(), b.instance("w", id).Stream(), b.instance("w", id).CreateSubject(), 0, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	create("newer", `{"v":99}`)
	create("broken", `{`)
	create("wrong", `{"v":1,"created":"yesterday"}`)
	create("bare", `{}`)
	b.serve(execution.Settings{}, Define("w", func(_ context.Context, e Event[int]) (string, error) {
		return e.Workflow + "/" + e.InstanceID, nil
	}))
	for _, id := range []string{"broken", "wrong"} {
		if f := b.errored("w", id); f.Name != protocol.FailureEncoding {
			t.Errorf("%s failed with %+v", id, f)
		}
	}
	if got := string(b.complete("w", "bare").Output); got != `"w/bare"` {
		t.Errorf("an instance without a body is told that it is %s", got)
	}
	if got := b.entries("w", "newer"); len(got) != 0 {
		t.Errorf("the log of an instance of a newer version holds %+v", got)
	}
}
