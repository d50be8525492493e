package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// baseStream has no limits at all: nothing of Skein may disappear by age or number.
func baseStream(name, subjects string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              name,
		Subjects:          []string{subjects},
		Storage:           jetstream.FileStorage,
		Compression:       jetstream.NoCompression, // compressed blocks make loads 5 to 8 times slower
		AllowDirect:       true,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: -1,
		MaxMsgSize:        -1,
		Discard:           jetstream.DiscardOld,
		Duplicates:        duplicateWindow,
	}
}

// workflowsConfig allows neither rollups, schedules, TTLs nor batches: with any of them, whoever may publish an input
// could wipe or forge a log. Messages can be deleted one by one: what consumers listen to is never purged in part.
//
// A project's only stream takes all its subjects, as it did before there were shards.
func workflowsConfig(project string, shard, shards int) jetstream.StreamConfig {
	subjects := protocol.WorkflowSubjects(project)
	if shards > 1 {
		subjects = protocol.ShardSubjects(project, shard)
	}
	c := baseStream(protocol.WorkflowsStream(project, shard), subjects)
	c.Retention = jetstream.LimitsPolicy
	source, destination := protocol.DoneRepublish(project)
	c.RePublish = &jetstream.RePublish{Source: source, Destination: destination}
	return c
}

func timersConfig(project string) jetstream.StreamConfig {
	return scheduleStream(protocol.TimersStream(project), protocol.TimerSubjects(project))
}

// scheduleStream holds message schedules and what they fire, until it is acked.
func scheduleStream(name, subjects string) jetstream.StreamConfig {
	c := baseStream(name, subjects)
	c.Retention = jetstream.WorkQueuePolicy
	c.AllowMsgSchedules = true
	c.AllowMsgTTL = true
	c.AllowRollup = true
	return c
}

// inboxConfig lets the server refuse what an agent has no room for: no sender has to count.
func inboxConfig(project string) jetstream.StreamConfig {
	c := baseStream(protocol.InboxStream(project), protocol.InboxSubjects(project))
	c.Retention = jetstream.WorkQueuePolicy
	c.MaxMsgsPerSubject = protocol.MaxWaiting
	c.Discard = jetstream.DiscardNew
	c.DiscardNewPerSubject = true
	return c
}

// postConfig lets the server refuse what would be too much for one instance or agent of another project: whoever has something
// to say waits.
func postConfig(project string) jetstream.StreamConfig {
	c := baseStream(protocol.PostStream(project), protocol.PostSubjects(project))
	c.Retention = jetstream.LimitsPolicy
	c.MaxMsgsPerSubject = protocol.MaxWaiting
	c.Discard = jetstream.DiscardNew
	c.DiscardNewPerSubject = true
	return c
}

// bucketConfig is what a NATS client makes for a key-value bucket with one value per key, so that every client takes
// it for one.
func bucketConfig(bucket string) jetstream.StreamConfig {
	c := baseStream(protocol.KVStream(bucket), protocol.KVSubject(bucket, ">"))
	c.Retention = jetstream.LimitsPolicy
	c.MaxMsgsPerSubject = 1
	c.DenyDelete = true
	c.AllowRollup = true
	c.Discard = jetstream.DiscardNew
	c.Duplicates = 2 * time.Minute
	return c
}

// schedulesConfig is a bucket whose markers of deletes are taken away one by one: a consumer listens to it.
func schedulesConfig(project string) jetstream.StreamConfig {
	c := bucketConfig(protocol.SchedulesBucket(project))
	c.DenyDelete = false
	return c
}

// objectsConfig is what a NATS client makes for an object store, so that every client takes it for one.
func objectsConfig(project string) jetstream.StreamConfig {
	c := baseStream(protocol.ObjectsStream(project), protocol.ObjectChunkSubjects(project))
	c.Subjects = append(c.Subjects, protocol.ObjectMetaSubjects(project))
	c.Retention = jetstream.LimitsPolicy
	c.AllowRollup = true
	c.Discard = jetstream.DiscardNew
	return c
}

// projectsConfig serves no direct gets: a client then asks the leader, so a project that has registered is seen at
// once, on clusters too. The registry is read rarely.
func projectsConfig() jetstream.StreamConfig {
	c := bucketConfig(protocol.BucketProjects)
	c.AllowDirect = false
	return c
}

// baseConsumer hands out until acked, for ever. Its replicas are its stream's, also when those are changed later.
func baseConsumer(name string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Name:          name,
		Durable:       name,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		MaxDeliver:    -1,
	}
}

func wakesConfig(project string, shard int) jetstream.ConsumerConfig {
	c := baseConsumer(protocol.ConsumerWakes(shard))
	c.FilterSubject = protocol.InputSubjects(project, shard)
	c.AckWait = wakeAckWait
	c.MaxAckPending = wakeAckPending
	return c
}

// controlsConfig stands beside the wakes: a backlog of inputs must not hold up who wants to stop an instance.
func controlsConfig(project string, shard int) jetstream.ConsumerConfig {
	c := baseConsumer(protocol.ConsumerControls(shard))
	c.FilterSubject = protocol.ControlSubjects(project, shard)
	c.AckWait = wakeAckWait
	c.MaxAckPending = wakeAckPending
	return c
}

func dueConfig(project string) jetstream.ConsumerConfig {
	c := baseConsumer(protocol.ConsumerDue)
	c.FilterSubject = protocol.DueSubjects(project)
	c.AckWait = wakeAckWait
	c.MaxAckPending = wakeAckPending
	return c
}

// doorbellConfig has no limit of unacked messages: the mail of one busy agent must not hold up that of the others.
func doorbellConfig() jetstream.ConsumerConfig {
	c := baseConsumer(protocol.ConsumerDoorbell)
	c.AckWait = doorbellAckWait
	c.MaxAckPending = -1
	return c
}

func schedulerConfig(bucket string) jetstream.ConsumerConfig {
	c := baseConsumer(protocol.ConsumerScheduler)
	c.FilterSubject = protocol.KVSubject(bucket, ">")
	c.AckWait = scheduleAckWait
	c.MaxAckPending = scheduleAckPending
	return c
}

func clockConfig() jetstream.ConsumerConfig {
	c := baseConsumer(protocol.ConsumerClock)
	c.FilterSubject = protocol.ClockDueSubjects
	c.AckWait = scheduleAckWait
	c.MaxAckPending = scheduleAckPending
	return c
}
