// Command workflow-runner executes the workflows of the example project email-workflows. The main of a project of your
// own looks the same, with your own workflows.
//
// SMTP_ADDR names the SMTP server (host:port) that takes the mails; without it they are printed. LOOK_AROUND changes
// how long the workflow leaves users alone after the first mail (24h).
package main

import (
	"log"

	"github.com/skein-run/skein/examples/emailworkflows"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

func main() {
	onboarding, err := emailworkflows.FromEnv()
	if err != nil {
		log.Fatalln("error:", err)
	}
	project.Main(workflow.Runner(emailworkflows.Workflows(onboarding)...))
}
