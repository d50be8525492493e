// Package examples holds the two example projects: an agent, flightdesk, that starts a workflow of another project,
// emailworkflows. They are what the programs agent-host and workflow-runner serve as shipped.
//
// The examples must never use anything but the public packages: what they need, every user of Skein has.
package examples

import "embed"

// Configs holds the skein.jsonc of both, for the demo that runs them.
//
//go:embed flightdesk/skein.jsonc emailworkflows/skein.jsonc
var Configs embed.FS
