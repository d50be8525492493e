package integration

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

var (
	scheduleCount = flag.Int("schedules", 300, "how many schedules TestClockStorm has")
	clockSeed     = flag.Uint64("seed", 0, "what decides what befalls TestClockStorm, and when; 0: anything")
)

// bell is the agent of the clock storm that is really there: it notes the moments for which its schedule calls it.
type bell struct{ agent.Base[[]int64] }

var bellClass = agent.Bind[*bell]("Bell")

func bells() agent.Class { return agent.Define("Bell", func() *bell { return &bell{} }) }

// Hang makes a schedule that fires every so often and catches up everything.
func (b *bell) Hang(ctx context.Context, every time.Duration) (string, error) {
	task, err := agent.Schedule(ctx, agent.Every(every), b.Ring, struct{}{}, agent.CatchUp(protocol.MaxCatchUp))
	return task.ID, err
}

// Ring notes a moment.
func (b *bell) Ring(ctx context.Context, _ struct{}) error {
	moment, ok := agent.Firing(ctx)
	if !ok {
		return errors.New("no firing")
	}
	return b.Update(ctx, func(rung *[]int64) error { *rung = append(*rung, moment.Planned.UnixMilli()); return nil })
}

// clockStorm is many schedules in two projects: that of the world, with agents and instances that are really there, and one
// without hosts, so that all mail stays in the inbox and tells what was put there.
type clockStorm struct {
	*world
	bare       string
	single     *ownServer
	many       *ownCluster
	rng        *rand.Rand
	schedulers []*process
	// rows of all schedules as they were stored, by subject.
	rows   map[string]protocol.Schedule
	faults map[string]int
	away   time.Duration // for which no scheduler ran
}

const clockClass = "Bare"

// newClockStorm makes the projects, and three schedulers.
func newClockStorm(t *testing.T, r *rig, name string) *clockStorm {
	t.Helper()
	seed := *clockSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	s := &clockStorm{
		world: newWorld(t, r, name), bare: name + "-bare", rng: rand.New(rand.NewPCG(seed, 0)),
		rows: map[string]protocol.Schedule{}, faults: map[string]int{},
	}
	options := streams.Options{Replicas: r.replicas}
	if err := errors.Join(
		streams.EnsureAgents(t.Context(), s.js, s.bare, options),
		streams.RegisterAgents(t.Context(), s.js, s.bare, []string{clockClass}),
		streams.EnsureSchedules(t.Context(), s.js, name, options),
		streams.RegisterSchedules(t.Context(), s.js, name),
	); err != nil {
		t.Fatal(err)
	}
	s.narrow()
	for range 3 {
		s.schedulers = append(s.schedulers, s.startScheduler(""))
	}
	return s
}

// startScheduler starts a scheduler, which stands still at a point if one is named, and waits until it takes work.
func (s *clockStorm) startScheduler(stopAt string) *process {
	s.t.Helper()
	s.runners++
	var env []string
	if stopAt != "" {
		env = append(env, testsignal.Env+"="+stopAt)
	}
	p := launch(s.t, fmt.Sprintf("scheduler %d of %s", s.runners, s.name), roleScheduler, env, "--nats-url", s.url, "--replicas", strconv.Itoa(s.replicas),
		"--log-level", "debug", "--shutdown-grace", "1m")
	for _, project := range []string{s.name, s.bare} {
		p.awaitLog(s.t, `msg="following schedules" project=`+project+"\n")
	}
	return p
}

