// Package workflowtest tests workflows as they run in production, on the real engine and a real NATS server inside the
// test's process, with the time in the hands of the test: a sleep of 30 days is over at once.
//
//	env := workflowtest.New(t, workflow.Define("Onboarding", onboarding.Run))
//	env.Step("mail the booking").Fail(errors.New("no route"), 2).Return("sent")
//	run := workflowtest.Start[Report](env, "Onboarding", trip)
//	env.After(48*time.Hour, func() { run.Send("confirmed", confirmation) })
//	report, err := run.Result()
//
// The clock stands still until nothing moves any more; then it jumps to the next moment for which an instance, or
// After, waits. Bodies of steps take no time. What only time could bring about, an attempt that times out, a wait that
// nobody answers, is asked for with TimeOut. [Replay] holds code against the history of an instance of production.
//
// It must never be used outside of tests: it trades the guarantees of stored time for speed.
package workflowtest
