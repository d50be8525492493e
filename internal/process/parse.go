package process

import (
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

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

// parseCount takes numbers from 0 to most.
func parseCount(most int) func(string) (int, bool) {
	return func(s string) (int, bool) {
		n, err := strconv.Atoi(s)
		return n, err == nil && n >= 0 && n <= most
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
