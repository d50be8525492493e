package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

func TestRetryNamesEveryMistake(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		retry Retry
		want  []string
	}{
		{"nothing is set", Retry{}, nil},
		{"all is set", Retry{MaxAttempts: MaxAttempts, BaseDelay: 1, MaxDelay: MaxRetryDelay}, nil},
		{"base as long as the most", Retry{BaseDelay: time.Second, MaxDelay: time.Second}, nil},
		{"negative attempts", Retry{MaxAttempts: -1}, []string{"retry: MaxAttempts -1: allowed is 1 to 10000, and 0 for 3"}},
		{"too many attempts", Retry{MaxAttempts: MaxAttempts + 1}, []string{"MaxAttempts 10001"}},
		{"negative base", Retry{BaseDelay: -1}, []string{"BaseDelay -1ns: allowed is more than 0"}},
		{"negative most", Retry{MaxDelay: -1}, []string{"MaxDelay -1ns: allowed is more than 0"}},
		{"most over the limit", Retry{MaxDelay: MaxRetryDelay + 1}, []string{"up to 365 days"}},
		{"base over the most", Retry{BaseDelay: 2 * time.Second, MaxDelay: time.Second}, []string{"BaseDelay 2s: allowed is at most MaxDelay, which is 1s"}},
		{"base over the default's most", Retry{BaseDelay: 5 * time.Second}, []string{"BaseDelay 5s: allowed is at most MaxDelay, which is 3s"}},
		{"most under the default's base", Retry{MaxDelay: time.Millisecond}, []string{"BaseDelay 100ms: allowed is at most MaxDelay, which is 1ms"}},
		{"three mistakes", Retry{-1, -2, -3}, []string{"MaxAttempts -1", "BaseDelay -2ns", "MaxDelay -3ns"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.retry.check(defaultRetry)
			if (err != nil) != (len(test.want) > 0) {
				t.Fatalf("check = %v, want %q", err, test.want)
			}
			for _, want := range test.want {
				if _, ok := errors.AsType[*RetryError](err); !ok || !strings.Contains(err.Error(), want) {
					t.Errorf("check = %v, want a RetryError that says %q", err, want)
				}
			}
			class := Define("Desk", func() *desk { return &desk{} }, test.retry).Err()
			if _, ok := errors.AsType[*ClassError](class); ok != (err != nil) {
				t.Errorf("class with it: %v, want a ClassError: %v", class, err != nil)
			}
		})
	}
}

func TestRetryDelayGrowsUpToItsMost(t *testing.T) {
	t.Parallel()
	r := Retry{MaxAttempts: 9, BaseDelay: time.Millisecond, MaxDelay: time.Second}
	for attempts, most := range map[int]time.Duration{1: 2 * time.Millisecond, 4: 16 * time.Millisecond, 10: time.Second, 10_000: time.Second} {
		longest := time.Duration(0)
		for range 200 {
			longest = max(longest, r.delay(attempts))
		}
		if longest >= most || longest < most/2 {
			t.Errorf("longest delay after %d attempts: %s, want one up to %s", attempts, longest, most)
		}
	}
	longest := Retry{MaxAttempts: 9, BaseDelay: MaxRetryDelay, MaxDelay: MaxRetryDelay}.delay(9)
	if longest < 0 || longest > MaxRetryDelay {
		t.Errorf("delay %s, want no overflow", longest)
	}
}

func TestRetryOfMailFallsBackToTheClass(t *testing.T) {
	t.Parallel()
	class := Retry{MaxAttempts: 7, BaseDelay: time.Second, MaxDelay: time.Minute}
	for _, test := range []struct {
		name   string
		stored *protocol.Retry
		want   Retry
	}{
		{"none", nil, class},
		{"part of it", Retry{MaxAttempts: 2}.stored(), Retry{2, time.Second, time.Minute}},
		{"all of it", Retry{2, 3, 4}.stored(), Retry{2, 3, 4}},
		{"that cannot be", &protocol.Retry{MaxAttempts: 1 << 40, BaseDelay: -1}, class},
	} {
		if got := retryOf(test.stored, class); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}
