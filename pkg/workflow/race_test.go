package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// untilEvent waits for an event and returns its payload.
func untilEvent(name, eventType string) func(ctx context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		e, err := WaitForEvent[int](ctx, name, eventType)
		return e.Payload, err
	}
}

func untilOver(name string, d time.Duration) func(ctx context.Context) (int, error) {
	return func(ctx context.Context) (int, error) { return -1, Sleep(ctx, name, d) }
}

func failsOnce(name string) func(ctx context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		return Do(ctx, name, func(context.Context) (int, error) { return 0, errFlaky }, Retries(0, 0, Constant))
	}
}

// transcript is what the runs of an instance saw, call by call.
type transcript struct {
	mu   sync.Mutex
	runs [][]string
}

// begin notes that another run begins, and returns how it notes what it sees.
func (s *transcript) begin() (see func(format string, args ...any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	run := len(s.runs)
	s.runs = append(s.runs, nil)
	return func(format string, args ...any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.runs[run] = append(s.runs[run], fmt.Sprintf(format, args...))
	}
}

// agree fails unless each run saw what the last one saw, as far as it came.
func (s *transcript) agree(t *testing.T, atLeast int) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.runs[len(s.runs)-1]
	for i, run := range s.runs {
		if len(run) > len(last) || !slices.Equal(run, last[:len(run)]) {
			t.Errorf("run %d saw %q, the last one %q", i+1, run, last)
		}
	}
	if len(s.runs) < atLeast {
		t.Errorf("%d runs, want at least %d", len(s.runs), atLeast)
	}
	return last
}

// TestNoMessageIsLostToATick races events with ticks, again and again, while runners come and go. Each event comes out
// once, in order, whoever won when; and all runs see the same winners.
func TestNoMessageIsLostToATick(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		settings execution.Settings
		messages int
	}{{"in memory", execution.Settings{}, 40}, {"parked", parks(), 14}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b, seen := setup(t), &transcript{}
			definition := Define("w", func(ctx context.Context, _ Event[int]) ([]int, error) {
				see := seen.begin()
				var got []int
				for len(got) < row.messages {
					winner, message, err := Race(ctx, "message or tick", untilEvent("message", "message"), untilOver("tick", 20*time.Millisecond))
					if err != nil {
						return nil, err
					}
					see("%d: %d", winner, message)
					if winner == 0 {
						got = append(got, message)
					}
				}
				return got, nil
			})
			stop := b.serve(row.settings, definition)
			b.create("w", "a", 1)
			var want []int
			for i := range row.messages {
				if i%3 == 1 { // some come around a tick, some at once
					slept := b.kinds("w", "a")[protocol.EntrySlept]
					natstest.Eventually(t, patience, "another tick has come", func() bool {
						return b.kinds("w", "a")[protocol.EntrySlept] > slept
					})
				}
				b.send("w", "a", "message", i)
				want = append(want, i)
				if i%(row.messages/4) == 1 && i+1 < row.messages { // the last one ends it
					slept := b.kinds("w", "a")[protocol.EntrySlept]
					natstest.Eventually(t, patience, "all have come, and a tick after them", func() bool {
						kinds := b.kinds("w", "a")
						return kinds[protocol.EntryReceived] > i && kinds[protocol.EntrySlept] > slept
					})
					stop()
					stop = b.serve(row.settings, definition)
				}
			}
			if s := b.complete("w", "a"); string(s.Output) != strings.ReplaceAll(fmt.Sprint(want), " ", ",") {
				t.Errorf("output %s", s.Output)
			}
			last := seen.agree(t, 3)
			if ticks := len(last) - row.messages; ticks < 3 {
				t.Errorf("%d ticks came first: too few to tell anything", ticks)
			}
		})
	}
}

