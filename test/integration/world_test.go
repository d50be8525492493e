package integration

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// rig is where a project lives: one server, or a cluster of three.
type rig struct {
	url      string
	replicas int
	connect  func(t testing.TB, opts ...nats.Option) *nats.Conn
	// shards are those of each project. 0 is 1.
	shards int
	// cluster is nil for one server.
	cluster *natstest.Cluster
}

func singleServer(t testing.TB) *rig {
	s := natstest.Start(t)
	return &rig{url: s.URL(), replicas: 1, connect: s.Connect}
}

func fourShards(t testing.TB) *rig {
	r := singleServer(t)
	r.shards = 4
	return r
}

func threeServers(t testing.TB) *rig {
	c := natstest.StartCluster(t, 3)
	return &rig{url: c.URL(), replicas: 3, connect: c.Connect, cluster: c}
}

// world is a project of a test's own on a rig, and the test's connection to it.
type world struct {
	*rig
	t       *testing.T
	name    string
	nc      *nats.Conn
	js      jetstream.JetStream
	store   *journal.Store
	project *project.Project
	// workflow is the one that create and all that asks for an instance mean.
	workflow string
	// files has a skein.jsonc per set of workflows.
	files   string
	runners int
	// calls is the world whose main workflow scripts of this one call, nil if none do. If it is this one, they call its
	// other workflow.
	calls *world
	// limit, if set, is how many instances of the rare workflow may run at a time.
	limit int
	// crons, if set, are the schedules of the main workflow.
	crons string
}

// workflows of the project: the same code under two names, so that a runner may lack one of them.
const (
	mainWorkflow = "script"
	rareWorkflow = "rare"
)

func newWorld(t *testing.T, r *rig, name string) *world {
	t.Helper()
	w := &world{rig: r, t: t, name: name, nc: r.connect(t), workflow: mainWorkflow, files: t.TempDir()}
	config := project.Config{Name: name}
	for _, name := range []string{mainWorkflow, rareWorkflow} {
		config.Workflows = append(config.Workflows, project.Workflow{Name: name, ClassName: "Script"})
	}
	var err error
	if w.project, err = project.Open(t.Context(), config, project.Conn(w.nc)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.project.Close)
	w.js, w.store = w.project.JS, w.project.Journal()
	t.Cleanup(w.clearAway)
	// What a first runner does; here, so that instances can be created before there is one.
	options := streams.Options{Replicas: r.replicas}
	if err := errors.Join(
		streams.EnsureProjects(t.Context(), w.js, options),
		streams.EnsureWorkflows(t.Context(), w.js, name, w.shardCount(), options),
		streams.RegisterWorkflows(t.Context(), w.js, name, w.shardCount(), map[string]string{mainWorkflow: "Script", rareWorkflow: "Script"}),
	); err != nil {
		t.Fatal(err)
	}
	return w
}

// clearAway takes the streams of the project away when its processes have ended: the replicas of each keep a cluster busy,
// also while others use it.
func (w *world) clearAway() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, stream := range append(w.streams(),
		protocol.TimersStream(w.name), protocol.KVStream(protocol.SlotsBucket(w.name)), protocol.ObjectsStream(w.name),
	) {
		if err := w.js.DeleteStream(ctx, stream); err != nil {
			w.t.Logf("delete stream %s: %v", stream, err) // no claim of a test; the server may be gone
		}
	}
}

func (w *world) shardCount() int { return max(1, w.shards) }

// streams are those of the project's instances.
func (w *world) streams() []string {
	all := make([]string, w.shardCount())
	for shard := range all {
		all[shard] = protocol.WorkflowsStream(w.name, shard)
	}
	return all
}

// reader reads the instances of the project.
func (w *world) reader() runner.Reader {
	return runner.Reader{Store: w.store, Project: w.name, Shards: w.shardCount()}
}

// setup says how a runner process is started. The zero value works.
type setup struct {
	// stopAt is a point of package testsignal at which the process stands still.
	stopAt string
	slots  int
	// grace is 10 s by default, which may be too short for a busy machine; here it is a minute.
	grace time.Duration
	// workflows that it serves; both if nil.
	workflows []string
	// version is that of the code; that of the build if empty.
	version string
	// unready does not wait until the process takes work.
	unready bool
}

