// Package streams creates the streams, buckets and durable consumers that Skein lives in, checks those that exist, and
// keeps the registry of projects.
//
// Every process calls it at its start, many of them at once: what it does is idempotent. It must never change or
// delete what it finds: settings that would lose or forge messages are refused with the setting's name, everything
// else (replicas, ack_wait, compression) belongs to whoever operates the server. Only an ack_wait that an operator asks for is
// set.
package streams

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// Options are the choices of an operator. The zero value works.
type Options struct {
	// Replicas of new streams: 1 (also for 0), 3 or 5. Streams that exist keep theirs.
	Replicas int
	// TakeOverAfter is the ack_wait of the consumers of wakes: how long a runner may say nothing of what it holds before others
	// get it. 0: 5 s for consumers that are created, and those that exist keep theirs.
	TakeOverAfter time.Duration
	// Log is told, once per stream, that JetStream is not ready yet. Nil: nobody is.
	Log *slog.Logger
	// Found is called with each stream as it is. Nil: nobody is.
	Found func(*jetstream.StreamInfo)
}

// Settings that the protocol's timing rests on.
const (
	// duplicateWindow is the smallest the server takes. Nothing of ours relies on the server's deduplication, and
	// a message that another sender's id makes a duplicate would not be stored.
	duplicateWindow = 100 * time.Millisecond
	// wakeAckWait is how long a dead runner's wakes wait for the next runner, unless an operator wants something else.
	wakeAckWait     = 5 * time.Second
	doorbellAckWait = 15 * time.Second
	scheduleAckWait = 10 * time.Second
	// wakeAckPending is far above the slots of all runners of a project together.
	wakeAckPending     = 100_000
	scheduleAckPending = 10_000
)

// EnsureWorkflows makes what the workflows of a project need: the streams of instances and timers with their
// consumers, for each shard one of inputs and one of controls, and the object store. It waits for JetStream until ctx
// ends.
func EnsureWorkflows(ctx context.Context, js jetstream.JetStream, project string, shards int, opts Options) error {
	if err := protocol.CheckProject(project); err != nil {
		return err
	}
	if err := checkShards(shards); err != nil {
		return err
	}
	e := ensurer{js: js, opts: opts}
	for shard := range shards {
		if err := e.stream(ctx, workflowsConfig(project, shard, shards)); err != nil {
			return err
		}
		for _, config := range []jetstream.ConsumerConfig{wakesConfig(project, shard), controlsConfig(project, shard)} {
			if err := e.wakes(ctx, protocol.WorkflowsStream(project, shard), config); err != nil {
				return err
			}
		}
	}
	for _, config := range []jetstream.StreamConfig{
		bucketConfig(protocol.SlotsBucket(project)), objectsConfig(project), timersConfig(project),
	} {
		if err := e.stream(ctx, config); err != nil {
			return err
		}
	}
	return e.wakes(ctx, protocol.TimersStream(project), dueConfig(project))
}

// EnsureAgents makes what the agents of a project need: records, inbox, schedules, leases, dead letters, the object
// store, and the clock of all projects. It waits for JetStream until ctx ends.
func EnsureAgents(ctx context.Context, js jetstream.JetStream, project string, opts Options) error {
	if err := protocol.CheckProject(project); err != nil {
		return err
	}
	e := ensurer{js: js, opts: opts}
	for _, config := range []jetstream.StreamConfig{
		bucketConfig(protocol.AgentsBucket(project)),
		bucketConfig(protocol.HostsBucket(project)),
		bucketConfig(protocol.DeadBucket(project)),
		bucketConfig(protocol.ConnectionsBucket(project)),
		inboxConfig(project), objectsConfig(project),
	} {
		if err := e.stream(ctx, config); err != nil {
			return err
		}
	}
	if err := e.consumer(ctx, protocol.InboxStream(project), doorbellConfig()); err != nil {
		return err
	}
	return EnsureSchedules(ctx, js, project, opts)
}

// EnsureSchedules makes what the schedules of a project need: their rows, and the clock of all projects. It waits for
// JetStream until ctx ends.
func EnsureSchedules(ctx context.Context, js jetstream.JetStream, project string, opts Options) error {
	if err := protocol.CheckProject(project); err != nil {
		return err
	}
	e := ensurer{js: js, opts: opts}
	if err := e.stream(ctx, schedulesConfig(project)); err != nil {
		return err
	}
	bucket := protocol.SchedulesBucket(project)
	if err := e.consumer(ctx, protocol.KVStream(bucket), schedulerConfig(bucket)); err != nil {
		return err
	}
	return EnsureClock(ctx, js, opts)
}

// EnsureClock makes the stream on which the schedules of all projects come due. It waits for JetStream until ctx ends.
func EnsureClock(ctx context.Context, js jetstream.JetStream, opts Options) error {
	e := ensurer{js: js, opts: opts}
	if err := e.stream(ctx, scheduleStream(protocol.StreamClock, protocol.ClockSubjects)); err != nil {
		return err
	}
	return e.consumer(ctx, protocol.StreamClock, clockConfig())
}

// EnsureProjects makes the registry of projects. It waits for JetStream until ctx ends.
func EnsureProjects(ctx context.Context, js jetstream.JetStream, opts Options) error {
	return ensurer{js: js, opts: opts}.stream(ctx, projectsConfig())
}

// EnsurePost makes the stream that holds what runners of a project have to say at the doors of others. It waits for JetStream
// until ctx ends.
func EnsurePost(ctx context.Context, js jetstream.JetStream, project string, opts Options) error {
	if err := protocol.CheckProject(project); err != nil {
		return err
	}
	return ensurer{js: js, opts: opts}.stream(ctx, postConfig(project))
}

// EnsureJanitors makes the bucket by which janitors share their work. It waits for JetStream until ctx ends.
func EnsureJanitors(ctx context.Context, js jetstream.JetStream, opts Options) error {
	return ensurer{js: js, opts: opts}.stream(ctx, bucketConfig(protocol.BucketJanitors))
}

func checkShards(shards int) error {
	if shards < 1 || shards > protocol.MaxShards {
		return fmt.Errorf("shards: \"%d\": allowed is 1 to %d", shards, protocol.MaxShards)
	}
	return nil
}
