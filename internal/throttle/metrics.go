package throttle

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what a server tells of its clients. Addresses are no labels: there is no end of them.
type metrics struct{ refusals *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer, t *Throttle) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "skein", Subsystem: "http", Name: name, Help: help}, value)
	}
	gauge("connections", "Connections of clients that are open, sockets among them.", func() float64 { return float64(t.open.Load()) })
	gauge("addresses", "Addresses of clients that are remembered for limits.", func() float64 { return float64(t.table.size()) })
	return &metrics{refusals: f.NewCounterVec(prometheus.CounterOpts{
		Namespace: "skein", Subsystem: "http", Name: "refusals_total", Help: "What clients were refused, by the setting that did.",
	}, []string{"setting"})}
}