// hangBells has agents make schedules of their own.
func (s *clockStorm) hangBells(n int) {
	s.t.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	for i := range n {
		group.Go(func() error {
			_, err := agent.Call(s.t.Context(), bellClass.In(s.project).Agent(fmt.Sprint("b", i)), (*bell).Hang, time.Duration(1+i%4)*time.Second,
				agent.Timeout(patience))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

// putBare stores schedules of agents that are not there.
func (s *clockStorm) putBare(n int) {
	s.t.Helper()
	for i := range n {
		row := protocol.Schedule{
			ID: "s", Class: clockClass, Name: fmt.Sprint("a", i), Callback: "Ring", CatchUp: new(protocol.MaxCatchUp), Created: time.Now().UTC(),
			Kind: protocol.ScheduleInterval, Interval: protocol.Duration(5 * time.Second),
		}
		bareKinds[i%len(bareKinds)](&row)
		row.SetVersion()
		s.put(s.bare, row)
	}
}

// bareKinds change an interval of five seconds that catches up everything.
var bareKinds = []func(*protocol.Schedule){
	func(*protocol.Schedule) {},
	func(row *protocol.Schedule) { row.Interval = protocol.Duration(7 * time.Second) },
	func(row *protocol.Schedule) {
		row.Kind, row.Interval, row.Cron = protocol.ScheduleCron, 0, "*/5 * * * * *"
	},
	func(row *protocol.Schedule) {
		row.Kind, row.Interval, row.Lines, row.Zone = protocol.ScheduleCron, 0, []string{"*/10 * * * * *", "*/15 * * * * *"}, "Asia/Kathmandu"
	},
	func(row *protocol.Schedule) { row.Jitter = protocol.Duration(2 * time.Second) },
	func(row *protocol.Schedule) { row.Times = 3 },
	func(row *protocol.Schedule) { row.Until = new(row.Created.Add(18 * time.Second)) },
	func(row *protocol.Schedule) {
		row.Kind, row.Interval, row.CatchUp, row.At = protocol.ScheduleDate, 0, nil, new(row.Created.Add(15*time.Second))
	},
	func(row *protocol.Schedule) { row.Interval, row.CatchUp = protocol.Duration(2*time.Second), nil },
	func(row *protocol.Schedule) { row.Interval, row.CatchUp = protocol.Duration(2*time.Second), new(2) },
	func(row *protocol.Schedule) { row.Interval, row.CatchUp = protocol.Duration(3*time.Second), new(0) },
	func(row *protocol.Schedule) { row.Interval = protocol.Duration(11 * time.Second) },
}

func rowSubject(project string, row protocol.Schedule) string {
	return protocol.KVSubject(protocol.SchedulesBucket(project), protocol.ScheduleKey(row.Class, row.Name, row.ID))
}

// put stores a row as a host does.
func (s *clockStorm) put(project string, row protocol.Schedule) {
	s.t.Helper()
	body, err := json.Marshal(row)
	if err == nil {
		_, err = s.store.Publish(s.t.Context(), rowSubject(project, row), nats.Header{}, body)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.rows[rowSubject(project, row)] = row
}

// noteRows reads the rows that hosts and runners have stored.
func (s *clockStorm) noteRows(want int) {
	s.t.Helper()
	bucket := protocol.SchedulesBucket(s.name)
	eventually(s.t, patience, fmt.Sprintf("%d schedules of agents and workflows are stored", want), func() bool {
		found, err := s.store.LastOfMany(s.t.Context(), protocol.KVStream(bucket), []string{protocol.KVSubject(bucket, ">")})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, m := range found.Messages {
			var row protocol.Schedule
			if err := json.Unmarshal(m.Data, &row); err != nil {
				s.t.Fatal(err)
			}
			s.rows[m.Subject] = row
		}
		return len(found.Messages) == want
	})
}

// happened notes a fault.
func (s *clockStorm) happened(fault string) {
	s.faults[fault]++
	s.t.Logf("%s: %s", time.Now().Format("05.000"), fault)
}

// any is one of the schedulers.
func (s *clockStorm) any() int { return s.rng.IntN(len(s.schedulers)) }

// clockFaults are what befalls schedulers.
var clockFaults = map[string]func(*clockStorm){
	"killed": func(s *clockStorm) {
		i := s.any()
		s.schedulers[i].kill(s.t)
		s.schedulers[i] = s.startScheduler("")
	},
	"killed when mailed":  func(s *clockStorm) { s.killAt(scheduler.SignalMailed) },
	"killed when settled": func(s *clockStorm) { s.killAt(scheduler.SignalSettled) },
	"frozen": func(s *clockStorm) {
		i := s.any()
		began := time.Now()
		s.schedulers[i].freeze(s.t)
		other := (i + 1) % len(s.schedulers)
		s.schedulers[other].kill(s.t)
		s.schedulers[other] = s.startScheduler("")
		// What it holds comes to another after 10 seconds.
		pause(s.t.Context(), time.Until(began.Add(11*time.Second)))
		s.schedulers[i].thaw(s.t)
	},
	"all away": func(s *clockStorm) {
		for _, p := range s.schedulers {
			p.kill(s.t)
		}
		began := time.Now()
		pause(s.t.Context(), 4*time.Second+time.Duration(s.rng.IntN(1000))*time.Millisecond)
		for i := range s.schedulers {
			s.schedulers[i] = s.startScheduler("")
		}
		s.away += time.Since(began)
	},
	"one more, one less": func(s *clockStorm) {
		s.schedulers = append(s.schedulers, s.startScheduler(""))
		i := s.any()
		s.schedulers[i].terminate(s.t)
		s.schedulers[i] = s.schedulers[len(s.schedulers)-1]
		s.schedulers = s.schedulers[:len(s.schedulers)-1]
	},
	"leader moved": func(s *clockStorm) {
		if s.many != nil {
			s.many.moveLeader(s.stream())
		}
	},
	"server killed": func(s *clockStorm) {
		if s.many != nil {
			s.many.killLeader(s.stream(), func() {})
			return
		}
		s.single.kill(s.t)
		pause(s.t.Context(), time.Duration(s.rng.IntN(2000))*time.Millisecond)
		s.single.start()
	},
}

// stream is one of those that firings go through.
func (s *clockStorm) stream() string {
	all := []string{
		protocol.StreamClock, protocol.KVStream(protocol.SchedulesBucket(s.bare)), protocol.InboxStream(s.bare), protocol.WorkflowsStream(s.name, 0),
	}
	return all[s.rng.IntN(len(all))]
}

// killAt has a scheduler stand still at a point, and kills it there.
func (s *clockStorm) killAt(point string) {
	i := s.any()
	s.schedulers[i].terminate(s.t)
	s.schedulers[i] = s.startScheduler(point)
	// Some of them are of the agents that are not there, whose mail can be counted.
	eventually(s.t, patience, "many firings stand still at "+point, func() bool {
		return strings.Count(s.schedulers[i].log.String(), "testsignal: "+point+"\n") >= 20
	})
	s.schedulers[i].kill(s.t)
	s.schedulers[i] = s.startScheduler("")
}

// rage has everything happen, in any order, again and again for some time.
func (s *clockStorm) rage(over time.Duration) {
	s.t.Helper()
	var names []string
	for name := range clockFaults {
		if name != "leader moved" || s.many != nil {
			names = append(names, name)
		}
	}
	for began := time.Now(); len(s.faults) == 0 || time.Since(began) < over; {
		s.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			clockFaults[name](s)
			s.happened(name)
			pause(s.t.Context(), time.Duration(s.rng.IntN(500))*time.Millisecond)
		}
	}
	for _, name := range names {
		if s.faults[name] == 0 {
			s.t.Errorf("nothing of this happened: %s", name)
		}
	}
}

// clockCrons are the schedules of a workflow, as skein.jsonc has them.
func clockCrons(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`{ "cron": "%d/7 * * * * *", "zone": %q, "params": { "ops": [] }, "catch_up": %d }`,
			i%7, []string{"UTC", "Europe/Oslo", "Asia/Kathmandu"}[i/7%3], protocol.MaxCatchUp))
	}
	return strings.Join(all, ", ")
}

// TestClockStorm has three schedulers serve many schedules, every few seconds each, while they are killed (also between the
// steps of a firing), frozen, all away, more and fewer, and NATS servers are killed. Numbers decide: every planned moment has fired
// once or is counted as missed, as the schedule wants it. Not parallel: it takes the machine.
//
//	go test ./test/integration -run TestClockStorm -schedules 2000 -soak 10m -timeout 60m
func TestClockStorm(t *testing.T) {
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		server := startServer(t)
		s := newClockStorm(t, &rig{url: server.url(), replicas: 1, connect: server.connect}, "clock")
		s.single = server
		s.run()
	})
	t.Run("three servers", func(t *testing.T) {
		t.Parallel()
		many := startCluster(t)
		s := newClockStorm(t, many.rig(), "clocks")
		s.many = many
		s.run()
	})
}

func (s *clockStorm) run() {
	s.t.Helper()
	const agents, crons = 12, 10
	s.crons = clockCrons(crons)
	s.runner(setup{})
	s.host("")
	s.hangBells(agents)
	s.noteRows(agents + crons)
	s.putBare(*scheduleCount)
	s.rage(*soak)
	s.calm()
	s.check()
}
