package janitor_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// put stores a value of an instance that was, or will be, created with an input of this id.
func (y *yard) put(id, input, value string, keeper objects.Keeper) string {
	y.t.Helper()
	owner := protocol.OwnerOf(protocol.Instance{Project: "p", Workflow: "waits", ID: id}, input)
	o, err := objects.New(y.store).Put(y.t.Context(), objects.Value{Owner: owner, JSON: json.RawMessage(fmt.Sprintf("%q", big(value))), Keeper: keeper})
	if err != nil {
		y.t.Fatal(err)
	}
	return o.Name
}

// values are the names of all that the object store has.
func (y *yard) values() []string {
	y.t.Helper()
	var all []string
	for _, subject := range y.subjects(protocol.ObjectsStream("p"), protocol.ObjectChunkSubjects("p")) {
		all = append(all, protocol.ObjectNameOf("p", subject))
	}
	slices.Sort(all)
	return all
}

func (y *yard) sweep(want int, change ...func(*janitor.Cleaner)) {
	y.t.Helper()
	if n, err := janitor.Sweep(y.t.Context(), []*janitor.Cleaner{y.cleaner(change...)}); err != nil || n != want {
		y.t.Errorf("%d values were taken away, %v, want %d", n, err, want)
	}
}

// record stores the record of an agent.
func (y *yard) record(keeper objects.Keeper, body string) {
	y.t.Helper()
	bucket := protocol.AgentsBucket(keeper.Project)
	if _, err := y.store.Publish(y.t.Context(), protocol.KVSubject(bucket, keeper.Key), nil, []byte(body)); err != nil {
		y.t.Fatal(err)
	}
}

// TestSweep: what nobody refers to goes when it is old, and nothing else does.
func TestSweep(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	if err := streams.EnsureAgents(t.Context(), y.js, "p", streams.Options{}); err != nil {
		t.Fatal(err)
	}
	keeper, other := objects.Keeper{Project: "p", Key: protocol.AgentKey("Desk", "jo")}, objects.Keeper{Project: "p", Key: protocol.AgentKey("Desk", "al")}
	y.put("never", "never", "params", objects.Keeper{})
	kept := y.put("later", "later", "params", keeper)
	y.record(keeper, fmt.Sprintf(`{"outbox":[{"create":{"params_object":{"name":%q}}}]}`, kept))
	waits := create(y, "waits", "waits", big("w"))
	if err := waits.SendEvent(t.Context(), "second", big("second")); err != nil { // no wait has taken it yet
		t.Fatal(err)
	}
	y.reaches(waits, workflow.Waiting)
	done := create(y, "large", "done", big("params"))
	y.result(done, big("params")+big("result"))
	create(y, "large", "gone", big("params"), gone())
	y.awaitEnd("large", "gone")
	y.settled()
	all := y.values()
	y.sweep(0, func(c *janitor.Cleaner) { c.Settings.Age = time.Hour })
	y.sweep(3) // the one that never came, and the two of what has expired
	if left := y.values(); len(left) != len(all)-3 || !slices.Contains(left, kept) {
		t.Errorf("of %q there are left %q", all, left)
	}
	y.clean(y.cleaner(), y.stored()) // what refers to them now are snapshots
	y.settled()
	y.sweep(0)
	if again := y.put("later", "later", "params", other); again != kept {
		t.Errorf("the same value is %q and %q", kept, again)
	}
	y.record(keeper, `{"outbox":[]}`)
	y.sweep(0) // the other agent may refer to it
	y.send(waits, "first")
	y.result(waits, big("w")+" first "+big("second"))
	y.result(done, big("params")+big("result"))
}

// TestSweepKeeper: a value goes when the outbox of the agent that has put it does not hold it any more, and comes again.
func TestSweepKeeper(t *testing.T) {
	t.Parallel()
	y := setup(t)
	if err := streams.EnsureAgents(t.Context(), y.js, "p", streams.Options{}); err != nil {
		t.Fatal(err)
	}
	keeper := objects.Keeper{Project: "p", Key: protocol.AgentKey("Desk", "jo")}
	name := y.put("a", "a", "params", keeper)
	y.record(keeper, name)
	y.sweep(0)
	y.record(keeper, "{}")
	y.sweep(1)
	y.sweep(0)
	y.empty(protocol.ObjectsStream("p"))
	if again := y.put("a", "a", "params", keeper); again != name || !strings.HasPrefix(y.values()[0], "waits/a/a/") {
		t.Errorf("put again it is %q, and there is %q", again, y.values())
	}
}
