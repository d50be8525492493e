package doctor

import (
	"context"
	"time"

	"github.com/skein-run/skein/internal/journal"
)

// pace keeps reads from holding up those who write: after each one it rests for as long as the read took, or for as long
// as the rate wants.
type pace struct {
	store *journal.Store
	rate  int

	what  string
	done  int
	told  time.Time
	tells func(string, int)
}

// tellEvery is how often it is told how far the work has come.
const tellEvery = 5 * time.Second

func (p *pace) begin(what string, tells func(string, int)) {
	p.what, p.done, p.told, p.tells = what, 0, time.Now(), tells
}

// advance counts what has been looked at.
func (p *pace) advance(n int) {
	p.done += n
	p.tell(p.what, p.done)
}

// again says how many are looked at again.
func (p *pace) again(n int) { p.tell(p.what+" that look wrong, again", n) }

func (p *pace) tell(what string, n int) {
	if p.tells != nil && time.Since(p.told) >= tellEvery {
		p.told = time.Now()
		p.tells(what, n)
	}
}

// rest follows a read of some messages that began at a moment.
func (p *pace) rest(ctx context.Context, began time.Time, messages int) error {
	took := time.Since(began)
	wanted := time.Duration(messages)*time.Second/time.Duration(p.rate) - took
	return p.store.Sleep(ctx, max(took, wanted))
}
