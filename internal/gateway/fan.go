package gateway

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// What is written to many clients is started together at a time. Before that it waits for turns of agents that are under way here, pause by
// pause, at most pauses times: some of them are long. With more than hurry waiting, it does not. So does what puts it into their queues.
const (
	together = 16
	pause    = 250 * time.Microsecond
	pauses   = 4
	hurry    = 8192
)

// fan starts the writes of what goes to many clients. A thousand at once would keep everything else of the host waiting for all of them,
// such as the turns of its agents: each would be queued behind them, and what comes over the network is looked at when nothing is
// queued. So a few are started at a time, and in between other processes have the CPU if they want it, such as the NATS server on the
// same machine, and the network is looked at. None of them waits for a client that does not take what is written.
type fan struct {
	// isBusy reports whether agents have turns here.
	isBusy func() bool

	mu      sync.Mutex // guards what follows
	fills   []func()
	waiting []func()
	running bool
}

// start has a write run soon, in a goroutine of its own.
func (f *fan) start(write func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, write)
	f.begin()
}

// fill has what leads to many writes run soon, in a goroutine of its own, before the writes that wait: what is behind it may be for one
// client only.
func (f *fan) fill(fill func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fills = append(f.fills, fill)
	f.begin()
}

// begin is called with the fan locked.
func (f *fan) begin() {
	if !f.running {
		f.running = true
		go f.run() // ends after the last write was started; who wants that write to end waits for it
	}
}

func (f *fan) run() {
	look, end := lookAtNetwork()
	defer end()
	for {
		yield()
		look() // also before the first: whatever else follows from a turn, such as its answer, is done before that
		f.giveWay()
		next := f.next()
		if len(next) == 0 {
			return
		}
		for _, run := range next {
			go run()
		}
	}
}

// next takes out what is to be started now. Where there is nothing, it notes that the fan rests.
func (f *fan) next() []func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.fills) > 0 {
		fills := f.fills
		f.fills = nil
		return fills
	}
	n := min(len(f.waiting), together)
	writes := f.waiting[:n]
	f.waiting = f.waiting[n:]
	if n == 0 {
		f.waiting, f.running = nil, false
	}
	return writes
}

// giveWay waits for turns that are under way.
func (f *fan) giveWay() {
	for range pauses {
		f.mu.Lock()
		left := len(f.fills) + len(f.waiting)
		f.mu.Unlock()
		if left == 0 || left > hurry || !f.isBusy() {
			return
		}
		time.Sleep(pause)
	}
}

// lookAtNetwork returns a function that returns when all that was ready to run has run, and all that came over the network since is ready:
// it waits for a byte, which is seen just as what comes over the network is.
func lookAtNetwork() (look, end func()) {
	r, w, err := os.Pipe()
	if err != nil { // too many files are open
		return runtime.Gosched, func() {}
	}
	look = func() {
		var writing sync.WaitGroup
		writing.Go(func() { _, _ = w.Write([]byte{0}) })
		_, _ = r.Read(make([]byte, 1))
		writing.Wait()
	}
	return look, func() {
		_ = r.Close()
		_ = w.Close()
	}
}
