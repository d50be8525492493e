// Package throttle bounds what clients may ask of an HTTP server by who they are: connections, requests per second and sockets
// of one address, connections of all. It also finds out the address of a client behind proxies.
//
// It must never believe what a client says about itself, refuse what is below a limit, or keep more for each client than its
// bounds allow: however many addresses ask, its memory ends.
package throttle
