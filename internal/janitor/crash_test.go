package janitor_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// serverEnv makes the test program a janitor on the server that it names, so that tests can kill a real process.
const serverEnv = "SKEIN_JANITOR_TEST_SERVER"

// runJanitor cleans all that it may, until it is killed.
func runJanitor(url string) error {
	ctx := context.Background()
	nc, err := process.Connect(ctx, "janitor", process.Settings{NATSURL: url}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	store, err := journal.Open(nc)
	if err != nil {
		return err
	}
	return janitor.New(janitor.Options{
		Store: store, JS: js, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), ID: "first", Every: 20 * time.Millisecond,
		Settings: janitor.Settings{Age: time.Nanosecond, Margin: time.Nanosecond, Chunk: 1000, Share: -1000},
	}).Run(ctx)
}

// killAt runs a janitor as a process until it reaches a point, and kills it there.
func (y *yard) killAt(point string) {
	y.t.Helper()
	cmd := exec.CommandContext(y.t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+y.nc.ConnectedUrl(), testsignal.Env+"="+point)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		y.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		y.t.Fatal(err)
	}
	var said []string
	reached := false
	for lines := bufio.NewScanner(stderr); !reached && lines.Scan(); {
		said = append(said, lines.Text())
		reached = strings.Contains(lines.Text(), "testsignal: "+point)
	}
	if err := cmd.Process.Kill(); err != nil {
		y.t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if !reached {
		y.t.Fatalf("the process did not reach %s:\n%s", point, strings.Join(said, "\n"))
	}
}

// TestKilledJanitor: wherever a janitor is killed, the next one goes on, and nothing is lost or left.
func TestKilledJanitor(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		testsignal.JanitorRenewed, testsignal.JanitorAsked, testsignal.JanitorCarried, testsignal.JanitorCollected, testsignal.JanitorPurged,
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			setup(t).outlivesAJanitor(point, func() {})
		})
	}
	t.Run("three servers", func(t *testing.T) {
		t.Parallel()
		y, moved := onCluster(t)
		y.outlivesAJanitor(testsignal.JanitorCarried, moved)
	})
}

// outlivesAJanitor kills a janitor at a point, and moves the leader of the stream before the next one comes.
func (y *yard) outlivesAJanitor(point string, moved func()) {
	y.t.Helper()
	y.serve()
	var kept []*workflow.Instance[string]
	for n := range 3 {
		kept = append(kept, create(y, "waits", fmt.Sprint("w-", n), fmt.Sprint(n)))
		y.send(kept[n], "second")
		create(y, "large", fmt.Sprint("gone-", n), big("params"), gone())
	}
	done := create(y, "large", "done", big("params"))
	y.result(done, big("params")+big("result"))
	for n, i := range kept {
		y.reaches(i, workflow.Waiting)
		y.awaitEnd("large", fmt.Sprint("gone-", n))
	}
	y.settled()
	upTo := y.stored()
	y.killAt(point)
	moved()
	y.settled()
	y.clean(y.cleaner(), upTo)
	y.result(done, big("params")+big("result"))
	for n, i := range kept {
		y.send(i, "first")
		y.result(i, fmt.Sprint(n, " first second"))
	}
	if left := y.subjects(protocol.ObjectsStream("p"), protocol.ObjectChunkSubjects("p")); len(left) != 2 {
		y.t.Errorf("the object store holds %q, want the params and the output of the one that is kept", left)
	}
	if left := y.subjects(protocol.WorkflowsStream("p", 0), "wf.p.0.*.large.gone-0"); len(left) > 0 {
		y.t.Errorf("%q are left", left)
	}
}
