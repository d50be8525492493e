// Package slots limits how many instances of a workflow execute at a time, over all runners of a project. A row per
// workflow names the instances that have a slot; each that waits for one has a key of its own. Both stand in the bucket
// protocol.SlotsBucket.
//
// A slot belongs to an instance, not to a process: what a dead runner leaves, whoever executes the instance next takes
// over. Slots are projections of logs. They are taken before an instance is claimed and given back before the wake is
// acked, so that a crash in between leads to a redelivery, and doing it again is harmless.
//
// It must never decide who may execute an instance, and never poll: whoever gives a slot back hands it to the instance
// that was created first, with a nudge.
package slots
