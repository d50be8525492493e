// Package protocol is the wire contract of Skein: every name of a stream, subject, bucket and header, every message
// that one process writes and another reads, and the form in which a failure is stored.
//
// It uses the standard library only, does no I/O and knows no clock. What it must never do: decide anything. Other
// packages take names from here and from nowhere else, so that one file shows the whole surface that people see with
// the NATS CLI. Formats only grow: a field is added with omitempty, never renamed, and an old golden file is never edited.
package protocol