// runner starts a runner process and waits until it takes work.
func (w *world) runner(s setup) *process {
	w.t.Helper()
	w.runners++
	if s.workflows == nil {
		s.workflows = []string{mainWorkflow, rareWorkflow}
	}
	args := []string{"--config", w.config(s.workflows), "--nats-url", w.url, "--replicas", strconv.Itoa(w.replicas), "--log-level", "debug"}
	if s.slots > 0 {
		args = append(args, "--slots", strconv.Itoa(s.slots))
	}
	if s.version != "" {
		args = append(args, "--version", s.version)
	}
	args = append(args, "--shutdown-grace", cmp.Or(s.grace, time.Minute).String())
	var env []string
	if s.stopAt != "" {
		env = append(env, testsignal.Env+"="+s.stopAt)
	}
	p := launch(w.t, fmt.Sprintf("runner %d of %s", w.runners, w.name), roleRunner, env, args...)
	if !s.unready {
		p.awaitLog(w.t, "msg=ready")
	}
	return p
}

// config writes the skein.jsonc of a runner that has code for some of the workflows.
func (w *world) config(workflows []string) string {
	w.t.Helper()
	var entries []string
	for _, name := range workflows {
		more := ""
		if name == mainWorkflow && w.crons != "" {
			more += fmt.Sprintf(`, "schedules": [%s]`, w.crons)
		}
		if name == rareWorkflow && w.limit > 0 {
			more += fmt.Sprintf(`, "concurrency": { "limit": %d }`, w.limit)
		}
		if name == rareWorkflow && w.calls == w {
			more += fmt.Sprintf(`, "binding": %q`, callBinding)
		}
		entries = append(entries, fmt.Sprintf(`{ "name": %q, "class_name": "Script"%s },`, name, more))
	}
	if w.calls != nil && w.calls != w {
		entries = append(entries, fmt.Sprintf(`{ "name": %q, "binding": %q, "class_name": "Script", "script_name": %q },`,
			mainWorkflow, callBinding, w.calls.name))
	}
	path := filepath.Join(w.files, strings.Join(workflows, "-")+".jsonc")
	text := fmt.Sprintf("{ \"name\": %q, \"workflows\": [%s] }\n", w.name, strings.Join(entries, " "))
	// Another runner may be reading it at this moment.
	fresh := path + "." + rand.Text()
	if err := errors.Join(os.WriteFile(fresh, []byte(text), 0o600), os.Rename(fresh, path)); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) scripts() workflow.Bound[script, []string] {
	return workflow.Bind[script, []string](w.workflow).In(w.project)
}

// create starts an instance.
func (w *world) create(id string, s script) {
	w.t.Helper()
	if _, err := w.scripts().Create(w.t.Context(), s, workflow.ID(id)); err != nil {
		w.t.Fatal(err)
	}
}

