package process

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func flagsFor(t *testing.T, extra []string, args ...string) *pflag.FlagSet {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	defineFlags(set, extra)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	if err := Defaults().Validate(); err != nil {
		t.Fatal(err)
	}
	if got := (Settings{}).WithDefaults(); got != Defaults() {
		t.Errorf("zero settings become %+v", got)
	}
}

// Not parallel: it sets environment variables.
func TestPrecedence(t *testing.T) {
	file := func() (Settings, error) {
		return Settings{NATSURL: "nats://file:1", LogLevel: "debug", Slots: 7, ShutdownGrace: Duration(time.Minute)}, nil
	}
	t.Setenv("SKEIN_NATS_URL", "nats://env:1")
	t.Setenv("SKEIN_LOG_LEVEL", "warn")
	t.Setenv("SKEIN_LOG_FORMAT", "") // empty counts as not set
	t.Setenv("SKEIN_HTTP_ADDR", "no address, but this server does not listen to it")
	got, err := resolve(file, flagsFor(t, []string{SettingSlots}, "--nats-url", "nats://flag:1"))
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.NATSURL = "nats://flag:1"                  // flag over variable and file
	want.LogLevel = "warn"                          // variable over file
	want.Slots = 7                                  // file over default
	want.ShutdownGrace = Duration(60 * time.Second) // file over default
	if got != want {
		t.Errorf("settings are\n%+v, want\n%+v", got, want)
	}
}

func TestEverySettingInThreeSpellings(t *testing.T) {
	values := map[string]string{
		"nats_url": "tls://a:1,nats://b:2", "nats_creds": "/some/file", "nats_nkey": "/some/seed", "nats_ca": "/some/ca",
		"nats_cert": "/some/cert", "nats_key": "/some/key", "health_addr": "127.0.0.1:0", "log_level": "error",
		"log_format": "json", "shutdown_grace": "3s", "replicas": "3", "shards": "4", "slots": "9", "take_over_after": "2s", "http_addr": ":80", "version": "v1.4", "max_value_size": "2MiB",
		"clean_after": "48h", "doctor_every": "1m", "http_origins": "https://a.example, http://localhost:3000", "http_max_body": "1MiB", "http_timeout": "5s", "http_drain": "2s",
		"http_max_requests": "3", "http_max_sockets": "4", "http_frame_rate": "5",
		"nats_monitor": "http://a:8222,https://b", "production": "true",
		"schedule_late_after": "90s", "nats_users": "/some/folder", "http_max_connections": "6", "http_address_connections": "7", "http_address_sockets": "8", "http_address_rate": "9",
		"http_address_burst": "10", "http_proxies": "10.0.0.7, fd00::/8", "http_header_timeout": "3s", "http_read_timeout": "4s", "http_idle_timeout": "5s",
	}
	if len(values) != len(SettingNames()) {
		t.Fatalf("this test knows %d settings, there are %v", len(values), SettingNames())
	}
	extra := []string{SettingShards, SettingSlots, SettingTakeOver, SettingHTTPAddr, SettingVersion, SettingMaxValueSize, SettingCleanAfter, SettingDoctorEvery, SettingLateAfter,
		SettingHTTPOrigins, SettingHTTPMaxBody, SettingHTTPTimeout, SettingHTTPDrain, SettingHTTPRequests, SettingHTTPSockets, SettingFrameRate,
		SettingConnections, SettingPerAddress, SettingAddrSockets, SettingAddressRate, SettingAddressBurst, SettingProxies, SettingHeaderTime,
		SettingReadTime, SettingIdleTime, SettingNATSUsers}
	for name, value := range values {
		t.Run(name, func(t *testing.T) {
			var want Settings
			if err := want.Set(name, value); err != nil {
				t.Fatal(err)
			}
			want = want.WithDefaults()
			if want == Defaults() {
				t.Fatal("the value is the default, choose another")
			}
			byFlag, err := resolve(nil, flagsFor(t, extra, "--"+strings.ReplaceAll(name, "_", "-")+"="+value))
			if err != nil || byFlag != want {
				t.Errorf("flag: %+v, error %v", byFlag, err)
			}
			t.Setenv("SKEIN_"+strings.ToUpper(name), value)
			byEnv, err := resolve(nil, flagsFor(t, extra))
			if err != nil || byEnv != want {
				t.Errorf("variable: %+v, error %v", byEnv, err)
			}
		})
	}
}

