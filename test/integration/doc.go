// Package integration tests workflows on real processes: the test program starts itself again as workflow runners, and
// as a NATS server where that is what dies, and kills, stops and freezes them at named places.
//
// It holds nothing but tests. A test here must never pass without the fault it is about: each names the process, the
// signal and the place, and fails if one of them was missed.
//
// What a test concludes it reads from the messages of the streams, not from what a runner says about itself.
package integration
