package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// SettingError says that a stream or consumer exists with a setting that Skein cannot work with.
type SettingError struct {
	// Object names what has the setting, as in `stream "CLOCK"`.
	Object  string
	Setting string
	Found   string
	Wanted  string
}

func (e *SettingError) Error() string {
	return fmt.Sprintf("%s exists with %s = %s, wanted is %s; change it, or move the data and delete it",
		e.Object, e.Setting, e.Found, e.Wanted)
}

type ensurer struct {
	js   jetstream.JetStream
	opts Options
}

// stream creates what is missing and checks what is there. Another process may create it in between: then the next
// try finds it.
func (e ensurer) stream(ctx context.Context, want jetstream.StreamConfig) error {
	want.Replicas = max(1, e.opts.Replicas)
	what := fmt.Sprintf("stream %q", want.Name)
	return retry(ctx, e.opts.Log, "create "+what, func(ctx context.Context) error {
		s, err := e.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			s, err = e.js.CreateStream(ctx, want)
		}
		if err != nil {
			return err
		}
		if s.CachedInfo().Config.Metadata[protocol.MetadataRestore] != "" {
			return fmt.Errorf("%s %w", what, errRestoring)
		}
		if e.opts.Found != nil {
			e.opts.Found(s.CachedInfo())
		}
		return compare(what, streamSettings(s.CachedInfo().Config), streamSettings(want))
	})
}

func (e ensurer) consumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	what := fmt.Sprintf("consumer %q of stream %q", want.Durable, stream)
	return retry(ctx, e.opts.Log, "create "+what, func(ctx context.Context) error {
		c, err := e.js.Consumer(ctx, stream, want.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			c, err = e.js.CreateConsumer(ctx, stream, want)
		}
		if err != nil {
			return err
		}
		return compare(what, consumerSettings(c.CachedInfo().Config), consumerSettings(want))
	})
}

// wakes makes a consumer of wakes. One that exists gets the ack_wait that the operator wants.
func (e ensurer) wakes(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	if e.opts.TakeOverAfter == 0 {
		return e.consumer(ctx, stream, want)
	}
	want.AckWait = e.opts.TakeOverAfter
	if err := e.consumer(ctx, stream, want); err != nil {
		return err
	}
	return retry(ctx, e.opts.Log, fmt.Sprintf("set ack_wait of consumer %q of stream %q", want.Durable, stream), func(ctx context.Context) error {
		c, err := e.js.Consumer(ctx, stream, want.Durable)
		if err != nil {
			return err
		}
		found := c.CachedInfo().Config
		if found.AckWait == want.AckWait {
			return nil
		}
		found.AckWait = want.AckWait // what else an operator has changed stays
		_, err = e.js.UpdateConsumer(ctx, stream, found)
		return err
	})
}

// Consumer finds a durable consumer that was made. It waits for JetStream until ctx ends.
func Consumer(ctx context.Context, js jetstream.JetStream, stream, name string) (found jetstream.Consumer, err error) {
	err = retry(ctx, nil, fmt.Sprintf("find consumer %q of stream %q", name, stream), func(ctx context.Context) error {
		found, err = js.Consumer(ctx, stream, name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			return permanent(err)
		}
		return err
	})
	return found, err
}

// setting is one that must be as Skein wants it. Those left out may differ.
type setting struct{ name, value string }

func streamSettings(c jetstream.StreamConfig) []setting {
	slices.Sort(c.Subjects)
	return []setting{
		{"subjects", fmt.Sprintf("%q", c.Subjects)},
		{"retention", c.Retention.String()},
		{"storage", c.Storage.String()},
		{"persist_mode", c.PersistMode.String()}, // async acknowledges before it writes
		{"discard", c.Discard.String()},
		{"discard_new_per_subject", fmt.Sprint(c.DiscardNewPerSubject)},
		{"max_msgs", limit(c.MaxMsgs)},
		{"max_bytes", limit(c.MaxBytes)},
		{"max_msgs_per_subject", limit(c.MaxMsgsPerSubject)},
		{"max_msg_size", limit(int64(c.MaxMsgSize))},
		{"max_age", age(c.MaxAge)},
		{"deny_delete", fmt.Sprint(c.DenyDelete)},
		{"deny_purge", fmt.Sprint(c.DenyPurge)},
		{"sealed", fmt.Sprint(c.Sealed)},
		{"no_ack", fmt.Sprint(c.NoAck)},
		{"allow_direct", fmt.Sprint(c.AllowDirect)},
		{"allow_rollup_hdrs", fmt.Sprint(c.AllowRollup)},
		{"allow_msg_ttl", fmt.Sprint(c.AllowMsgTTL)},
		{"allow_msg_schedules", fmt.Sprint(c.AllowMsgSchedules)},
		{"allow_msg_counter", fmt.Sprint(c.AllowMsgCounter)},
		{"allow_atomic", fmt.Sprint(c.AllowAtomicPublish)},
		{"allow_batched", fmt.Sprint(c.AllowBatchPublish)},
		{"mirror", present(c.Mirror != nil)},
		{"sources", present(len(c.Sources) > 0)},
		{"subject_transform", present(c.SubjectTransform != nil)},
		{"republish", republish(c.RePublish)},
	}
}

