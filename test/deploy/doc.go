// Package deploy brings the cluster of the folder deploy up on a real Docker engine, in one account of NATS and with one for
// each project, has it do the main job, and breaks it. It needs an engine, docker-compose and haproxy, so it has a build tag:
// go test -tags docker ./test/deploy.
//
// It must never touch containers, networks or volumes of other projects, and it must leave none behind.
package deploy
