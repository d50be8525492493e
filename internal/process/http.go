package process

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Bounds of the settings of an agent host's HTTP.
const (
	minHTTPBody     Size = 1 << 10
	maxHTTPBody     Size = 64 << 20
	maxHTTPRequests      = 100_000
	maxHTTPSockets       = 1_000_000
	maxFrameRate         = 1_000_000
)

// httpFields are the settings of an agent host's HTTP.
func httpFields() []field {
	return []field{
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
	}
}

// Origins takes http_origins apart.
func Origins(setting string) []string {
	var origins []string
	for part := range strings.SplitSeq(setting, ",") {
		if origin := strings.TrimSpace(part); origin != "" {
			origins = append(origins, origin)
		}
	}
	return origins
}

// parseOrigins wants origins as browsers send them: a scheme and a host, nothing else.
func parseOrigins(s string) (string, bool) {
	origins := Origins(s)
	if slices.Equal(origins, []string{"*"}) {
		return s, true
	}
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || u.Scheme == "" || strings.Contains(origin, "*") || u.Scheme+"://"+u.Host != origin {
			return "", false
		}
	}
	return s, true
}

func parseHTTPDrain(s string) (Duration, bool) {
	d, err := time.ParseDuration(s)
	return Duration(d), err == nil && d >= 0 && d <= 30*time.Minute
}

func parseHTTPBody(s string) (Size, bool) {
	size, ok := ParseSize(s)
	return size, ok && size >= minHTTPBody && size <= maxHTTPBody
}

func parseHTTPTimeout(s string) (Duration, bool) {
	d, err := time.ParseDuration(s)
	return Duration(d), err == nil && d >= time.Second && d <= 24*time.Hour
}
