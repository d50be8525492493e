// Package history judges what a run of the fault lab has left behind: it reads everything that is stored in the streams of the lab's
// projects, and what clients and bodies have noted, and says what contradicts the promises of Skein.
//
// It must never write anything, and never take the word of a process for what a stream or a note can tell.
package history
