// Command agent-host serves the boards of the example project expenses, and the page that shows them, at http://127.0.0.1:8700/.
// With --http-addr :8700 a phone of the same network can open it, too.
package main

import (
	"github.com/skein-run/skein/examples/expenses"
	"github.com/skein-run/skein/js"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
)

func main() {
	project.Main(agent.Host(expenses.Classes()...).Handle("/", expenses.Page()).Handle("/skein.js", js.Handler()))
}
