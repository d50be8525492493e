package process

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/skein-run/skein/pkg/protocol"
)

// Settings are what an operator chooses. Each has one name in three spellings: the field nats_url of the config file,
// the variable SKEIN_NATS_URL, the flag --nats-url. The flag wins over the variable, the variable over the file, the
// file over the default. A zero field means: not set. Schedulers read no config file: see OfSchedulers.
type Settings struct {
	// NATSURL lists the NATS servers, separated by commas. Default nats://127.0.0.1:4222.
	NATSURL string
	// NATSCreds is a file with NATS credentials. Default none.
	NATSCreds string
	// NATSNKey is a file with the seed of a NATS user, as `skein auth` makes it. Default none.
	NATSNKey string
	// NATSUsers is a folder with a file of a NATS user for each account that a scheduler serves: `.nk` as for NATSNKey, `.creds`
	// as for NATSCreds. Default none: the scheduler serves the account of NATSNKey or NATSCreds.
	NATSUsers string
	// NATSCA is a file with the certificates of the authorities that vouch for the NATS servers. Default empty: those that
	// the machine trusts.
	NATSCA string
	// NATSCert and NATSKey are files with the certificate that a NATS server is shown and with its key. Default none.
	NATSCert string
	NATSKey  string
	// NATSMonitor lists addresses of the NATS servers' monitoring, separated by commas: servers are asked there when they write
	// to disk, if they do not tell over NATS. Default none.
	NATSMonitor string
	// Production refuses to start on streams and servers that can lose what was acknowledged. Default false.
	Production bool
	// HealthAddr is where /healthz, /readyz and /metrics are served. Default empty: nowhere.
	HealthAddr string
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string
	// LogFormat is text or json. Default text.
	LogFormat string
	// ShutdownGrace is how long work may take to be handed back. Default 10s.
	ShutdownGrace Duration
	// Replicas of streams that are created: 1, 3 or 5. Default 1.
	Replicas int
	// Shards is how many streams the instances of the project are spread over: 1 to protocol.MaxShards. It is fixed by the first
	// runner of the project. Default 0: as many as the project has, 1 if it is new.
	Shards int
	// Slots is how many instances a runner executes at a time. Default 128.
	Slots int
	// TakeOverAfter is how long a runner may say nothing of the instances it executes before others take them over. Default 0s: what
	// the consumers of the project have, 5s when they are created.
	TakeOverAfter Duration
	// HTTPAddr is where an agent host takes requests. Default 127.0.0.1:8700.
	HTTPAddr string
	// HTTPOrigins are the origins of web pages that may read an agent host's answers, separated by commas, or "*" for all.
	// Default empty: none.
	HTTPOrigins string
	// HTTPMaxBody is the most that the body of a request to an agent may have. Default 8MiB.
	HTTPMaxBody Size
	// HTTPTimeout is how long an agent host waits for an answer, or for its beginning if it is streamed. Default 1m.
	HTTPTimeout Duration
	// HTTPDrain is how long an agent host that was told to stop goes on taking requests, while /readyz says that it stops: as long
	// as a load balancer needs to see that. It is part of ShutdownGrace, and at most half of it. Default 0s.
	HTTPDrain Duration
	// HTTPMaxRequests is how many requests may wait for one agent. Default 1000.
	HTTPMaxRequests int
	// HTTPMaxSockets is how many sockets of clients an agent host holds. Default 20000.
	HTTPMaxSockets int
	// HTTPFrameRate is how many frames per second one socket may send, and as many at once. Default 5000.
	HTTPFrameRate int
	// Version is that of the project's code: every run of an instance records it. Default: the revision that the program
	// was built from, if it is known.
	Version string
	// MaxValueSize is the most that params, an event's payload, a result or an output may have as JSON. Default 64MiB.
	MaxValueSize Size
	// CleanAfter is how old what is stored of instances must be to be cleaned away by schedulers. Default 24h, at least that.
	CleanAfter Duration
	// ScheduleLateAfter is how long a firing of a schedule may wait before a scheduler warns. Default 1m.
	ScheduleLateAfter Duration
}

