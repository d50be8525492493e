package process

import (
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
