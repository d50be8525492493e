// Package runner serves the workflows of a project: it takes wakes from the stream, reads, decides by the table of
// package engine, executes, projects what the log says, and acks last.
//
// It must never ack a wake for another reason than the table's, and never start a body under a wake that it did not
// decide about after its last refusal.
package runner
