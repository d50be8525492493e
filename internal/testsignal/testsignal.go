// Package testsignal lets a test stop a real process at a named point, so that it can be killed exactly there.
//
// It must never change what a process does when it is not asked to stop.
package testsignal

import (
	"fmt"
	"os"
	"time"
)

// Env names the environment variable that holds the point to stop at.
const Env = "SKEIN_TEST_STOP_AT"

// Points of an agent's turn. Others are named where they stand.
const (
	// AgentBeforeCommit is reached when a turn is about to be stored.
	AgentBeforeCommit = "agent.commit.before"
	// AgentAfterCommit is reached when a turn is stored and nothing of it is projected.
	AgentAfterCommit = "agent.commit.after"
	// AgentProjected is reached when a turn's outbox is projected and its mail is not acked.
	AgentProjected = "agent.projected"
	// AgentParked is reached when a failed attempt of a callback is stored.
	AgentParked = "agent.parked"
)

// Points of the end of an agent, in their order: what is taken away when they are reached.
const (
	AgentOutboxEmpty   = "agent.end.outbox"
	AgentSocketsClosed = "agent.end.sockets"
	AgentRowsGone      = "agent.end.rows"
	AgentDeadGone      = "agent.end.dead"
	AgentStatesGone    = "agent.end.states"
	AgentMailGone      = "agent.end.mail"
	AgentRecordGone    = "agent.end.record"
)

// At marks the point name. If the process was started with Env set to it, the goroutine says so on stderr and stays
// here for ever; otherwise nothing happens.
func At(name string) {
	if os.Getenv(Env) != name {
		return
	}
	fmt.Fprintf(os.Stderr, "testsignal: %s\n", name)
	for { // not select{}: the runtime would end a process in which nothing else runs
		time.Sleep(time.Hour)
	}
}

// Points of a runner.
const (
	// RunnerAppended is reached when a park or the end of an instance is stored and nothing of it is projected.
	RunnerAppended = "runner.appended"
	// RunnerProjected is reached when that is projected and the wake is not acked.
	RunnerProjected = "runner.projected"
	// RunnerObeyed is reached when what a control changes is stored and nothing has come of it.
	RunnerObeyed = "runner.obeyed"
	// RunnerUninformed is reached when what an agent is to be told of its workflow is stored and the agent not told,
	// RunnerInformed when it is told and nothing else has come of it.
	RunnerUninformed = "runner.uninformed"
	RunnerInformed   = "runner.informed"
	// GivingUp is reached when what a group, a race or the code itself gives up is about to be recorded.
	GivingUp = "execution.giving-up"
	// CallBegun is reached when a call is in the log and its child is not created, CallCreated when that is and the log
	// does not say so.
	CallBegun   = "call.begun"
	CallCreated = "call.created"
	// CallEnded is reached when a call has ended without its child and the child is not told.
	CallEnded = "call.ended"
)

// PorterStored is reached when what another project wants is stored, and not answered.
const PorterStored = "porter.stored"

// PostAnswered is reached when another project has answered to what a runner had to say, and the runner has not noted that.
const PostAnswered = "post.answered"

// Points of log cleaning.
const (
	// JanitorRenewed is reached when a create was published again, JanitorAsked when a snapshot was asked for.
	JanitorRenewed = "janitor.renewed"
	JanitorAsked   = "janitor.asked"
	// JanitorCarried is reached when all that is needed is after the horizon, JanitorCollected when the values of what is
	// not needed are gone, JanitorPurged when the log is purged.
	JanitorCarried   = "janitor.carried"
	JanitorCollected = "janitor.collected"
	JanitorPurged    = "janitor.purged"
)
