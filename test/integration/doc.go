// Package integration tests workflows and agents on real processes: the test program starts itself again as workflow
// runners, as agent hosts, and as NATS servers where those are what dies, and kills, stops, freezes and cuts them off at
// named places.
//
// It holds nothing but tests. A test here must never pass without the fault it is about: each names the process, the
// signal and the place, and fails if one of them was missed.
//
// What a test concludes it reads from the messages of the streams, not from what a runner says about itself.
package integration
