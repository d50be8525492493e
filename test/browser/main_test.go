package browser_test

import (
	"os"
	"testing"
	"time"

	"github.com/skein-run/skein/examples/expenses"
	"github.com/skein-run/skein/js"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/test/browser"
)

// roleEnv tells this program that it is not the test but one of its processes.
const roleEnv = "SKEIN_BROWSER_ROLE"

const (
	// roleDoor has pages and takes their sockets, but none of the agents that they are for.
	roleDoor = "door"
	// roleTally has the agents of the page of numbers, roleBoard those of the example expenses, roleOffice its workflow.
	roleTally  = "tally"
	roleBoard  = "board"
	roleOffice = "office"
)

// porter is the agent of a host that is only a door.
type porter struct{ agent.Base[int] }

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleDoor:
		project.Main(agent.Host(agent.Define("Porter", func() *porter { return &porter{} })).Handle("/skein.js", js.Handler()).
			Handle("/", expenses.Page()).Handle("/numbers", browser.HTML(numbersPage("/skein.js"))))
	case roleTally:
		project.Main(agent.Host(tallies()))
	case roleBoard:
		project.Main(agent.Host(expenses.Classes()...))
	case roleOffice:
		office := expenses.NewOffice()
		office.Pace = 200 * time.Millisecond
		project.Main(workflow.Runner(expenses.Workflows(office)...))
	}
	os.Exit(m.Run())
}
