// Package wire is what travels over the socket of a client, as clients of Cloudflare's agents know it: JSON in text frames for
// identity, state and calls of methods. Every other frame is a message of the client's own.
//
// It must never do I/O, nor guess what a frame means that is not exactly one of these.
package wire
