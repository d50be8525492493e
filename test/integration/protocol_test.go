package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// protocolTest is a test in a project of its own.
type protocolTest struct {
	name string
	run  func(w *world)
}

func protocolTests() []protocolTest {
	all := []protocolTest{
		{"killed in mid-step", killedInMidStep},
		{"a step that kills its runner", lostInOneStep},
		{"killed while undoing", killedWhileUndoing},
		{"released after the body", releasedAfterTheBody},
		{"released in the body", releasedInTheBody},
		{"released while parked", releasedWhileParked},
		{"released before they began", releasedBeforeTheyBegan},
		{"zombie", zombie},
		{"zombie of a living instance", zombieOfALivingInstance},
		{"long body", longBody},
		{"stood still", stoodStill},
		{"delivered twice", deliveredTwice},
		{"raced", raced},
		{"subscribed", subscribed},
		{"many at a time", manyAtATime},
		{"event at any time", eventAtAnyTime},
		{"event older than the park", func(w *world) { eventOlderThanThePark(w, false) }},
		{"event older than the park of a dead runner", func(w *world) { eventOlderThanThePark(w, true) }},
		{"events around the park", eventsAroundThePark},
		{"events in order", eventsInOrder},
		{"events for many waits", eventsForManyWaits},
		{"event repeated", eventRepeated},
		{"created by many", createdByMany},
		{"backlog", backlog},
		{"more than slots", moreThanSlots},
		{"unknown workflow", unknownWorkflow},
		{"queued in order", queuedInOrder},
		{"status of another's", statusOfAnothers},
		{"diverged", diverged},
	}
	return slices.Concat(all, deaths(), controlTests(), callDeaths(), races(), givingUp())
}

// TestProtocol runs each protocol test on one server, with one shard and with four, and on a cluster of three, where leaders
// move meanwhile.
func TestProtocol(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		rig  func(t testing.TB) *rig
	}{{"single server", singleServer}, {"four shards", fourShards}, {"cluster", threeServers}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			rig := row.rig(t)
			for _, test := range protocolTests() {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					test.run(newWorld(t, rig, projectName(test.name)))
				})
			}
		})
	}
}

var notPlain = regexp.MustCompile(`[^a-z0-9]+`)

// projectName makes the name of a project of that of a test.
func projectName(test string) string {
	name := notPlain.ReplaceAllString(strings.ToLower(test), "-")
	return name[:min(len(name), protocol.MaxProjectName)]
}
