package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestResultAfterRestart: an end counts only if the instance was not told to begin again since.
func TestResultAfterRestart(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	output := func(text string) json.RawMessage { return json.RawMessage(text) }
	for _, row := range []struct {
		name string
		// before and after are announced before and after Result is asked for; restart is the sequence of the control.
		before, after func(incarnation, restart uint64) []protocol.Done
		want          int
	}{
		{"an older end",
			func(i, _ uint64) []protocol.Done {
				return []protocol.Done{{Incarnation: i, Log: 1, Output: output("1")}}
			},
			func(i, c uint64) []protocol.Done {
				return []protocol.Done{{Incarnation: i, Log: 1, Output: output("1")}, {Incarnation: i, Log: c + 1, Mark: c, Epoch: 1, Output: output("2")}}
			}, 2},
		{"an older end, told late",
			func(i, c uint64) []protocol.Done {
				return []protocol.Done{{Incarnation: i, Log: c + 1, Mark: c, Epoch: 1, Output: output("2")}, {Incarnation: i, Log: 1, Output: output("1")}}
			}, nil, 2},
		{"a restart in vain",
			func(i, c uint64) []protocol.Done {
				return []protocol.Done{{Incarnation: i, Log: 1, Output: output("1")}}
			},
			func(i, c uint64) []protocol.Done {
				return []protocol.Done{{Incarnation: i, Log: 1, Mark: c, Output: output("1")}}
			}, 1},
		{"an end of an older instance",
			func(i, c uint64) []protocol.Done {
				return []protocol.Done{{Incarnation: i - 1, Log: 1, Mark: c, Output: output("1")}}
			},
			func(i, c uint64) []protocol.Done {
				return []protocol.Done{{Incarnation: i, Log: c + 1, Mark: c, Epoch: 1, Output: output("2")}}
			}, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			created, err := d.bound().Create(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			found, err := d.bound().Get(t.Context(), created.ID())
			if err != nil {
				t.Fatal(err)
			}
			if err := found.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, restart := d.control(created.ID())
			for _, done := range row.before(created.incarnation, restart) {
				d.announce(created.ID(), done)
			}
			results := make(chan int, 2)
			for _, i := range []*Instance[int]{created, found} {
				go func() {
					n, err := i.Result(t.Context())
					if err != nil {
						n = -1
					}
					results <- n
				}()
			}
			if row.after != nil {
				select {
				case n := <-results:
					// The creator may have heard the very first end of all.
					t.Errorf("result %d too early", n)
				case <-time.After(100 * time.Millisecond):
				}
				for _, done := range row.after(created.incarnation, restart) {
					d.announce(created.ID(), done)
				}
			}
			for range 2 {
				if n := <-results; n != row.want {
					t.Errorf("result %d, want %d", n, row.want)
				}
			}
		})
	}
}

func TestResultOfWhatDidNotComplete(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	terminated := &protocol.Failure{Name: protocol.FailureTerminated, Message: "stopped"}
	for _, row := range []struct {
		name string
		done protocol.Done
		is   func(error) bool
	}{
		{"terminated", protocol.Done{State: protocol.StateTerminated, Error: terminated}, func(err error) bool {
			e, ok := errors.AsType[*InstanceError](err)
			return ok && e.FailureName() == "TerminatedError"
		}},
		{"deleted", protocol.Done{State: protocol.StateDeleted, Error: &protocol.Failure{Name: protocol.FailureDeleted}}, is(ErrNotFound)},
		{"expired", protocol.Done{Expires: past()}, is(ErrNotFound)},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			created, incarnation := d.make(row.name)
			row.done.Incarnation = incarnation
			errs := make(chan error, 1)
			go func() { _, err := created.Result(t.Context()); errs <- err }()
			d.announce(row.name, row.done)
			if err := <-errs; !row.is(err) {
				t.Errorf("error is %v", err)
			}
		})
	}
	t.Run("erased while somebody waits", func(t *testing.T) {
		t.Parallel()
		created, err := d.bound().Create(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 1)
		go func() { _, err := created.Result(t.Context()); errs <- err }()
		d.erase(created.ID())
		if err := <-errs; !errors.Is(err, ErrNotFound) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		created, _ := d.make("nothing")
		soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := created.Result(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}
