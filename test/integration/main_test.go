package integration

import (
	"flag"
	"os"
	"testing"
	"time"
	_ "time/tzdata" // schedules name time zones

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/natstest"
	commands "github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// roleEnv tells this program that it is not the test but one of its processes.
const roleEnv = "SKEIN_INTEGRATION_ROLE"

const (
	roleRunner    = "runner"
	roleHost      = "host"
	roleGate      = "gate" // a host that takes sockets for agents of others
	roleSink      = "sink" // a host that takes large bodies
	roleServer    = "nats"
	roleScheduler = "scheduler"
)

var soak = flag.Duration("soak", 3*time.Second, "how long TestSoak, TestMixedStorm, TestAgentHistory, TestCrowd and TestClockStorm keep breaking things")

var crowdSize = flag.Int("sockets", 400, "how many sockets TestCrowd holds")

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleRunner:
		project.Main(workflow.Runner(workflow.Define("Script", run)))
	case roleHost:
		project.Main(agent.Host(clerks(), crowds(), bells()))
	case roleGate:
		project.Main(agent.Host(agent.Define("Porter", func() *porter { return &porter{} })))
	case roleSink:
		project.Main(agent.Host(sinks()))
	case roleScheduler:
		commands.Main(scheduler.Command(doctor.Rounds))
	case roleServer:
		os.Exit(serveNATS())
	}
	// Most tests here wait for the 5 seconds after which a dead runner's work is given to another.
	natstest.Parallel(16)
	os.Exit(m.Run())
}
