// Package examples holds the example projects: an agent, flightdesk, that starts a workflow of another project,
// emailworkflows, which are what the programs agent-host and workflow-runner serve as shipped; and expenses, agents and their
// workflow in one project, with a web page and programs of its own.
//
// The examples must never use anything but the public packages: what they need, every user of Skein has.
package examples

import "embed"

// Configs holds the skein.jsonc of the first two, for the demo that runs them.
//
//go:embed flightdesk/skein.jsonc emailworkflows/skein.jsonc
var Configs embed.FS
