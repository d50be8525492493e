package runner

import (
	"fmt"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

func version(v string) func(*Config) { return func(c *Config) { c.Version = v } }

// versions of the runs of an instance.
func versions(s protocol.Status) (all []string) {
	for _, r := range s.Runs {
		all = append(all, r.Version)
	}
	return all
}

// TestVersionOfEachRun: instances go from one version of the code to the next. Wherever one rests, the tail of its log
// tells the version, a snapshot too.
func TestVersionOfEachRun(t *testing.T) {
	t.Parallel()
	r := setup(t)
	reader := Reader{Store: r.store, Project: "p", Shards: 1}
	check := func(what string, i protocol.Instance, want ...string) {
		t.Helper()
		s := r.status(i)
		g, err := reader.Glance(t.Context(), i.Workflow, i.ID)
		newest := want[len(want)-1]
		if err != nil || s.Version != newest || g.Version != newest || !slices.Equal(versions(s), want) {
			t.Errorf("%s: the status has %q, a glance %q (%v), the runs %q, want %q", what, s.Version, g.Version, err, versions(s), want)
		}
	}
	stop := r.serve(r.runner(version("v1")))
	waits, sleeps, quick := r.begun(at("waits", "a"), waiting), r.begun(at("sleeps", "a"), waiting), r.create(at("quick", "a"))
	stopped := r.begun(at("waits", "b"), waiting)
	r.reaches(quick, complete)
	check("parked", waits, "v1")
	check("ended", quick, "v1")
	stop()

	stop = r.serve(r.runner(version("v2")))
	r.control(stopped, pause)
	r.reaches(stopped, paused)
	check("paused by another", stopped, "v1")
	r.control(sleeps, compact)
	natstest.Eventually(t, patience, "there is a snapshot", func() bool { return r.count(sleeps, protocol.EntrySnapshot) == 1 })
	check("a snapshot of another", sleeps, "v1")
	r.control(stopped, resume)
	r.until(stopped, "waits again", func(s protocol.Status) bool { return s.State == waiting && len(s.Runs) == 2 })
	check("resumed", stopped, "v1", "v2")
	stop()

	r.serve(r.runner(version("v3")))
	r.send(waits, "go")
	r.send(stopped, "go")
	r.control(quick, restart)
	r.control(sleeps, terminate)
	r.reaches(waits, complete)
	r.reaches(stopped, complete)
	r.reaches(sleeps, terminated)
	r.until(quick, "has ended again", func(s protocol.Status) bool { return s.Epoch == 1 && s.State == complete })
	check("ended by the next version", waits, "v1", "v3")
	check("ended by the third", stopped, "v1", "v2", "v3")
	check("terminated by another", sleeps, "v1")
	check("restarted", quick, "v1", "v3")
}

// TestVersionStandsWhereRunsBegin: it is not repeated on each message of a run.
func TestVersionStandsWhereRunsBegin(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner(version("v1")))
	i := r.create(at("quick", "a"))
	r.reaches(i, complete)
	log := r.log(i)
	for n, l := range log {
		want := ""
		if n == 0 || n == len(log)-1 {
			want = "v1"
		}
		if l.Version != want {
			t.Errorf("message %d of %d has version %q: %s", n, len(log), l.Version, fmt.Sprint(l.Entries))
		}
	}
	if len(log) < 3 {
		t.Errorf("the log has %d messages", len(log))
	}
}