// send sends an event whose payload is a text.
func (w *world) send(id, eventType, payload string) {
	w.t.Helper()
	instance, err := w.scripts().Get(w.t.Context(), id)
	if err == nil {
		err = instance.SendEvent(w.t.Context(), eventType, payload)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// sendWhileItLives is send for an instance that may have ended.
func (w *world) sendWhileItLives(id, eventType, payload string) {
	w.t.Helper()
	instance, err := w.scripts().Get(w.t.Context(), id)
	if err == nil {
		err = instance.SendEvent(w.t.Context(), eventType, payload)
	}
	if err != nil && !errors.Is(err, workflow.ErrFinished) {
		w.t.Fatal(err)
	}
}

func (w *world) instance(id string) protocol.Instance {
	return protocol.Instance{Project: w.name, Shard: protocol.Shard(id, w.shardCount()), Workflow: w.workflow, ID: id}
}

// status reads the log of an instance itself.
func (w *world) status(id string) protocol.Status {
	w.t.Helper()
	s, err := w.reader().Status(w.t.Context(), w.workflow, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// patience is how long it may take what must happen and is no claim of a test.
const patience = natstest.Patience

// eventually polls cond until it is true. It asks servers and processes, and seldom enough to leave them the machine.
func eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !cond(); pause(t.Context(), 25*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", timeout, what)
		}
	}
}

// reaches waits until an instance is as cond wants it.
func (w *world) reaches(id, what string, cond func(protocol.Status) bool) protocol.Status {
	w.t.Helper()
	var s protocol.Status
	eventually(w.t, patience, id+" "+what, func() bool {
		s = w.status(id)
		return cond(s)
	})
	return s
}

func (w *world) awaitParked(id string) protocol.Status {
	w.t.Helper()
	return w.reaches(id, "is parked", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
}

// finish waits for the result of an instance and audits what is stored of it.
func (w *world) finish(id string, s script) *trail {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	instance, err := w.scripts().Get(ctx, id)
	if err != nil {
		w.t.Fatal(err)
	}
	output, err := instance.Result(ctx)
	if err != nil {
		w.t.Fatalf("%s: %v", id, err)
	}
	tr := w.trail(id)
	tr.audit(w.t)
	tr.checkOutput(w.t, s, output)
	return tr
}

// finishAll waits until all instances of the project have ended, which all run s, and audits what is stored of them.
func (w *world) finishAll(instances int, s script) (lost int) {
	w.t.Helper()
	eventually(w.t, patience, fmt.Sprintf("%d instances have ended", instances), func() bool { return w.ended() >= instances })
	trails := w.trails()
	if len(trails) != instances {
		w.t.Errorf("there are %d instances, want %d", len(trails), instances)
	}
	for _, tr := range trails {
		tr.audit(w.t)
		tr.checkOutput(w.t, s, tr.output(w.t))
		lost += tr.lost()
	}
	return lost
}

// quiesce waits until every wake is acked: nothing is owed to anybody any more.
func (w *world) quiesce() {
	w.t.Helper()
	acked := func(stream, name string) {
		eventually(w.t, patience, "all wakes of "+name+" are acked", func() bool {
			consumer, err := w.js.Consumer(w.t.Context(), stream, name)
			return err == nil && consumer.CachedInfo().NumAckPending == 0 && consumer.CachedInfo().NumPending == 0
		})
	}
	for shard, stream := range w.streams() {
		acked(stream, protocol.ConsumerControls(shard))
		acked(stream, protocol.ConsumerWakes(shard))
	}
	acked(protocol.TimersStream(w.name), protocol.ConsumerDue)
}

// ended is how many instances are announced to have ended.
func (w *world) ended() int {
	w.t.Helper()
	ended := 0
	for _, name := range w.streams() {
		stream, err := w.js.Stream(w.t.Context(), name)
		var info *jetstream.StreamInfo
		if err == nil {
			done, _ := protocol.DoneRepublish(w.name)
			info, err = stream.Info(w.t.Context(), jetstream.WithSubjectFilter(done))
		}
		if err != nil {
			w.t.Logf("ask how many have ended: %v", err) // while a leader is elected
			return 0
		}
		ended += len(info.State.Subjects)
	}
	return ended
}

// consumers asks how it stands with the consumers of a kind, one for each shard.
func (w *world) consumers(kind func(shard int) string) []*jetstream.ConsumerInfo {
	w.t.Helper()
	var all []*jetstream.ConsumerInfo
	for shard, stream := range w.streams() {
		natstest.Ask(w.t, "how it stands with "+kind(shard), func(ctx context.Context) error {
			consumer, err := w.js.Consumer(ctx, stream, kind(shard))
			if err == nil {
				all = append(all, consumer.CachedInfo())
			}
			return err
		})
	}
	return all
}

// count adds up what there is of consumers of a kind.
func (w *world) count(kind func(shard int) string, of func(*jetstream.ConsumerInfo) int) int {
	w.t.Helper()
	n := 0
	for _, info := range w.consumers(kind) {
		n += of(info)
	}
	return n
}

// unacked is how many wakes are with runners, dead or alive.
func (w *world) unacked() int {
	return w.count(protocol.ConsumerWakes, func(c *jetstream.ConsumerInfo) int { return c.NumAckPending })
}

func delivered(c *jetstream.ConsumerInfo) int { return int(c.Delivered.Consumer) }

// deliveries is how often a wake was given to a runner.
func (w *world) deliveries() int { return w.count(protocol.ConsumerWakes, delivered) }

// disturb moves the leaders of the project's streams to other servers, if there is more than one.
func (w *world) disturb() {
	w.t.Helper()
	if w.cluster == nil {
		return
	}
	for _, stream := range w.streams() {
		w.cluster.MoveLeader(w.t, stream)
	}
}
