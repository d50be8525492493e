// Command workflow-runner executes the workflow of the example project expenses.
package main

import (
	"github.com/skein-run/skein/examples/expenses"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

func main() { project.Main(workflow.Runner(expenses.Workflows(expenses.NewOffice())...)) }
