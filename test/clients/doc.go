// Package clients proves that clients which exist already, Cloudflare's AgentClient and useAgent, work with hosts of Skein
// unchanged: its tests bundle them as npm has them, and drive them in Chromium. They need npm, so they are built with the tag npm
// only:
//
//	npm ci --prefix test/clients && go test -tags npm ./test/clients
//
// It must never be imported, and nothing of those clients may be stored here but the names and versions in package.json.
package clients
