// Package full has workflows run on a NATS server whose disk gets full: a real file system, that of a machine, and not a limit of the server. It
// needs Linux and root, to mount it, so it has a build tag: go test -tags lab ./test/lab/full.
//
// It must never fill anything but what it has mounted, nor leave that behind.
package full