// TestRaceErrors: what a race returns is the same in every run.
func TestRaceErrors(t *testing.T) {
	t.Parallel()
	never := untilEvent("never", "never")
	panics := func(context.Context) (int, error) { panic("on purpose") }
	late := func(ctx context.Context) (int, error) {
		_, err := WaitForEvent[int](ctx, "late", "late", Timeout(time.Millisecond))
		return 0, err
	}
	returns := func(context.Context) (int, error) { return 7, nil }
	// slowly returns when the other functions have failed.
	slowly := func(ctx context.Context) (int, error) { return 8, Sleep(ctx, "slowly", time.Second) }
	step := func(err error) bool { e, ok := errors.AsType[*StepError](err); return ok && e.Step == "fails" }
	tests := []struct {
		name    string
		run     func(ctx context.Context) (int, int, error)
		winner  int
		result  int
		failure string // name of the failure
		check   func(err error) bool
	}{
		{name: "first success of all", winner: 1, result: 8, run: func(ctx context.Context) (int, int, error) {
			return FirstSuccess(ctx, "r", failsOnce("fails"), slowly, panics)
		}},
		{name: "one function", winner: 0, result: 7, run: func(ctx context.Context) (int, int, error) { return Race(ctx, "r", returns) }},
		{name: "first of many", winner: 1, result: 7, run: func(ctx context.Context) (int, int, error) {
			return Race(ctx, "r", never, returns, untilOver("an hour", time.Hour))
		}},
		{name: "the first fails", winner: 1, failure: "Error", check: step, run: func(ctx context.Context) (int, int, error) {
			return Race(ctx, "r", untilOver("an hour", time.Hour), failsOnce("fails"))
		}},
		{name: "the first panics", winner: 0, failure: protocol.FailurePanic, run: func(ctx context.Context) (int, int, error) { return Race(ctx, "r", panics, never) }},
		{name: "the first times out", winner: 1, failure: protocol.FailureTimeout, run: func(ctx context.Context) (int, int, error) { return Race(ctx, "r", never, late) },
			check: func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
		{name: "none succeeds", winner: -1, failure: protocol.FailureRace, run: func(ctx context.Context) (int, int, error) {
			return FirstSuccess(ctx, "r", failsOnce("fails"), panics)
		}, check: func(err error) bool {
			return step(err) && strings.Contains(err.Error(), `race "r": none of 2 functions succeeded: step "fails": the service hiccups; panic: on purpose`)
		}},
		{name: "a result that cannot be stored", winner: 0, failure: protocol.FailureEncoding, run: func(ctx context.Context) (int, int, error) {
			w, _, err := Race(ctx, "r", func(context.Context) (any, error) { return func() {}, nil })
			return w, 0, err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, seen := setup(t), &transcript{}
			b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
				see := seen.begin()
				winner, result, err := tt.run(ctx)
				see("%d %d %v", winner, result, err)
				failed, _ := errors.AsType[*RaceError](err)
				switch {
				case winner != tt.winner || result != tt.result || (err != nil) != (tt.failure != ""):
					t.Errorf("winner %d, result %d, error %v", winner, result, err)
				case err != nil && (failed == nil || failed.Name != tt.failure || failed.Winner != tt.winner || failed.Race != "r"):
					t.Errorf("the error is %#v", err)
				case tt.check != nil && !tt.check(err):
					t.Errorf("the error is %v", err)
				}
				return nil, Sleep(ctx, "nap", nap)
			})
			seen.agree(t, 2)
		})
	}
}

// TestRaceIsGivenUp: a race whose context ends has no winner, and records none.
func TestRaceIsGivenUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var winner int
	var err error
	b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			winner, _, err = Race(ctx, "race", untilEvent("never", "never"), untilOver("an hour", time.Hour))
			return nil
		})
		g.Go(func(ctx context.Context) error {
			if _, err := WaitForEvent[int](ctx, "fail", "fail"); err != nil {
				return err
			}
			return errFlaky
		})
		return nil, g.Wait()
	}))
	b.create("w", "a", 1)
	b.awaitState("a", Waiting)
	b.send("w", "a", "fail", 1)
	b.errored("w", "a")
	if winner != -1 || !errors.Is(err, errFlaky) || b.kinds("w", "a")[protocol.EntryStepCompleted] != 0 {
		t.Errorf("the winner is %d, with %v; the log has %v", winner, err, b.kinds("w", "a"))
	}
}

// TestRaceInTheStatus: which function was first, and what was given up. The result is hidden if a step of the race hides
// its own.
func TestRaceInTheStatus(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var log lines
	b.log = slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		_, _, err := Race(ctx, "race",
			func(ctx context.Context) (string, error) {
				if _, err := untilEvent("go", "go")(ctx); err != nil {
					return "", err
				}
				return Do(ctx, "secret", func(context.Context) (string, error) { return "hunter2", nil }, Sensitive())
			}, func(ctx context.Context) (string, error) { return "", Sleep(ctx, "an hour", time.Hour) })
		return nil, errors.Join(err, Sleep(ctx, "nap", time.Hour))
	}))
	b.create("w", "a", 1)
	before := b.reaches("w", "a", "waits", func(s Status) bool { return s.State == Waiting && len(s.Steps) == 3 })
	if race := before.Steps[0]; race.Op != StepRace || race.State != "waiting" || race.Winner != nil || race.Within != "1." {
		t.Errorf("while it goes on, the race shows %+v", race)
	}
	b.send("w", "a", "go", 1)
	after := b.reaches("w", "a", "naps", func(s Status) bool { return s.State == Waiting && len(s.Steps) == 5 })
	shown := map[string]protocol.StepStatus{}
	for _, s := range after.Steps {
		shown[s.Name] = s
	}
	race, lost := shown["race"], shown["an hour"]
	if race.State != "completed" || race.Winner == nil || *race.Winner != 0 || race.Config != nil || string(race.Output) != protocol.Redacted {
		t.Errorf("the race shows %s", asText(race))
	}
	if lost.State != "canceled" || lost.Branch != "1.2/" || lost.Until != nil || shown["go"].State != "completed" {
		t.Errorf("what lost shows %s", asText(lost))
	}
	if all := asText(after); strings.Contains(all, "hunter") || strings.Contains(log.String(), "hunter") {
		t.Errorf("the secret is shown: %s", all)
	}
}

