package process

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// field is one setting of any type.
type field struct {
	name, usage, allowed string
	kind                 Kind
	extra                bool

	get     func(*Settings) string
	set     func(*Settings, string) error
	copySet func(to, from *Settings)
}

// typed is how a field is written down.
type typed[T comparable] struct {
	name, usage, allowed string
	extra                bool
	at                   func(*Settings) *T
	parse                func(string) (T, bool)
}

func (t typed[T]) field() field {
	var zero T
	kind := KindString
	switch any(zero).(type) {
	case int:
		kind = KindNumber
	case bool:
		kind = KindBoolean
	}
	return field{
		name: t.name, usage: t.usage, allowed: t.allowed, kind: kind, extra: t.extra,
		get: func(s *Settings) string { return fmt.Sprint(*t.at(s)) },
		set: func(s *Settings, text string) error {
			v, ok := t.parse(text)
			if !ok {
				return &SettingError{Setting: t.name, Value: RedactURL(text), Allowed: t.allowed}
			}
			*t.at(s) = v
			return nil
		},
		copySet: func(to, from *Settings) {
			if v := *t.at(from); v != zero {
				*t.at(to) = v
			}
		},
	}
}

const (
	maxSlots      = 10_000
	minCleanAfter = Duration(24 * time.Hour)
	maxCleanAfter = Duration(365 * 24 * time.Hour)
	minDoctor     = Duration(10 * time.Second)
	maxDoctor     = Duration(24 * time.Hour)
	minLateAfter  = Duration(10 * time.Second)
	maxLateAfter  = Duration(24 * time.Hour)
)

// fields are all settings, in the order in which people are told of them.
func fields() []field {
	return slices.Concat(commonFields(), httpFields(), clientFields(), ownFields())
}

// commonFields are those of every server, and of runners.
func commonFields() []field {
	return []field{
		typed[string]{name: "nats_url", usage: "NATS servers, separated by commas", allowed: "nats://, tls://, ws:// or wss:// with a host",
			at: func(s *Settings) *string { return &s.NATSURL }, parse: parseURLs}.field(),
		typed[string]{name: "nats_creds", usage: "file with NATS credentials", allowed: "a path; empty for none",
			at: func(s *Settings) *string { return &s.NATSCreds }, parse: anyText}.field(),
		typed[string]{name: "nats_nkey", usage: "file with the NKey seed of a NATS user", allowed: "a path; empty for none",
			at: func(s *Settings) *string { return &s.NATSNKey }, parse: anyText}.field(),
		typed[string]{name: SettingNATSUsers, usage: "folder with a file of a NATS user for each account", extra: true,
			allowed: "a path; empty for the account of nats_nkey or nats_creds",
			at:      func(s *Settings) *string { return &s.NATSUsers }, parse: anyText}.field(),
		typed[string]{name: "nats_ca", usage: "file with the certificates that vouch for the NATS servers", allowed: "a path; empty for those of the machine",
			at: func(s *Settings) *string { return &s.NATSCA }, parse: anyText}.field(),
		typed[string]{name: "nats_cert", usage: "file with the certificate that NATS servers are shown", allowed: "a path; empty for none",
			at: func(s *Settings) *string { return &s.NATSCert }, parse: anyText}.field(),
		typed[string]{name: "nats_key", usage: "file with the key of nats_cert", allowed: "a path; empty for none",
			at: func(s *Settings) *string { return &s.NATSKey }, parse: anyText}.field(),
		typed[string]{name: "nats_monitor", usage: "monitoring of the NATS servers, separated by commas", allowed: "http:// or https:// with a host; empty for none",
			at: func(s *Settings) *string { return &s.NATSMonitor }, parse: parseMonitor}.field(),
		typed[bool]{name: "production", usage: "refuse servers and streams that can lose what was acknowledged", allowed: "true or false",
			at: func(s *Settings) *bool { return &s.Production }, parse: parseBool}.field(),
		typed[string]{name: "health_addr", usage: "address of /healthz, /readyz and /metrics", allowed: "host:port; empty for none",
			at: func(s *Settings) *string { return &s.HealthAddr }, parse: parseOptionalAddr}.field(),
		typed[string]{name: "log_level", usage: "least level that is logged", allowed: "debug, info, warn or error",
			at: func(s *Settings) *string { return &s.LogLevel }, parse: oneOf("debug", "info", "warn", "error")}.field(),
		typed[string]{name: "log_format", usage: "form of log lines", allowed: "text or json",
			at: func(s *Settings) *string { return &s.LogFormat }, parse: oneOf("text", "json")}.field(),
		typed[Duration]{name: "shutdown_grace", usage: "time to hand work back", allowed: "1ms to 1h, as in 10s",
			at: func(s *Settings) *Duration { return &s.ShutdownGrace }, parse: parseGrace}.field(),
		typed[int]{name: "replicas", usage: "replicas of new streams", allowed: "1, 3 or 5",
			at: func(s *Settings) *int { return &s.Replicas }, parse: parseReplicas}.field(),
		typed[int]{name: SettingShards, usage: "streams that the project's instances are spread over, fixed when it is new", extra: true,
			allowed: fmt.Sprintf("1 to %d; 0 for as many as the project has, 1 if it is new", protocol.MaxShards),
			at:      func(s *Settings) *int { return &s.Shards }, parse: parseShards}.field(),
		typed[int]{name: SettingSlots, usage: "instances executed at a time", allowed: fmt.Sprintf("1 to %d", maxSlots), extra: true,
			at: func(s *Settings) *int { return &s.Slots }, parse: parseUpTo(maxSlots)}.field(),
		typed[Duration]{name: SettingTakeOver, usage: "silence after which others take over the instances of a runner", extra: true,
			allowed: "1s to 1m; 0s for what the project has",
			at:      func(s *Settings) *Duration { return &s.TakeOverAfter }, parse: parseTakeOver}.field(),
	}
}

// ownFields are those that only some servers listen to.
func ownFields() []field {
	return []field{
		typed[string]{name: SettingVersion, usage: "version of the project's code", allowed: fmt.Sprintf("a text of at most %d bytes", maxVersion), extra: true,
			at: func(s *Settings) *string { return &s.Version }, parse: parseVersion}.field(),
		typed[Size]{name: SettingMaxValueSize, usage: "most that a value may have as JSON", allowed: fmt.Sprintf("%s to %s, as in 64MiB", minValueSize, maxValueSize), extra: true,
			at: func(s *Settings) *Size { return &s.MaxValueSize }, parse: parseValueSize}.field(),
		typed[Duration]{name: SettingCleanAfter, usage: "age of what is cleaned away of instances", allowed: "24h to 8760h", extra: true,
			at: func(s *Settings) *Duration { return &s.CleanAfter }, parse: parseDuration(minCleanAfter, maxCleanAfter)}.field(),
		typed[Duration]{name: SettingDoctorEvery, usage: "how often it is looked whether instances have what they need to go on", allowed: "10s to 24h", extra: true,
			at: func(s *Settings) *Duration { return &s.DoctorEvery }, parse: parseDuration(minDoctor, maxDoctor)}.field(),
		typed[Duration]{name: SettingLateAfter, usage: "how late schedules may be before the scheduler warns", allowed: "10s to 24h", extra: true,
			at: func(s *Settings) *Duration { return &s.ScheduleLateAfter }, parse: parseDuration(minLateAfter, maxLateAfter)}.field(),
	}
}
