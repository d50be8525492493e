package agent

import (
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestAnswersAreLetGo: an answer that nobody can ask for again is not kept for as long as others.
func TestAnswersAreLetGo(t *testing.T) {
	t.Parallel()
	c := &calls{crew: &crew{}, rememberFor: time.Hour, known: map[string]*call{}}
	answer := func() weak.Pointer[call] {
		one := c.start("1", nil, func(func()) protocol.Reply { return protocol.Reply{} })
		<-one.done
		c.forget("1")
		return weak.Make(one)
	}
	first := answer()
	natstest.Eventually(t, soon, "the answer is let go", func() bool {
		runtime.GC()
		return first.Value() == nil
	})
	runtime.KeepAlive(c)
}

// TestCallThatComesAgain: when the time of its first run is over, that of the second is not.
func TestCallThatComesAgain(t *testing.T) {
	t.Parallel()
	c := &calls{crew: &crew{}, rememberFor: time.Hour, known: map[string]*call{}}
	run := func() *call {
		one := c.start("1", nil, func(func()) protocol.Reply { return protocol.Reply{} })
		<-one.done
		return one
	}
	first := run()
	c.forget("1")
	second := run()
	c.mu.Lock()
	c.forgetOld(first.ended.Add(c.rememberFor + second.ended.Sub(first.ended)))
	c.mu.Unlock()
	if run() != second {
		t.Error("it has run once more")
	}
}
