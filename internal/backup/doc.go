// Package backup copies all that Skein has stored on a NATS cluster into a folder, while everything works; says whether such a
// folder is whole; and puts it into an empty cluster.
//
// Streams cannot be read at one moment. So they are read in an order, and more than once, such that together they hold a state
// that a crash of all processes could have left behind (cut.go says why); of each stream what belongs to that state is written to
// a file (keep.go). Sequences and times are kept, as the protocol rests on them.
//
// It must never write to the cluster that it copies, nor store anything before it knows that a backup is whole, nor touch streams
// that it has not restored itself.
package backup
