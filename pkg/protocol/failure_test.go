package protocol_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/skein-run/skein/pkg/protocol"
)

// testError is an error with everything that a stored failure can take over.
type testError struct {
	name     string
	text     string
	terminal bool
	details  any
	cause    error
}

func (e *testError) Error() string       { return e.text }
func (e *testError) FailureName() string { return e.name }
func (e *testError) Terminal() bool      { return e.terminal }
func (e *testError) FailureDetails() any { return e.details }
func (e *testError) Unwrap() error       { return e.cause }

func TestNewFailure(t *testing.T) {
	t.Parallel()
	plain := errors.New("disk full")
	full := &testError{name: "CardError", text: "card refused", terminal: true, details: map[string]int{"code": 51}, cause: plain}
	fullDetails := json.RawMessage(`{"code":51}`)
	causes := func(texts ...string) (all []protocol.Cause) {
		for _, s := range texts {
			all = append(all, protocol.Cause{Name: protocol.FailureError, Message: s})
		}
		return all
	}
	tests := []struct {
		name string
		err  error
		want protocol.Failure
	}{
		{"plain error", plain, protocol.Failure{Name: "Error", Message: "disk full"}},
		{"chain", fmt.Errorf("book: %w", fmt.Errorf("store: %w", plain)), protocol.Failure{
			Name: "Error", Message: "book: store: disk full", Causes: causes("store: disk full", "disk full")}},
		{"everything", full, protocol.Failure{Name: "CardError", Message: "card refused", Terminal: true,
			Details: fullDetails, Causes: causes("disk full")}},
		{"wrapped, it stays terminal and keeps details", fmt.Errorf("pay: %w", full), protocol.Failure{
			Name: "Error", Message: "pay: card refused", Terminal: true, Details: fullDetails,
			Causes: []protocol.Cause{{Name: "CardError", Message: "card refused"}, {Name: "Error", Message: "disk full"}}}},
		{"joined errors follow the first", errors.Join(plain, errors.New("second")), protocol.Failure{
			Name: "Error", Message: "disk full\nsecond", Causes: causes("disk full")}},
		{"terminal among joined errors", errors.Join(plain, &testError{name: "X", text: "x", terminal: true}), protocol.Failure{
			Name: "Error", Message: "disk full\nx", Terminal: true, Causes: causes("disk full")}},
		{"empty name", &testError{text: "nameless"}, protocol.Failure{
			Name: "Error", Message: "nameless"}},
		{"details too large", &testError{name: "X", text: "x", details: strings.Repeat("d", protocol.MaxFailureDetails)},
			protocol.Failure{Name: "X", Message: "x"}},
		{"largest details", &testError{name: "X", text: "x", details: strings.Repeat("d", protocol.MaxFailureDetails-2)},
			protocol.Failure{Name: "X", Message: "x",
				Details: json.RawMessage(`"` + strings.Repeat("d", protocol.MaxFailureDetails-2) + `"`)}},
		{"details that JSON cannot hold", &testError{name: "X", text: "x", details: math.Inf(1)},
			protocol.Failure{Name: "X", Message: "x"}},
		{"text that is not UTF-8", &testError{name: "X\xff", text: "a\xffb", details: 1},
			protocol.Failure{Name: "X\uFFFD", Message: "a\uFFFDb", Details: json.RawMessage("1")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := protocol.NewFailure(tt.err)
			if !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("\n got %+v\nwant %+v", *got, tt.want)
			}
			if back := storeAndRead(t, got); !reflect.DeepEqual(back, got) {
				t.Errorf("read back\n got %+v\nwant %+v", *back, *got)
			}
		})
	}
}

func storeAndRead(t *testing.T, f *protocol.Failure) *protocol.Failure {
	t.Helper()
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	back := new(protocol.Failure)
	if err := json.Unmarshal(raw, back); err != nil {
		t.Fatal(err)
	}
	return back
}