func TestBadValuesAreNamed(t *testing.T) {
	for _, row := range []struct{ name, value, allowed string }{
		{"nats_url", "", "nats://"},
		{"nats_url", "http://x", "nats://"},
		{"nats_url", "nats://a,b", "nats://"},
		{"nats_monitor", "nats://a", "http:// or https:// with a host; empty for none"},
		{"production", "yes", "true or false"},
		{"health_addr", "8080", "host:port"},
		{"health_addr", "localhost:http", "host:port"},
		{"log_level", "loud", "debug, info, warn or error"},
		{"log_format", "xml", "text or json"},
		{"shutdown_grace", "10", "as in 10s"},
		{"shutdown_grace", "-1s", "1ms to 1h"},
		{"replicas", "2", "1, 3 or 5"},
		{"take_over_after", "999ms", "1s to 1m; 0s for what the project has"},
		{"slots", "0", "1 to 10000"},
		{"slots", "many", "1 to 10000"},
		{"http_addr", "", "host:port"},
		{"version", "a\nb", "at most 128 bytes"},
		{"http_origins", "a.example", "https://host or http://host:port, separated by commas; * for all, empty for none"},
		{"http_origins", "https://a.example/", "https://host"},
		{"http_origins", "https://*.example", "https://host"},
		{"http_origins", "https://a.example,*", "https://host"},
		{"http_drain", "-1s", "0s to 30m, and at most half of shutdown_grace"},
		{"http_max_body", "1023", "1KiB to 64MiB, as in 8MiB"},
		{"http_max_body", "65MiB", "1KiB to 64MiB"},
		{"http_timeout", "999ms", "1s to 24h"},
		{"http_timeout", "25h", "1s to 24h"},
		{"http_max_requests", "0", "1 to 100000"},
		{"http_max_requests", "100001", "1 to 100000"},
		{"http_max_sockets", "0", "1 to 1000000"},
		{"http_max_sockets", "1000001", "1 to 1000000"},
		{"http_frame_rate", "0", "1 to 1000000"},
		{"http_frame_rate", "1e3", "1 to 1000000"},
		{"http_max_connections", "-1", "0 to 2000000; 0 for twice http_max_sockets"},
		{"http_max_connections", "2000001", "0 to 2000000"},
		{"http_address_connections", "all", "0 to 2000000; 0 for no limit"},
		{"http_address_sockets", "1000001", "0 to 1000000; 0 for no limit"},
		{"http_address_rate", "0.5", "0 to 1000000; 0 for no limit"},
		{"http_address_burst", "-1", "0 to 1000000; 0 for as many as http_address_rate"},
		{"http_proxies", "balancer", "addresses and networks as in 10.0.0.7, 192.168.1.0/24"},
		{"http_proxies", "10.0.0.7,", "separated by commas"},
		{"http_proxies", "10.0.0.0/33", "networks"},
		{"http_proxies", "0.0.0.0/0", "none of them everybody (/0)"},
		{"http_proxies", "10.0.0.7, ::/0", "none of them everybody (/0)"},
		{"http_proxies", "::ffff:10.0.0.7", "10.0.0.7"},
		{"http_header_timeout", "0s", "1s to 1h"},
		{"http_read_timeout", "2h", "1s to 1h"},
		{"http_idle_timeout", "10", "1s to 1h"},
		{"doctor_every", "9s", "10s to 24h"},
		{"doctor_every", "25h", "10s to 24h"},
		{"schedule_late_after", "9s", "10s to 24h"},
		{"schedule_late_after", "25h", "10s to 24h"},
		{"max_value_size", "64", "128KiB to 1GiB, as in 64MiB"},
		{"max_value_size", "64MB", "128KiB to 1GiB"},
		{"max_value_size", "2GiB", "128KiB to 1GiB"},
		{"max_value_size", "9999999999GiB", "128KiB to 1GiB"},
		{"colour", "red", "one of nats_url, "},
	} {
		t.Run(row.name+"="+row.value, func(t *testing.T) {
			s := Defaults()
			err := s.Set(row.name, row.value)
			wrong, ok := errors.AsType[*SettingError](err)
			if !ok || wrong.Setting != row.name || wrong.Value != row.value || !strings.Contains(wrong.Allowed, row.allowed) {
				t.Fatalf("error is %v", err)
			}
			if s != Defaults() {
				t.Errorf("settings changed to %+v", s)
			}
		})
	}
}

func TestAllWrongValuesAreReportedWithTheirSource(t *testing.T) {
	t.Setenv("SKEIN_LOG_LEVEL", "loud")
	_, err := resolve(nil, flagsFor(t, []string{SettingSlots}, "--slots=0", "--nats-url="))
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{`SKEIN_LOG_LEVEL: "loud"`, `--slots: "0"`, `--nats-url: ""`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in: %v", part, err)
		}
	}
	s := Settings{Slots: -1}.WithDefaults()
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), `slots: "-1"`) {
		t.Errorf("validate: %v", err)
	}
}

func TestSecretsAreHidden(t *testing.T) {
	t.Parallel()
	if got := RedactURL("nats://me:secret@a:1,tls://b:2,nats://token@c:3"); got != "nats://***@a:1,tls://b:2,nats://***@c:3" {
		t.Error(got)
	}
	var s Settings
	if err := s.Set("nats_url", "http://me:secret@a"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v", err)
	}
}