// TestRestartFromARace begins again from a step within a race: from the start of the race. From a step after it, the
// winner stays.
func TestRestartFromARace(t *testing.T) {
	t.Parallel()
	b := setup(t)
	seen := &transcript{}
	b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		see := seen.begin()
		count := func(name string) func(ctx context.Context) (int, error) {
			return func(ctx context.Context) (int, error) {
				id, err := Do(ctx, name, func(ctx context.Context) (string, error) { return Step(ctx).IdempotencyKey, nil })
				see("%s %s", name, id[strings.Index(id, "a/")+2:])
				return 0, err
			}
		}
		winner, _, err := Race(ctx, "race", func(ctx context.Context) (int, error) {
			if n, err := count("one")(ctx); err != nil {
				return n, err
			}
			return untilEvent("go", "go")(ctx)
		}, untilOver("an hour", time.Hour))
		see("winner %d", winner)
		if err == nil {
			_, err = count("after")(ctx)
		}
		return nil, errors.Join(err, Sleep(ctx, "nap", time.Hour))
	}))
	naps := func(epoch int) {
		t.Helper()
		b.reaches("w", "a", fmt.Sprint("naps in epoch ", epoch), func(s Status) bool {
			return s.State == Waiting && s.Epoch == epoch && slices.ContainsFunc(s.Steps, func(s protocol.StepStatus) bool { return s.Name == "nap" })
		})
	}
	last := func() string {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		return strings.Join(seen.runs[len(seen.runs)-1], ", ")
	}
	b.create("w", "a", 1)
	b.send("w", "a", "go", 1)
	naps(0)
	first := last()
	from := func(op protocol.Op, name string) {
		b.steer("a", protocol.Control{Action: protocol.ActionRestart, From: &protocol.Key{Op: op, Name: name, Count: 1}})
	}
	from(protocol.OpDo, "after")
	naps(1)
	// The key of a step that runs again ends with the restart.
	key := func(name string, epoch int) string {
		life := strings.Split(strings.Split(first, "one ")[1], "/")[0]
		if epoch > 0 {
			life = fmt.Sprintf("%s.%d", life, epoch)
		}
		return fmt.Sprintf("%s %s/%s/1", name, life, name)
	}
	if want := strings.Join([]string{key("one", 0), "winner 0", key("after", 1)}, ", "); last() != want {
		t.Errorf("restarted after the race, it saw %q, want %q", last(), want)
	}
	from(protocol.OpEvent, "go") // the second step within the race
	b.reaches("w", "a", "waits again", func(s Status) bool { return s.State == Waiting && s.Epoch == 2 && len(s.Steps) == 4 })
	b.send("w", "a", "go", 2) // the first stays taken
	naps(2)
	if want := strings.Join([]string{key("one", 2), "winner 0", key("after", 2)}, ", "); last() != want {
		t.Errorf("restarted within the race, it saw %q, want %q", last(), want)
	}
}

// TestRaceEndsItsCalls: the child of a function that was not first is terminated.
func TestRaceEndsItsCalls(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("leaf"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[string]) (string, error) {
		winner, said, err := Race(ctx, "race",
			func(ctx context.Context) (string, error) { return Call(ctx, "call", Bind[string, string]("leaf"), "") },
			func(ctx context.Context) (string, error) { return Call(ctx, "other", Bind[string, string]("leaf"), "") })
		return fmt.Sprint(winner, " ", said), errors.Join(err, Sleep(ctx, "nap", nap))
	}), waiter("leaf"))
	begin(h, "parent", "a", "")
	natstest.Eventually(t, patience, "there are two children", func() bool { return len(h.children("leaf")) == 2 })
	s := h.until("parent", "a", "waits", func(s protocol.Status) bool { return s.State == Waiting && len(s.Steps) == 3 })
	first, second := called(t, s, "call").Callee.ID, called(t, s, "other").Callee.ID
	h.goOn("leaf", second, "me")
	h.ends("leaf", first, protocol.StateTerminated)
	if s := h.ends("parent", "a", Complete); !strings.HasPrefix(string(s.Output), `"1 `) {
		t.Errorf("output %s", s.Output)
	}
}

// TestLargeResultOfARace: it comes from the object store, in every run.
func TestLargeResultOfARace(t *testing.T) {
	t.Parallel()
	b, seen := setup(t), &transcript{}
	b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		see := seen.begin()
		winner, text, err := Race(ctx, "race", func(context.Context) (string, error) { return strings.Repeat("x", 2*protocol.InlinePayload), nil })
		see("%d %d", winner, len(text))
		return nil, errors.Join(err, Sleep(ctx, "nap", nap))
	})
	if last := seen.agree(t, 2); last[0] != fmt.Sprint("0 ", 2*protocol.InlinePayload) {
		t.Errorf("seen: %q", last)
	}
	s := b.complete("w", "a")
	if race := s.Steps[0]; race.OutputObject == nil || race.Output != nil || json.Valid(race.Output) {
		t.Errorf("the race shows %s", asText(race))
	}
}
