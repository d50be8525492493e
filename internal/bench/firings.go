package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

// firings are schedules that fire for some time.
type firings struct {
	name       string
	schedules  int
	begin, end time.Time
	// each is the time between two moments of a schedule.
	each   time.Duration
	change func(i int, s *protocol.Schedule)
}

// planned is how many moments there are in all.
func (f firings) planned() int { return f.schedules * int(f.end.Sub(f.begin)/f.each) }

// arm stores the schedules. They must be armed before the first moment.
func (r *scheduleRun) arm(ctx context.Context, f firings) error {
	return r.put(ctx, f.schedules, f.begin, func(i int) protocol.Schedule {
		return row(fmt.Sprint(f.name, "-", i), func(s *protocol.Schedule) { f.change(i, s) })
	})
}

// inTime is an error if the first moment has passed.
func inTime(first time.Time) error {
	if late := time.Since(first); late > 0 {
		return fmt.Errorf("the schedules are armed %v too late: this machine needs fewer, or a longer --lead", late)
	}
	return nil
}

// firingsOf plans to begin when the schedules are armed for sure.
func (r *scheduleRun) firingsOf(name string, schedules int, each time.Duration) firings {
	begin := time.Now().Add(r.lead + time.Duration(schedules)*3*time.Millisecond).Truncate(time.Second).UTC()
	return firings{name: name, schedules: schedules, begin: begin, end: begin.Add(r.duration.Truncate(each)), each: each}
}

// evenly are intervals whose moments are spread over time, so many per second.
func (r *scheduleRun) evenly(name string, rate int) firings {
	f := r.firingsOf(name, max(1, int(float64(rate)*r.every.Seconds())), r.every)
	f.change = func(i int, s *protocol.Schedule) {
		s.Kind, s.Interval = protocol.ScheduleInterval, protocol.Duration(r.every)
		shift := r.every * time.Duration(i) / time.Duration(f.schedules)
		s.From, s.Until = new(f.begin.Add(shift)), new(f.end.Add(shift-1))
	}
	return f
}

// measureFirings has schedules fire all the time.
func (r *scheduleRun) measureFirings(ctx context.Context) error {
	return r.measure(ctx, r.evenly("even", r.rate), fmt.Sprintf("%d firings per second", r.rate))
}

// measureBursts has all that fire in a second fire at its begin.
func (r *scheduleRun) measureBursts(ctx context.Context) error {
	f := r.firingsOf("burst", r.rate, time.Second)
	f.change = func(_ int, s *protocol.Schedule) {
		s.Kind, s.Cron, s.From, s.Until = protocol.ScheduleCron, "* * * * * *", &f.begin, new(f.end.Add(-1))
	}
	return r.measure(ctx, f, fmt.Sprintf("%d firings at each full second", r.rate))
}

// measure lets schedules fire, and measures from the planned moments until the mail is stored.
func (r *scheduleRun) measure(ctx context.Context, f firings, name string) error {
	inbox := protocol.InboxStream(projectName)
	before, err := r.p.Journal().State(ctx, inbox)
	if err != nil {
		return err
	}
	if err := r.arm(ctx, f); err != nil {
		return err
	}
	used, err := cpuTime(r.scheduler)
	if err != nil {
		return err
	}
	time.Sleep(time.Until(f.end))
	if err := r.awaitMail(ctx, f, before.Messages); err != nil {
		return err
	}
	usedAfter, err := cpuTime(r.scheduler)
	if err != nil {
		return err
	}
	var late []time.Duration
	twice := 0
	if err := await(ctx, "all of that is of different moments", func() (bool, error) {
		late, twice, err = r.lateness(ctx, before.Last+1)
		return len(late) >= f.planned(), err
	}); err != nil {
		return err
	}
	if len(late) != f.planned() {
		return fmt.Errorf("%d moments have fired, planned are %d", len(late), f.planned())
	}
	r.report.times(name+", from the moment to the stored mail", late, 0.5, 0.99)
	r.report.limit(lateMillis)
	r.report.times(name+", from the moment to the stored mail", late, 1)
	r.report.add(name+", mail that came twice", float64(twice), "messages", len(late))
	r.report.add(name+", CPU time of the scheduler", float64((usedAfter-used).Microseconds())/float64(len(late)), "µs per firing", len(late))
	return r.p.Journal().PurgeAll(ctx, inbox, before.Last+1+uint64(len(late)+twice))
}

