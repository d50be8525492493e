package agent

import "time"

// timing is every duration and number that the rules of agents rest on. Tests shorten some.
type timing struct {
	// A lease is renewed every leaseEvery and good for leaseFor from when the renewal was sent. Whoever has renewed
	// its own leaseMisses times and saw no change of another's holds that for over: leaseMisses*leaseEvery is longer than
	// leaseFor.
	leaseEvery  time.Duration
	leaseFor    time.Duration
	leaseMisses uint64
	// absentGap is between the two looks for a host that has no listener.
	absentGap time.Duration

	// An owner says at once that it has a request, and again every acceptEvery. A caller that hears nothing for
	// acceptWithin asks elsewhere; once it was accepted, it gives up after acceptLost.
	acceptWithin time.Duration
	acceptEvery  time.Duration
	acceptLost   time.Duration
	// findWithin is how long a caller looks for an owner, nobodyFor for any host of the class.
	findWithin time.Duration
	nobodyFor  time.Duration
	// bellWithin is the same for a bell. It rings again anyway.
	bellWithin time.Duration
	// rememberFor is how long an owner knows the answer to a request that may come again.
	rememberFor time.Duration

	// attachWithin is how long an owner waits for a gateway to have what it was sent before it asks for its connections.
	attachWithin time.Duration

	// sureEvery is how often gateways are told what they were sent.
	sureEvery time.Duration

	// stallFor is how long a client may take nothing of a streamed answer, or send nothing of a body, and how long the host may say nothing
	// that has taken the body, if its process is there.
	stallFor time.Duration

	slowTurn time.Duration
	// stuckAfter is how long after its limit a turn may take to return. Then the agent goes on without it.
	stuckAfter time.Duration
	// carryOut bounds one try of one entry of an outbox; between tries of what is stuck are retryFirst to retryMost.
	carryOut   time.Duration
	retryFirst time.Duration
	retryMost  time.Duration
	// release bounds the write with which an agent is let go.
	release time.Duration

	// maxParked is how many letters of an agent may wait for another attempt. With so many, no new ones are tried.
	maxParked int
}

const maxParked = 1000

func defaultTiming() timing {
	return timing{
		leaseEvery: 1500 * time.Millisecond, leaseFor: 5 * time.Second, leaseMisses: 4, absentGap: 150 * time.Millisecond,
		acceptWithin: 500 * time.Millisecond, acceptEvery: 2 * time.Second, acceptLost: 6 * time.Second,
		findWithin: 30 * time.Second, nobodyFor: nobodyFor, bellWithin: 10 * time.Second, rememberFor: 30 * time.Second, stallFor: 30 * time.Second, attachWithin: 2 * time.Second, sureEvery: time.Second,
		slowTurn: 10 * time.Second, stuckAfter: 5 * time.Second, carryOut: 5 * time.Second, retryFirst: time.Second, retryMost: 30 * time.Second,
		release: 3 * time.Second, maxParked: maxParked,
	}
}