func consumerSettings(c jetstream.ConsumerConfig) []setting {
	return []setting{
		{"filter_subject", fmt.Sprintf("%q", c.FilterSubject)},
		{"filter_subjects", fmt.Sprintf("%q", c.FilterSubjects)},
		{"deliver_policy", c.DeliverPolicy.String()},
		{"deliver_subject", fmt.Sprintf("%q", c.DeliverSubject)},
		{"ack_policy", c.AckPolicy.String()},
		{"max_deliver", limit(int64(c.MaxDeliver))},
		{"mem_storage", fmt.Sprint(c.MemoryStorage)},
		{"headers_only", fmt.Sprint(c.HeadersOnly)},
		{"inactive_threshold", age(c.InactiveThreshold)},
	}
}

func limit(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func age(d time.Duration) string {
	if d <= 0 {
		return "unlimited"
	}
	return d.String()
}

func republish(r *jetstream.RePublish) string {
	if r == nil {
		return "not set"
	}
	return r.Source + " to " + r.Destination
}

func present(b bool) string {
	if b {
		return "set"
	}
	return "not set"
}

// compare refuses a found setting that is not as wanted; trying again does not change it.
func compare(object string, found, wanted []setting) error {
	var errs []error
	for i, w := range wanted {
		if found[i] != w {
			errs = append(errs, &SettingError{Object: object, Setting: w.name, Found: found[i].value, Wanted: w.value})
		}
	}
	return permanent(errors.Join(errs...))
}

// errRestoring says that a backup is being restored. It passes.
var errRestoring = errors.New("is being restored from a backup, and not whole: `skein restore` has to be finished")

// Restored waits until the leader of a stream that was restored tells of it.
func Restored(ctx context.Context, js jetstream.JetStream, name string) (info *jetstream.StreamInfo, err error) {
	err = retry(ctx, nil, fmt.Sprintf("find stream %q", name), func(ctx context.Context) error {
		s, err := js.Stream(ctx, name)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	return info, err
}

// Release lets processes work with a stream that was restored.
func Release(ctx context.Context, js jetstream.JetStream, name string) error {
	return retry(ctx, nil, fmt.Sprintf("release stream %q", name), func(ctx context.Context) error {
		s, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		config := s.CachedInfo().Config
		if config.Metadata[protocol.MetadataRestore] == "" {
			return nil
		}
		delete(config.Metadata, protocol.MetadataRestore)
		_, err = js.UpdateStream(ctx, config)
		return err
	})
}

// ErrTooFewServers is wrapped if there are fewer servers than replicas.
var ErrTooFewServers = errors.New("too few servers")

// SetReplicas has a stream kept on so many servers. It returns when that is decided, not when it is done.
func SetReplicas(ctx context.Context, js jetstream.JetStream, name string, replicas int) error {
	return retry(ctx, nil, fmt.Sprintf("change the replicas of stream %q", name), func(ctx context.Context) error {
		s, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		config := s.CachedInfo().Config
		if config.Replicas == replicas {
			return nil
		}
		config.Replicas = replicas
		_, err = js.UpdateStream(ctx, config)
		if api, ok := errors.AsType[*jetstream.APIError](err); ok && (api.ErrorCode == codeNoPeers || api.ErrorCode == codeNotClustered) {
			return permanent(fmt.Errorf("%w: %w", ErrTooFewServers, err))
		}
		return err
	})
}
