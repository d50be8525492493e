// Package agent is the SDK for agents: named, long-lived actors with state, HTTP and schedules, each of which runs one
// turn at a time.
//
// An agent is a Go type that embeds Base. Define makes a class of it, Host serves classes:
//
//	func main() { project.Main(agent.Host(agent.Define("Counter", func() *Counter { return &Counter{} }))) }
//
// What a handler asks for (state, schedules, workflow starts) collects in a draft. If the handler returns nil, one
// compare-and-set write of the agent's record stores all of it, and only then the answer leaves and what was asked for
// is carried out. If it returns an error or panics, nothing of it has happened. Calls into Skein need the context that
// the handler got; elsewhere they return ErrNoTurn.
//
// RunWorkflow starts a workflow and tracks it: what becomes of it comes back as turns of the agent (OnWorkflowProgress,
// OnWorkflowEvent, OnWorkflowComplete, OnWorkflowError).
//
// The package must never write an agent's record without comparing it, start a turn or release an answer while the
// host has no valid lease, or carry out anything that is not stored.
package agent