// Duration is written as "10s" or "1m30s".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// Settings that only some servers listen to.
const (
	SettingNATSUsers    = "nats_users"
	SettingShards       = "shards"
	SettingSlots        = "slots"
	SettingTakeOver     = "take_over_after"
	SettingHTTPAddr     = "http_addr"
	SettingHTTPOrigins  = "http_origins"
	SettingHTTPMaxBody  = "http_max_body"
	SettingHTTPTimeout  = "http_timeout"
	SettingHTTPDrain    = "http_drain"
	SettingHTTPRequests = "http_max_requests"
	SettingHTTPSockets  = "http_max_sockets"
	SettingFrameRate    = "http_frame_rate"
	SettingVersion      = "version"
	SettingMaxValueSize = "max_value_size"
	SettingCleanAfter   = "clean_after"
	SettingLateAfter    = "schedule_late_after"
)

// Defaults are the settings of a server that is told nothing.
func Defaults() Settings {
	return Settings{
		NATSURL:         "nats://127.0.0.1:4222",
		LogLevel:        "info",
		LogFormat:       "text",
		ShutdownGrace:   Duration(10 * time.Second),
		Replicas:        1,
		Slots:           128,
		HTTPAddr:        "127.0.0.1:8700",
		HTTPMaxBody:     8 << 20,
		HTTPTimeout:     Duration(time.Minute),
		HTTPMaxRequests: 1000,
		HTTPMaxSockets:  20_000,
		HTTPFrameRate:   5000,
		Version:         buildVersion(),
		MaxValueSize:    64 << 20,
		CleanAfter:      minCleanAfter,
		// A scheduler that dies holds its firings for 10 s, and a NATS server that dies everything for some 10 s: that mends
		// itself, and is nobody's business.
		ScheduleLateAfter: Duration(time.Minute),
	}
}

// SettingError says that a setting has a value that cannot be.
type SettingError struct {
	// Setting is the name as it stands in the config file.
	Setting string
	// Source is "--slots" or "SKEIN_SLOTS"; empty if the value came from a file or a program.
	Source  string
	Value   string
	Allowed string
}

func (e *SettingError) Error() string {
	name := e.Setting
	if e.Source != "" {
		name = e.Source
	}
	return fmt.Sprintf("%s: %q: allowed is %s", name, e.Value, e.Allowed)
}

// WithDefaults fills in what is not set.
func (s Settings) WithDefaults() Settings { return Defaults().Overlay(s) }

// Overlay returns s with everything that is set in over.
func (s Settings) Overlay(over Settings) Settings {
	for _, f := range fields() {
		f.copySet(&s, &over)
	}
	return s
}

// Validate names every field whose value cannot be.
func (s Settings) Validate() error {
	var errs []error
	for _, f := range fields() {
		errs = append(errs, f.set(&s, f.get(&s)))
	}
	return errors.Join(errs...)
}

// Set sets one by its name in the config file. The error is a *SettingError.
func (s *Settings) Set(name, value string) error {
	for _, f := range fields() {
		if f.name == name {
			return f.set(s, value)
		}
	}
	return &SettingError{Setting: name, Value: value, Allowed: "one of " + strings.Join(SettingNames(), ", ")}
}

// SettingNames lists all, as they stand in the config file, or would.
func SettingNames() []string {
	var names []string
	for _, f := range fields() {
		names = append(names, f.name)
	}
	return names
}

// Kind is what the config file has for a setting.
type Kind string

// What a setting can be in the config file.
const (
	KindString  Kind = "string"
	KindNumber  Kind = "number"
	KindBoolean Kind = "boolean"
)

// SettingKind is what the config file has for a setting of this name.
func SettingKind(name string) Kind {
	for _, f := range fields() {
		if f.name == name {
			return f.kind
		}
	}
	return KindString
}

// OfSchedulers reports whether only schedulers listen to a setting. They serve all projects, so no config file has it.
func OfSchedulers(setting string) bool {
	return setting == SettingCleanAfter || setting == SettingLateAfter || setting == SettingNATSUsers
}

func flagName(setting string) string { return strings.ReplaceAll(setting, "_", "-") }

