package process

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
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
	// HTTPMaxConnections is how many connections of clients an agent host holds, sockets among them. Default 0: twice HTTPMaxSockets, so
	// that sockets leave room for requests.
	HTTPMaxConnections int
	// HTTPAddressConnections is how many connections one address may have, unless HTTPProxies has it; an address of IPv6 counts with
	// its network of 64 bits. Default 0: no limit, for a host cannot know which address is that of a balancer. So for the next ones.
	HTTPAddressConnections int
	// HTTPAddressSockets is how many sockets of clients of one address an agent host holds. Default 0: no limit.
	HTTPAddressSockets int
	// HTTPAddressRate is how many requests per second clients of one address may send. Default 0: no limit.
	HTTPAddressRate int
	// HTTPAddressBurst is how many of them they may send at once. Default 0: as many as HTTPAddressRate.
	HTTPAddressBurst int
	// HTTPProxies are the addresses and networks, separated by commas, of proxies and balancers: which client they ask for is what they
	// say in X-Forwarded-For. Default empty: none is believed.
	HTTPProxies string
	// HTTPHeaderTimeout is how long a client may take for the header of a request. Default 10s.
	HTTPHeaderTimeout Duration
	// HTTPReadTimeout is how long a client may take for a request, or for the first 512 KiB of its body. Default 1m.
	HTTPReadTimeout Duration
	// HTTPIdleTimeout is how long a connection may be open between two requests, or take nothing of an answer. Default 2m, longer than
	// what balancers wait: who closes last meets no request on its way.
	HTTPIdleTimeout Duration
	// Version is that of the project's code: every run of an instance records it. Default: the revision that the program
	// was built from, if it is known.
	Version string
	// MaxValueSize is the most that params, an event's payload, a result or an output may have as JSON. Default 64MiB.
	MaxValueSize Size
	// CleanAfter is how old what is stored of instances must be to be cleaned away by schedulers. Default 24h, at least that.
	CleanAfter Duration
	// DoctorEvery is how often a scheduler looks whether the instances of its projects have what they need to go on, 10s to 24h. Default 10m.
	DoctorEvery Duration
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
	SettingConnections  = "http_max_connections"
	SettingPerAddress   = "http_address_connections"
	SettingAddrSockets  = "http_address_sockets"
	SettingAddressRate  = "http_address_rate"
	SettingAddressBurst = "http_address_burst"
	SettingProxies      = "http_proxies"
	SettingHeaderTime   = "http_header_timeout"
	SettingReadTime     = "http_read_timeout"
	SettingIdleTime     = "http_idle_timeout"
	SettingVersion      = "version"
	SettingMaxValueSize = "max_value_size"
	SettingCleanAfter   = "clean_after"
	SettingDoctorEvery  = "doctor_every"
	SettingLateAfter    = "schedule_late_after"
)

// Defaults are the settings of a server that is told nothing.
func Defaults() Settings {
	return Settings{
		NATSURL:           "nats://127.0.0.1:4222",
		LogLevel:          "info",
		LogFormat:         "text",
		ShutdownGrace:     Duration(10 * time.Second),
		Replicas:          1,
		Slots:             128,
		HTTPAddr:          "127.0.0.1:8700",
		HTTPMaxBody:       8 << 20,
		HTTPTimeout:       Duration(time.Minute),
		HTTPMaxRequests:   1000,
		HTTPMaxSockets:    20_000,
		HTTPFrameRate:     5000,
		HTTPHeaderTimeout: Duration(10 * time.Second),
		HTTPReadTimeout:   Duration(time.Minute),
		HTTPIdleTimeout:   Duration(2 * time.Minute),
		Version:           buildVersion(),
		MaxValueSize:      64 << 20,
		CleanAfter:        minCleanAfter,
		DoctorEvery:       Duration(10 * time.Minute),
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
	return slices.Contains([]string{SettingCleanAfter, SettingDoctorEvery, SettingLateAfter, SettingNATSUsers}, setting)
}
