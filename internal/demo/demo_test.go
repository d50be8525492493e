package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/workflow"
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "skein-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "skein")
	build := exec.Command("go", "build", raceFlag, "-o", binary, "../../cmd/skein")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// run runs the demo to its end, in a folder for temporary files of its own.
func run(t *testing.T, args ...string) (r Report, progress string, err error) {
	t.Helper()
	tmp := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"demo", "--output", "json"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err = cmd.Run()
	decoder := json.NewDecoder(&out)
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("standard output is no JSON: %v\n%s", err, log.String())
	}
	if decoder.More() {
		t.Error("standard output has more than one JSON value")
	}
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("the demo left %s behind", left[0].Name())
	}
	for _, p := range r.Processes {
		if alive(p.PID) {
			t.Errorf("process %s (%d) is still there", p.Name, p.PID)
		}
	}
	return r, log.String(), err
}

// alive reports whether there is a process of this id. One that has ended and that nobody waits for, as in containers
// without an init, is not alive.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil {
		_, rest, _ := strings.Cut(string(stat), ") ")
		return !strings.HasPrefix(rest, "Z")
	}
	return syscall.Kill(pid, 0) == nil
}

// TestMainJob is the main job end to end, on real processes.
func TestMainJob(t *testing.T) {
	t.Parallel()
	r, progress, err := run(t, "--limit", natstest.Patience.String())
	if err != nil || !r.OK {
		t.Fatalf("the demo failed: %v\nproblems: %q\nprocesses: %+v\n%s", err, r.Problems, r.Processes, progress)
	}
	if r.State != workflow.Complete || r.Agent.State != workflow.Complete || r.Instance != r.Agent.Instance || r.Agent.Looks == 0 {
		t.Errorf("instance %s is %s, the agent says %+v", r.Instance, r.State, r.Agent)
	}
	checkTimeline(t, r)
	lost := slices.IndexFunc(r.Runs, func(a Activation) bool { return a.Lost })
	if lost < 0 || len(r.Runs) < lost+2 || r.Runs[lost+1].Runner == r.Runs[lost].Runner {
		t.Fatalf("runs are %+v", r.Runs)
	}
	if len(r.Mails) != 3 || r.Mails[0].MessageID != r.Mails[1].MessageID || r.Mails[1].MessageID == r.Mails[2].MessageID {
		t.Errorf("mails are %+v", r.Mails)
	}
	for _, p := range r.Processes {
		if killed := p.Name == r.Runs[lost].Runner; killed != (p.End == "killed") {
			t.Errorf("process %+v, lost was the run of %s", p, r.Runs[lost].Runner)
		}
	}
	if len(r.Processes) != 4 || r.Seconds > natstest.Patience.Seconds() {
		t.Errorf("%d processes, %.1fs", len(r.Processes), r.Seconds)
	}
}

func checkTimeline(t *testing.T, r Report) {
	t.Helper()
	var got []string
	for _, row := range r.Timeline {
		if row.Begun == nil || row.Ended == nil || *row.Ended < *row.Begun || row.Runner == "" {
			t.Errorf("row %+v", row)
		}
		got = append(got, fmt.Sprintf("%s %d %s", row.Step, row.Attempt, row.Outcome))
	}
	want := []string{
		"load user 1 failed", "load user 2 failed", "load user 3 completed", "mail the booking 1 lost",
		"mail the booking 2 completed", "let them look around 0 slept", "wait for answer 0 received", "mail the receipt 1 completed",
	}
	if !slices.Equal(got, want) {
		t.Errorf("timeline is %q, want %q", got, want)
	}
}

// Without a confirmation the job cannot end: the demo must say so, not wait for ever and not call it right.
func TestDemoSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	r, progress, err := run(t, "--unconfirmed", "--limit", natstest.Patience.String())
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 1 || r.OK {
		t.Fatalf("ended with %v, report ok is %v", err, r.OK)
	}
	if !strings.HasSuffix(progress, "error: the demo went wrong\n") {
		t.Errorf("progress ends with %q", progress[max(0, len(progress)-200):])
	}
	problems := strings.Join(r.Problems, "\n")
	for _, want := range []string{
		"waiting until the workflow is complete: nobody confirmed", `it is waiting, "wait for answer" is waiting`,
		`do "mail the receipt" #1 has 0 outcomes`, "1 different mails, want 2", "row in the bucket of schedules is still there",
	} {
		if !strings.Contains(problems, want) {
			t.Errorf("%q is missing in:\n%s", want, problems)
		}
	}
	for _, p := range r.Processes {
		if len(p.Log) == 0 {
			t.Errorf("no log of %s", p.Name)
		}
	}
}

func TestDemoGivesUpAtItsLimit(t *testing.T) {
	t.Parallel()
	r, _, err := run(t, "--limit", "2s") // shorter than the time until the agent's callback
	if err == nil || r.OK || len(r.Problems) == 0 || !strings.HasSuffix(r.Problems[0], "not done within 2s") {
		t.Errorf("ended with %v, problems %q", err, r.Problems)
	}
}

// started is a demo whose processes all run.
type started struct {
	cmd  *exec.Cmd
	pids []int
	tmp  string
	// text is everything it wrote, to be read after done is closed.
	text bytes.Buffer
	done chan struct{}
}

var pidPattern = regexp.MustCompile(`is ready \(process (\d+)\)`)

func startDemo(t *testing.T) *started {
	t.Helper()
	s := &started{tmp: t.TempDir(), done: make(chan struct{})}
	s.cmd = exec.CommandContext(t.Context(), binary, "demo", "--limit", natstest.Patience.String())
	s.cmd.Env = append(os.Environ(), "TMPDIR="+s.tmp)
	pipe, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = &s.text
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	for len(s.pids) < 4 && lines.Scan() {
		if m := pidPattern.FindStringSubmatch(lines.Text()); m != nil {
			pid, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			s.pids = append(s.pids, pid)
		}
	}
	go func() {
		for lines.Scan() { // the demo must not block on a full pipe
		}
		close(s.done)
	}()
	if len(s.pids) != 4 {
		t.Fatalf("%d processes started", len(s.pids))
	}
	return s
}

func (s *started) awaitNoProcesses(t *testing.T) {
	t.Helper()
	natstest.Eventually(t, natstest.Patience, "all processes are gone", func() bool { return !slices.ContainsFunc(s.pids, alive) })
}

func TestInterruptCleansUp(t *testing.T) {
	t.Parallel()
	s := startDemo(t)
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-s.done
	if err := s.cmd.Wait(); err == nil {
		t.Error("an interrupted demo ended with exit code 0")
	}
	if !strings.Contains(s.text.String(), "error: the demo was stopped: interrupt signal received") {
		t.Errorf("it says %q", s.text.String())
	}
	for _, pid := range s.pids {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if left, _ := os.ReadDir(s.tmp); len(left) > 0 {
		t.Errorf("it left %s behind", left[0].Name())
	}
}

func TestProcessesDoNotOutliveTheDemo(t *testing.T) {
	t.Parallel()
	s := startDemo(t)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.done
	_ = s.cmd.Wait() // it was killed
	s.awaitNoProcesses(t)
}

func TestProcessRefusesOtherNames(t *testing.T) {
	t.Parallel()
	cmd := ProcessCommand()
	cmd.SetArgs([]string{"gardener"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), `process "gardener": allowed are scheduler`) {
		t.Errorf("error is %v", err)
	}
}
