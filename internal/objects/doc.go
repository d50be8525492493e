// Package objects keeps the values of instances that are too large for messages (over protocol.InlinePayload) in the
// object store of the instance's project, by their content. It exists so that logs and inputs stay small: they hold a
// reference, and whoever needs the value fetches it.
//
// A value is in the store before the message that refers to it, and belongs to one incarnation of one instance: with it,
// it goes. So it is with large states of agents; each has an owner of its own, which goes when no record refers to it. The store has the format of NATS object stores, so that people can read it with the NATS CLI.
//
// It must never hold anything small, never hand out a value that is not exactly what was put, and never take away one
// that a message may still refer to.
package objects
