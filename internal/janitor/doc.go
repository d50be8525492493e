// Package janitor keeps what a project stores bounded: it cleans the stream of its instances from the beginning (rule P8
// of docs/protocol.md). What has expired goes, with the values that it owns. What is needed is brought over the horizon
// first: its create is published again, and its runner is asked for a snapshot of its log.
//
// A purge is worth it when a good share of what it takes is not needed any more, as in every log that is cleaned: so
// what is kept for long is not copied again and again.
//
// Any number of janitors may clean at the same time. A crash between any two steps leaves nothing that the next one
// does not find.
//
// It must never purge what it has not seen carried, and never take a value that somebody may still read. It publishes
// creates that are there, and controls that ask for snapshots: never a log entry, and never the end of an instance.
package janitor