// TestFailureOfAProgram: programs make failures as well, and a log must be able to hold them.
func TestFailureOfAProgram(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2<<20)
	var none *protocol.Failure
	for _, tt := range []struct {
		name string
		err  error
		want protocol.Failure
	}{
		{"without a name", &protocol.Failure{Message: "m"}, protocol.Failure{Name: "Error", Message: "m"}},
		{"details that are no JSON", &protocol.Failure{Name: "N", Details: json.RawMessage("{")}, protocol.Failure{Name: "N"}},
		{"details too large", &protocol.Failure{Name: "N", Details: json.RawMessage(`"` + long + `"`)}, protocol.Failure{Name: "N"}},
		{"no text", &protocol.Failure{Name: "N", Message: "a\xff"}, protocol.Failure{Name: "N", Message: "a\uFFFD"}},
		{"nil", none, protocol.Failure{Name: "Error", Message: "an error of type *Failure that is nil"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := protocol.NewFailure(tt.err); !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("got %+v, want %+v", *got, tt.want)
			}
		})
	}
	causes := make([]protocol.Cause, 20)
	for i := range causes {
		causes[i] = protocol.Cause{Name: long, Message: long}
	}
	huge := &protocol.Failure{Name: long, Message: long, Causes: causes}
	for _, err := range []error{huge, fmt.Errorf("wrapped: %w", huge)} {
		body, encErr := json.Marshal(protocol.NewFailure(err))
		if encErr != nil || len(body) > 128<<10 {
			t.Errorf("stored in %d bytes, %v", len(body), encErr)
		}
	}
}

func TestStoredFailureIsStoredAsItIs(t *testing.T) {
	t.Parallel()
	f := protocol.NewFailure(&testError{name: "X", text: "x", terminal: true, details: 1, cause: errors.New("y")})
	if got := protocol.NewFailure(f); got != f {
		t.Errorf("got %+v, want the same failure %+v", got, f)
	}
}

// A step's error is wrapped once as the original and, in a replay, once as what was stored of it.
func TestReplayComesToTheSameFailure(t *testing.T) {
	t.Parallel()
	deep := error(errors.New("end"))
	for i := range protocol.MaxCauses + 3 {
		deep = fmt.Errorf("%d: %w", i, deep)
	}
	tests := []struct {
		name string
		err  error
	}{
		{"plain", errors.New("a")},
		{"terminal with details and causes", &testError{name: "X", text: "x", terminal: true, details: []int{1}, cause: errors.New("y")}},
		{"more causes than are kept", deep},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			first := protocol.NewFailure(fmt.Errorf("book: %w", tt.err))
			replayed := protocol.NewFailure(fmt.Errorf("book: %w", storeAndRead(t, protocol.NewFailure(tt.err))))
			if !reflect.DeepEqual(first, replayed) {
				t.Errorf("\n   first %+v\nreplayed %+v", *first, *replayed)
			}
			if len(first.Causes) > protocol.MaxCauses {
				t.Errorf("%d causes, at most %d are allowed", len(first.Causes), protocol.MaxCauses)
			}
		})
	}
}

func TestOuterErrorDecidesWhetherTerminal(t *testing.T) {
	t.Parallel()
	stored := protocol.NewFailure(&testError{name: "X", text: "x", terminal: true})
	f := protocol.NewFailure(&testError{name: "Y", text: "y", terminal: false, cause: stored})
	if f.Terminal {
		t.Error("the failure is terminal although the outer error says that it is not")
	}
}

func TestFailureIs(t *testing.T) {
	t.Parallel()
	f := protocol.NewFailure(&testError{name: "X", text: "x", details: 1})
	again := storeAndRead(t, f)
	if !errors.Is(fmt.Errorf("step: %w", f), again) {
		t.Error("a stored failure does not equal itself read back")
	}
	for _, other := range []error{
		&protocol.Failure{Name: "X", Message: "other"},
		&protocol.Failure{Name: "Y", Message: "x"},
		errors.New("x"),
	} {
		if errors.Is(f, other) {
			t.Errorf("%#v equals %#v", f, other)
		}
	}
	if f.Error() != "x" || f.FailureName() != "X" {
		t.Errorf("text %q, name %q", f.Error(), f.FailureName())
	}
}

func FuzzFailureText(f *testing.F) {
	f.Add("a", 0)
	f.Add("ü", protocol.MaxFailureMessage-4)
	f.Add("\xff", protocol.MaxFailureMessage)
	f.Add("\xe2\x80", protocol.MaxFailureMessage-1)
	f.Fuzz(func(t *testing.T, text string, pad int) {
		text = strings.Repeat("x", max(pad, 0)%(2*protocol.MaxFailureMessage)) + text
		got := protocol.NewFailure(&testError{name: text, text: text, cause: errors.New(text)})
		for _, s := range []string{got.Name, got.Message, got.Causes[0].Message} {
			if len(s) > protocol.MaxFailureMessage || !utf8.ValidString(s) {
				t.Fatalf("%d bytes, UTF-8 %v: %q", len(s), utf8.ValidString(s), s)
			}
		}
		if len(text) <= protocol.MaxFailureMessage && utf8.ValidString(text) && got.Message != text {
			t.Fatalf("%q was changed to %q", text, got.Message)
		}
	})
}
