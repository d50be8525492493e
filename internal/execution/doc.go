// Package execution runs workflow code over the replay machine of package engine: it owns the goroutines of one
// activation of an instance, appends what they record, runs the bodies of steps, and parks when nothing moves but
// durable waits.
//
// It must never decide who may execute an instance, nor ack a wake or project anything: that is package runner.
package execution