// EnvName is the environment variable of a setting.
func EnvName(setting string) string { return "SKEIN_" + strings.ToUpper(setting) }

// flagText is a flag that is judged with the other sources of its setting, not while flags are parsed.
type flagText struct {
	text string
	kind Kind
}

func (f *flagText) String() string        { return f.text }
func (f *flagText) Set(text string) error { f.text = text; return nil }
func (f *flagText) Type() string {
	switch f.kind {
	case KindNumber:
		return "int"
	case KindBoolean:
		return "bool"
	}
	return "string"
}

// defineFlags makes one flag per common setting and per extra one that is listed.
func defineFlags(set *pflag.FlagSet, extra []string) *pflag.FlagSet {
	defaults := Defaults()
	for _, f := range fields() {
		if f.extra && !slices.Contains(extra, f.name) {
			continue
		}
		usage := fmt.Sprintf("%s (%s, env %s)", f.usage, f.allowed, EnvName(f.name))
		flag := set.VarPF(&flagText{text: f.get(&defaults), kind: f.kind}, flagName(f.name), "", usage)
		if f.kind == KindBoolean {
			flag.NoOptDefVal = "true"
		}
	}
	return set
}

// resolve joins all sources. Every wrong value is named, not only the first.
func resolve(file func() (Settings, error), flags *pflag.FlagSet) (Settings, error) {
	s := Defaults()
	if file != nil {
		fromFile, err := file()
		if err != nil {
			return s, err
		}
		s = s.Overlay(fromFile)
	}
	var errs []error
	for _, f := range fields() {
		flag := flags.Lookup(flagName(f.name))
		if flag == nil {
			continue // not a setting of this server
		}
		value, source := os.Getenv(EnvName(f.name)), EnvName(f.name)
		if flag.Changed {
			value, source = flag.Value.String(), "--"+flag.Name
		}
		if value == "" && !flag.Changed {
			continue
		}
		err := f.set(&s, value)
		if wrong, ok := errors.AsType[*SettingError](err); ok {
			wrong.Source = source
		}
		errs = append(errs, err)
	}
	return s, errors.Join(errs...)
}

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
	minLateAfter  = Duration(10 * time.Second)
	maxLateAfter  = Duration(24 * time.Hour)
)

func fields() []field {
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
		typed[string]{name: SettingHTTPAddr, usage: "address for requests to agents", allowed: "host:port", extra: true,
			at: func(s *Settings) *string { return &s.HTTPAddr }, parse: parseAddr}.field(),
		typed[string]{name: SettingHTTPOrigins, usage: "origins of web pages that may read answers of agents", extra: true,
			allowed: "https://host or http://host:port, separated by commas; * for all, empty for none",
			at:      func(s *Settings) *string { return &s.HTTPOrigins }, parse: parseOrigins}.field(),
		typed[Size]{name: SettingHTTPMaxBody, usage: "most that the body of a request may have", extra: true,
			allowed: fmt.Sprintf("%s to %s, as in 8MiB", minHTTPBody, maxHTTPBody),
			at:      func(s *Settings) *Size { return &s.HTTPMaxBody }, parse: parseHTTPBody}.field(),
		typed[Duration]{name: SettingHTTPTimeout, usage: "how long to wait for the answer of an agent", allowed: "1s to 24h", extra: true,
			at: func(s *Settings) *Duration { return &s.HTTPTimeout }, parse: parseHTTPTimeout}.field(),
		typed[Duration]{name: SettingHTTPDrain, usage: "how long to go on taking requests after the order to stop", extra: true,
			allowed: "0s to 30m, and at most half of shutdown_grace",
			at:      func(s *Settings) *Duration { return &s.HTTPDrain }, parse: parseHTTPDrain}.field(),
		typed[int]{name: SettingHTTPRequests, usage: "requests that may wait for one agent", extra: true,
			allowed: fmt.Sprintf("1 to %d", maxHTTPRequests),
			at:      func(s *Settings) *int { return &s.HTTPMaxRequests }, parse: parseUpTo(maxHTTPRequests)}.field(),
		typed[int]{name: SettingHTTPSockets, usage: "sockets of clients that a host holds", extra: true,
			allowed: fmt.Sprintf("1 to %d", maxHTTPSockets),
			at:      func(s *Settings) *int { return &s.HTTPMaxSockets }, parse: parseUpTo(maxHTTPSockets)}.field(),
		typed[int]{name: SettingFrameRate, usage: "frames per second that a socket may send, and as many at once", extra: true,
			allowed: fmt.Sprintf("1 to %d", maxFrameRate),
			at:      func(s *Settings) *int { return &s.HTTPFrameRate }, parse: parseUpTo(maxFrameRate)}.field(),
		typed[string]{name: SettingVersion, usage: "version of the project's code", allowed: fmt.Sprintf("a text of at most %d bytes", maxVersion), extra: true,
			at: func(s *Settings) *string { return &s.Version }, parse: parseVersion}.field(),
		typed[Size]{name: SettingMaxValueSize, usage: "most that a value may have as JSON", allowed: fmt.Sprintf("%s to %s, as in 64MiB", minValueSize, maxValueSize), extra: true,
			at: func(s *Settings) *Size { return &s.MaxValueSize }, parse: parseValueSize}.field(),
		typed[Duration]{name: SettingCleanAfter, usage: "age of what is cleaned away of instances", allowed: "24h to 8760h", extra: true,
			at: func(s *Settings) *Duration { return &s.CleanAfter }, parse: parseDuration(minCleanAfter, maxCleanAfter)}.field(),
		typed[Duration]{name: SettingLateAfter, usage: "how late schedules may be before the scheduler warns", allowed: "10s to 24h", extra: true,
			at: func(s *Settings) *Duration { return &s.ScheduleLateAfter }, parse: parseDuration(minLateAfter, maxLateAfter)}.field(),
	}
}

