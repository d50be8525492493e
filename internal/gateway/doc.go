// Package gateway holds the sockets of clients, at the host that has accepted them, and keeps them open while their agents
// sleep, move, or lose their hosts. Up, it brings the frames of each connection to the agent one after the other; down, it
// takes the numbered batches that agents send and gives them to the connections that they are for.
//
// It must never give a client a frame twice or in another order, leave one out and go on as if nothing were missing, or
// drop a frame of a client in silence: what cannot be told ends in an error of the call or in a close.
package gateway
