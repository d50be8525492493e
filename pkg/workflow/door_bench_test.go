package workflow

import (
	"context"
	"slices"
	"testing"
	"time"
)

// BenchmarkCreate compares a create in the own account with one through the door of another, on one server with one runner, which also
// runs what is created. It reports the median in microseconds.
func BenchmarkCreate(b *testing.B) {
	acc := setupAccounts(b, []string{"a", "b"}, "a:b")
	owner := acc.tenant("b", own("w"))
	owner.serve(Define("w", func(_ context.Context, e Event[string]) (string, error) { return e.Payload, nil }))
	caller := acc.tenant("a", from("b", "w"))
	for _, way := range []struct {
		name string
		from *tenant
	}{{"direct", owner}, {"door", caller}} {
		b.Run(way.name, func(b *testing.B) {
			w := Bind[string, string]("w").In(way.from.p)
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := w.Create(b.Context(), "p"); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		})
	}
}
