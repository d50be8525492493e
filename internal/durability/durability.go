// Package durability says what the streams of a process survive: killed processes always, and beyond that what their
// replicas and the servers' sync policy give. Each process tells it once, at its start, and may refuse to go on.
//
// It must never guess in favour: what a server does not tell counts as its default, or as unknown.
package durability

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/logkey"
)

const (
	// wantedReplicas is the least with which one server may be lost.
	wantedReplicas = 3
	// defaultSync is what a server does that is told nothing.
	defaultSync = 2 * time.Minute
)

// nameless is how a leader names a server that has not been there since it started. That one is down, and has a name of its own in
// what others tell.
const nameless = "Server name unknown"

// LeastVersion of the NATS server is the oldest that Skein is tested with.
const LeastVersion = "2.15.2"

// Streams collects the streams of a process. The zero value is ready; it is safe for concurrent use.
type Streams struct {
	mu   sync.Mutex // guards what follows
	seen map[string]stream
}

type stream struct {
	replicas int
	// servers hold it, as far as the stream tells; none if there is no cluster.
	servers []string
}

// Add takes in a stream as it was found.
func (s *Streams) Add(info *jetstream.StreamInfo) {
	found := stream{replicas: max(1, info.Config.Replicas)}
	if c := info.Cluster; c != nil {
		if c.Leader != "" {
			found.servers = append(found.servers, c.Leader)
		}
		for _, peer := range c.Replicas {
			if !strings.HasPrefix(peer.Name, nameless) {
				found.servers = append(found.servers, peer.Name)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]stream{}
	}
	s.seen[info.Config.Name] = found
}

// Report is what was found.
type Report struct {
	// Replicas is the least that a stream has, Stream the name of that one.
	Replicas int
	Stream   string
	// Servers are those that hold the streams, by name.
	Servers []Server
	// silent is set if most of them have not answered, and may the next time.
	silent bool
}

// Server is what one has told. Version is empty if it told nothing.
type Server struct {
	Name    string
	Version string
	Sync    Sync
}

// Sync says when a server writes to its disk what it acknowledges.
type Sync struct {
	Known  bool
	Always bool
	// Interval is how long what is acknowledged may stay in the memory of the machine, if not Always.
	Interval time.Duration
}

func (s Sync) String() string {
	switch {
	case !s.Known:
		return "unknown"
	case s.Always:
		return "always"
	}
	return brief(s.Interval)
}

// brief writes 2m0s as 2m.
func brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Options say how a process tells its durability.
type Options struct {
	NC  *nats.Conn
	Log *slog.Logger
	// Monitor lists addresses of servers' monitoring, separated by commas, for those that do not answer over NATS.
	Monitor string
	// Production refuses what can lose what was acknowledged.
	Production bool
	// Patience is how long servers may take to answer: those that are not there never do. Default 1 s.
	Patience time.Duration
}

// Tell logs what the streams survive. With Production it returns a *RefusedError if acknowledged work can be lost; that most servers do
// not answer is a reason only if they are silent for ten times Patience.
func Tell(ctx context.Context, o Options, s *Streams) error {
	began := time.Now()
	r := Look(ctx, o, s)
	for n := 1; o.Production && r.silent && n < asks; n++ {
		if n == 1 {
			o.Log.InfoContext(ctx, "most NATS servers have not told when they write to disk, asking on", slog.Int(logkey.Servers, len(r.Servers)))
		}
		if ctxtime.Sleep(ctx, time.Until(began.Add(time.Duration(n)*o.patience()))) != nil {
			break
		}
		again := o
		again.Log = slog.New(slog.DiscardHandler) // who does not answer was told
		r = Look(ctx, again, s)
	}
	o.Log.InfoContext(ctx, "durability: "+r.Line(), slog.Int(logkey.Replicas, r.Replicas), slog.String(logkey.Sync, r.sync().String()),
		slog.Int(logkey.Servers, len(r.Servers)))
	if !o.Production {
		return nil
	}
	return r.Refuse()
}

// Look asks the servers that hold the streams.
func Look(ctx context.Context, o Options, s *Streams) *Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Report{}
	var names []string
	for name, found := range s.seen {
		if r.Stream == "" || found.replicas < r.Replicas || found.replicas == r.Replicas && name < r.Stream {
			r.Replicas, r.Stream = found.replicas, name
		}
		names = append(names, found.servers...)
	}
	if len(names) == 0 {
		names = []string{o.NC.ConnectedServerName()}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	told, silent := ask(ctx, o, names)
	for _, name := range names {
		server := told[name]
		server.Name = name
		if server.Version == "" && name == o.NC.ConnectedServerName() {
			server.Version = o.NC.ConnectedServerVersion()
		}
		r.Servers = append(r.Servers, server)
	}
	some, all := r.told()
	r.silent = silent && 2*some <= all
	return r
}

// told is how many of all servers told when they write to disk.
func (r *Report) told() (some, all int) {
	for _, s := range r.Servers {
		if s.Sync.Known {
			some++
		}
	}
	return some, max(len(r.Servers), r.Replicas)
}

// sync is the weakest of the policies that are known.
func (r *Report) sync() (weakest Sync) {
	for _, server := range r.Servers {
		switch s := server.Sync; {
		case !s.Known:
		case !weakest.Known, weakest.Always && !s.Always, !s.Always && s.Interval > weakest.Interval:
			weakest = s
		}
	}
	return weakest
}

// Line says in one line what the setup survives, and what not.
func (r *Report) Line() string {
	s := r.sync()
	how := "sync_interval " + s.String()
	if !s.Known {
		s.Interval = defaultSync
		how = "sync_interval unknown, taken for the default of " + brief(s.Interval)
	}
	how = " (" + count(r.Replicas, "replica") + ", " + how + ")"
	lost := fmt.Sprintf("up to the last %s of what was acknowledged", brief(s.Interval))
	switch spare := (r.Replicas - 1) / 2; {
	case spare > 0 && s.Always:
		return fmt.Sprintf("survives killed processes, and the loss or a power failure of %d of %d servers; a power failure of all at once loses nothing from their disks, but can leave a stream without a leader", spare, r.Replicas) + how
	case spare > 0:
		return fmt.Sprintf("survives killed processes and the loss of %d of %d servers; does not survive a power failure of more at once: that can lose %s",
			spare, r.Replicas, lost) + how
	case s.Always:
		return "survives killed processes and a power failure; does not survive the loss of the server's disk" + how
	}
	return fmt.Sprintf("survives killed processes; does not survive a power failure of the server, which can lose %s, nor the loss of its disk", lost) + how
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// RefusedError says why a setup is none for production.
type RefusedError struct{ Reasons []string }

func (e *RefusedError) Error() string {
	return "this setup can lose work that was acknowledged: " + strings.Join(e.Reasons, "; ")
}

// Hint says what to do about it.
func (e *RefusedError) Hint() string {
	return "run three or more NATS servers with sync_interval: always, give the streams three replicas, or leave out --production"
}

// Refuse returns a *RefusedError if the setup can lose what was acknowledged. A server that is down does not count while
// most of them have answered: a process may start while another is being restarted.
func (r *Report) Refuse() error {
	var reasons []string
	if r.Replicas < wantedReplicas {
		reasons = append(reasons, fmt.Sprintf("stream %q has %s, wanted are %d", r.Stream, count(r.Replicas, "replica"), wantedReplicas))
	}
	for _, s := range r.Servers {
		if s.Sync.Known && !s.Sync.Always {
			reasons = append(reasons, fmt.Sprintf("server %q has sync_interval %s, wanted is always", s.Name, s.Sync))
		}
		if s.Version != "" && older(s.Version, LeastVersion) {
			reasons = append(reasons, fmt.Sprintf("server %q is of version %s, wanted is %s or newer", s.Name, s.Version, LeastVersion))
		}
	}
	if told, all := r.told(); 2*told <= all {
		reasons = append(reasons, fmt.Sprintf("%d of %s told when it writes to disk; let the account import $SYS.REQ.SERVER.PING.VARZ of the system account, or name the servers' monitoring with nats_monitor",
			told, count(all, "server")))
	}
	if len(reasons) == 0 {
		return nil
	}
	return &RefusedError{reasons}
}

// older compares versions by their numbers. What follows them, as in 2.16.0-preview.1, does not count.
func older(a, b string) bool {
	numbers := func(version string) (all []int) {
		version, _, _ = strings.Cut(version, "-")
		for part := range strings.SplitSeq(version, ".") {
			n, err := strconv.Atoi(part)
			if err != nil {
				return all
			}
			all = append(all, n)
		}
		return all
	}
	return slices.CompareFunc(numbers(a), numbers(b), cmp.Compare[int]) < 0
}

var errNoAnswer = errors.New("no server has answered")
