// Package workflow is the SDK for durable workflows: plain Go functions whose steps are remembered.
//
// A workflow function calls [Do], [Sleep], [WaitForEvent], [Call], [Start], [Group], [Race] and [FirstSuccess] with the
// context it was given. What they return is recorded; after a crash, a long sleep or a move to another runner the function
// runs again from the top, and what is recorded returns at once. So the code between steps must be deterministic: take the
// time from [Now], ids from [NewID], chance from [Random], and do everything that touches the world in the body of a step.
// A body runs at least once, its result is recorded exactly once.
//
// Whoever is outside reaches a workflow through a [Binding]: it creates instances, sends them events and controls, awaits
// their results, and follows them with [Instance.Subscribe].
//
// When nothing moves but durable waits, the function parks: its goroutines end (deferred functions run), and it holds
// neither a slot nor memory until it goes on. A deferred function of workflow code may release memory and nothing else.
// Parallel steps belong into a [Group], and into a [Race] those of which only the first to return counts: a select over
// channels would choose anew in every run. A bare goroutine that computes for longer than a second outside of steps while
// everything else waits is not seen, and what it calls next may come only when the instance wakes.
//
// The package must never let workflow code see something that a replay would show differently.
package workflow
