// Package engine decides what happens to an instance of a workflow. It folds a log into a History, decides by one
// table what a wake may do, and is the replay machine that answers the calls of workflow code from what is recorded.
//
// It is pure: messages and moments come in, decisions and entries go out. It must never do I/O, read a clock, start a
// goroutine or take a lock, so that its tests can walk through every order of events.
package engine