// awaitMail waits until there is mail of all firings.
func (r *scheduleRun) awaitMail(ctx context.Context, f firings, before uint64) error {
	return await(ctx, fmt.Sprintf("%d moments have fired", f.planned()), func() (bool, error) {
		state, err := r.p.Journal().State(ctx, protocol.InboxStream(projectName))
		return state.Messages >= before+uint64(f.planned()), err
	})
}

// lateness reads the inbox from a sequence on: how late each firing was stored, and how many were stored again.
func (r *scheduleRun) lateness(ctx context.Context, from uint64) (late []time.Duration, twice int, err error) {
	type moment struct {
		subject string
		number  uint64
	}
	seen := map[moment]bool{}
	for more := true; more; {
		page, rest, err := r.p.Journal().Page(ctx, protocol.InboxStream(projectName), protocol.InboxSubjects(projectName), from, 500)
		if err != nil {
			return nil, 0, err
		}
		for _, m := range page {
			var mail protocol.Mail
			if err := json.Unmarshal(m.Data, &mail); err != nil {
				return nil, 0, err
			}
			from = m.Sequence + 1
			at := moment{m.Subject, mail.Number}
			if seen[at] {
				twice++
				continue
			}
			seen[at] = true
			late = append(late, m.Time.Sub(*mail.Planned))
		}
		more = rest
	}
	return late, twice, nil
}

// measureRings has agents that are there take what fires.
func (r *scheduleRun) measureRings(ctx context.Context) error {
	host, _, err := r.startHost(ctx, r.url)
	if err != nil {
		return err
	}
	defer end(host)
	f := r.evenly("ring", r.turns)
	if err := r.askToRing(ctx, f); err != nil {
		return err
	}
	time.Sleep(time.Until(f.end))
	var late []time.Duration
	for i := range f.schedules {
		var rung []time.Duration
		if err := await(ctx, fmt.Sprintf("agent %d has been called as often as planned", i), func() (bool, error) {
			rung, err = agent.Call(ctx, alarms.In(r.p).Agent(fmt.Sprint(f.name, "-", i)), (*alarm).Rung, struct{}{}, agent.Timeout(within))
			return len(rung) >= f.planned()/f.schedules, err
		}); err != nil {
			return err
		}
		late = append(late, rung...)
	}
	if len(late) != f.planned() {
		return fmt.Errorf("agents were called %d times, planned is %d", len(late), f.planned())
	}
	name := fmt.Sprintf("%d firings per second, from the moment to the begin of the turn", r.turns)
	r.report.times(name, late, 0.5, 0.99, 1)
	return nil
}

// askToRing has agents make their schedules.
func (r *scheduleRun) askToRing(ctx context.Context, f firings) error {
	before, err := r.armedNow(ctx)
	if err != nil {
		return err
	}
	group, calls := errgroup.WithContext(ctx)
	group.SetLimit(callers)
	for i := range f.schedules {
		group.Go(func() error {
			var s protocol.Schedule
			f.change(i, &s)
			ref := alarms.In(r.p).Agent(fmt.Sprint(f.name, "-", i))
			_, err := agent.Call(calls, ref, (*alarm).Arm, ringing{f.each, *s.From, *s.Until}, agent.Timeout(within))
			return err
		})
	}
	return errors.Join(group.Wait(), r.awaitArmed(ctx, before+uint64(f.schedules), f.begin))
}

// cpuTime is what all threads of a process have used of the CPUs.
func cpuTime(of *exec.Cmd) (used time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", of.Process.Pid))
	if err == nil && len(threads) == 0 {
		err = errors.New("the kernel does not say")
	}
	if err != nil {
		return 0, fmt.Errorf("CPU time of a process: %w", err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			return 0, fmt.Errorf("CPU time of a process: %w", err)
		}
		first, _, _ := strings.Cut(string(text), " ")
		nanos, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time of a process: %w", err)
		}
		used += time.Duration(nanos)
	}
	return used, nil
}
