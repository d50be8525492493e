package process

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// What the garbage collector lets a process allocate between two collections. The live memory of most is a few megabytes, and at the
// default of Go a fifth of a busy runner's time goes into collecting it: so they get up to lessOften of it. A host with many sockets or
// agents would take as many times of what it needs from the machine: beyond headroom it gets no more than the default of Go.
const (
	lessOften = 400 // percent
	byDefault = 100
	headroom  = 64 << 20
)

// collectLessOften sets the garbage collector's target, now and after each collection, unless the operator chose one by GOGC.
func collectLessOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(lessOften)
		afterCollection(&collection{lessOften, []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}}})
	}
}

// percentOf is the target for an amount of live memory.
func percentOf(live uint64) int {
	return int(max(byDefault, min(lessOften, headroom*100/max(live, 1))))
}

// collection is garbage: that it is collected shows that there was a collection.
type collection struct {
	percent int
	live    []metrics.Sample
}

func afterCollection(c *collection) {
	runtime.SetFinalizer(c, func(c *collection) {
		metrics.Read(c.live)
		if percent := percentOf(c.live[0].Value.Uint64() + c.live[1].Value.Uint64()); percent != c.percent {
			c.percent = percent
			debug.SetGCPercent(percent)
		}
		afterCollection(c)
	})
}
