package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// evidence is what is read back from streams, buckets and the mail server when the job is over.
type evidence struct {
	sight
	// log is the instance's log, record the agent's.
	log    []protocol.Append
	record protocol.Record
	// watched reports whether the row of the agent's cron schedule is still there.
	watched bool
	// dead counts the messages that the agents of the project gave up on.
	dead  int
	mails []Mail

	took, limit time.Duration
	// failures are what went wrong on the way; nil ones count as nothing.
	failures []error
}

// entries goes through the log, over the bounds of its messages.
func (e evidence) entries() iter.Seq[protocol.Entry] {
	return func(yield func(protocol.Entry) bool) {
		for _, a := range e.log {
			for _, entry := range a.Entries {
				if !yield(entry) {
					return
				}
			}
		}
	}
}

// gatherLimit bounds the reading of evidence.
const gatherLimit = 5 * time.Second

// gather reads the evidence, as far as there is any.
func (d *demo) gather(ctx context.Context) (evidence, error) {
	ctx, cancel := context.WithTimeout(ctx, gatherLimit)
	defer cancel()
	var e evidence
	if d.mail != nil {
		e.mails = d.mail.all()
	}
	if d.seen.instance == nil {
		return e, nil // it failed early, and that is the failure to report
	}
	lookErr := d.look(ctx)
	e.sight = d.seen
	if lookErr != nil {
		return e, lookErr
	}
	status, err := e.instance.Status(ctx)
	if err != nil {
		return e, err
	}
	e.status = status
	if e.log, err = d.readLog(ctx); err != nil {
		return e, err
	}
	if e.watched, err = d.scheduleExists(ctx); err != nil {
		return e, err
	}
	if e.record, err = d.readRecord(ctx); err != nil {
		return e, err
	}
	e.dead, err = d.countDead(ctx)
	return e, err
}

const logPage = 16

func (d *demo) readLog(ctx context.Context) ([]protocol.Append, error) {
	target, err := d.project.Config.Binding(bindingName)
	if err != nil {
		return nil, err
	}
	row, err := streams.LookUp(ctx, d.project.JS, target.Project)
	if err != nil {
		return nil, err
	}
	id := d.seen.instance.ID()
	instance := protocol.Instance{Project: target.Project, Shard: protocol.Shard(id, row.Shards), Workflow: target.Workflow, ID: id}
	var log []protocol.Append
	for next, more := uint64(1), true; more; {
		var page []journal.Message
		page, more, err = d.project.Journal().Page(ctx, instance.Stream(), instance.LogSubject(), next, logPage)
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			var a protocol.Append
			if err := json.Unmarshal(m.Data, &a); err != nil {
				return nil, fmt.Errorf("log of %s: entry %d: %w", instance, m.Sequence, err)
			}
			log = append(log, a)
			next = m.Sequence + 1
		}
	}
	return log, nil
}

// scheduleExists reports whether there is a row for the agent's cron schedule.
func (d *demo) scheduleExists(ctx context.Context) (bool, error) {
	key := protocol.ScheduleKey(agentClass, agentName, d.seen.desk.Watch)
	_, err := d.get(ctx, protocol.SchedulesBucket(d.project.Config.Name), key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (d *demo) readRecord(ctx context.Context) (r protocol.Record, err error) {
	value, err := d.get(ctx, protocol.AgentsBucket(d.project.Config.Name), protocol.AgentKey(agentClass, agentName))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("record of agent %q: %w", agentName, err)
	}
	return r, nil
}

func (d *demo) get(ctx context.Context, bucket, key string) ([]byte, error) {
	kv, err := d.project.JS.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", bucket, err)
	}
	entry, err := kv.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: key %s: %w", bucket, key, err)
	}
	return entry.Value(), nil
}

func (d *demo) countDead(ctx context.Context) (int, error) {
	bucket := protocol.DeadBucket(d.project.Config.Name)
	kv, err := d.project.JS.KeyValue(ctx, bucket)
	if err != nil {
		return 0, fmt.Errorf("bucket %s: %w", bucket, err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return 0, fmt.Errorf("bucket %s: %w", bucket, err)
	}
	return int(status.Values()), nil
}
