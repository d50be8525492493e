// Package journal is the instance log on JetStream, and the compare-and-append that every durable write of Skein rests
// on: instance logs, creates and agents' records alike.
//
// It is the only place that knows the error codes of an append, how an append of unknown outcome is settled, and
// which reads may be stale. It must never decide what an entry means: that is package engine.
package journal
