package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// labelProject is the only label: projects are few, what they schedule is not.
const labelProject = "project"

// metrics are what a scheduler counts for those who watch it.
type metrics struct {
	fired, late, taken *prometheus.CounterVec
	lateness           prometheus.Histogram
	overdue            prometheus.Gauge
}

// newMetrics makes them and registers them, if there is somebody to register them with.
func newMetrics(with prometheus.Registerer) *metrics {
	f := promauto.With(with)
	counter := func(name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Namespace: "skein", Subsystem: "scheduler", Name: name, Help: help}, []string{labelProject})
	}
	return &metrics{
		fired: counter("firings_total", "Mail put into inboxes of agents and instances of workflows started."),
		late:  counter("late_firings_total", "Firings that came more than 5 seconds after they were due."),
		taken: counter("taken_ids_total", "Instances that were not started because somebody else had taken the id."),
		lateness: f.NewHistogram(prometheus.HistogramOpts{
			Namespace: "skein", Subsystem: "scheduler", Name: "firing_lateness_seconds",
			Help: "How long after they were due firings came.",
			// The server fires within a quarter of a second, 5 s are late, and what comes after an outage may be late by hours.
			Buckets: []float64{0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400},
		}),
		overdue: f.NewGauge(prometheus.GaugeOpts{
			Namespace: "skein", Subsystem: "scheduler", Name: "overdue_seconds",
			Help: "How long the firing has waited that has waited longest, for any scheduler; 0: none waits.",
		}),
	}
}

// count counts a firing of a project and says whether it was late.
func (m *metrics) count(project string, late time.Duration) bool {
	m.fired.WithLabelValues(project).Inc()
	m.lateness.Observe(max(late, 0).Seconds())
	if late <= lateAfter {
		return false
	}
	m.late.WithLabelValues(project).Inc()
	return true
}