func anyText(s string) (string, bool) { return s, true }

func oneOf(words ...string) func(string) (string, bool) {
	return func(s string) (string, bool) { return s, slices.Contains(words, s) }
}

func parseURLs(s string) (string, bool) { return s, areURLs(s, "nats", "tls", "ws", "wss") }

func parseMonitor(s string) (string, bool) { return s, s == "" || areURLs(s, "http", "https") }

func areURLs(list string, schemes ...string) bool {
	for part := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
			return false
		}
	}
	return true
}

func parseBool(s string) (value, ok bool) { return s == "true", s == "true" || s == "false" }

func parseAddr(s string) (string, bool) {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return s, err == nil && strconv.FormatUint(n, 10) == port
}

func parseOptionalAddr(s string) (string, bool) {
	if s == "" {
		return "", true
	}
	return parseAddr(s)
}

func parseGrace(s string) (Duration, bool) {
	d, err := time.ParseDuration(s)
	return Duration(d), err == nil && d >= time.Millisecond && d <= time.Hour
}

func parseTakeOver(s string) (Duration, bool) {
	d, err := time.ParseDuration(s)
	return Duration(d), err == nil && (d == 0 || d >= time.Second && d <= time.Minute)
}

// parseDuration takes durations from least to most.
func parseDuration(least, most Duration) func(string) (Duration, bool) {
	return func(s string) (Duration, bool) {
		d, err := time.ParseDuration(s)
		return Duration(d), err == nil && Duration(d) >= least && Duration(d) <= most
	}
}

func parseReplicas(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && (n == 1 || n == 3 || n == 5)
}

func parseShards(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n <= protocol.MaxShards
}

// parseUpTo takes numbers from 1 to most.
func parseUpTo(most int) func(string) (int, bool) {
	return func(s string) (int, bool) {
		n, err := strconv.Atoi(s)
		return n, err == nil && n >= 1 && n <= most
	}
}

// RedactURL hides user and password in a list of URLs.
func RedactURL(urls string) string {
	parts := strings.Split(urls, ",")
	for i, part := range parts {
		scheme, rest, ok := strings.Cut(part, "://")
		at := strings.LastIndexByte(rest, '@')
		if ok && at >= 0 {
			parts[i] = scheme + "://***" + rest[at:]
		}
	}
	return strings.Join(parts, ",")
}
