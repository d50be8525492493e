package process

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Bounds of what an agent host allows its clients.
const (
	maxConnections = 2 * maxHTTPSockets
	maxAddressRate = 1_000_000
	minClientTime  = Duration(time.Second)
	maxClientTime  = Duration(time.Hour)
)

// clientFields are what an agent host's HTTP allows its clients, by who and how fast they are.
func clientFields() []field {
	return []field{
		typed[int]{name: SettingConnections, usage: "connections of clients that a host holds", extra: true,
			allowed: fmt.Sprintf("0 to %d; 0 for twice http_max_sockets", maxConnections),
			at:      func(s *Settings) *int { return &s.HTTPMaxConnections }, parse: parseCount(maxConnections)}.field(),
		typed[int]{name: SettingPerAddress, usage: "connections of one address that is not in http_proxies", extra: true,
			allowed: fmt.Sprintf("0 to %d; 0 for no limit", maxConnections),
			at:      func(s *Settings) *int { return &s.HTTPAddressConnections }, parse: parseCount(maxConnections)}.field(),
		typed[int]{name: SettingAddrSockets, usage: "sockets of clients of one address", extra: true,
			allowed: fmt.Sprintf("0 to %d; 0 for no limit", maxHTTPSockets),
			at:      func(s *Settings) *int { return &s.HTTPAddressSockets }, parse: parseCount(maxHTTPSockets)}.field(),
		typed[int]{name: SettingAddressRate, usage: "requests per second of clients of one address", extra: true,
			allowed: fmt.Sprintf("0 to %d; 0 for no limit", maxAddressRate),
			at:      func(s *Settings) *int { return &s.HTTPAddressRate }, parse: parseCount(maxAddressRate)}.field(),
		typed[int]{name: SettingAddressBurst, usage: "requests of clients of one address at once", extra: true,
			allowed: fmt.Sprintf("0 to %d; 0 for as many as http_address_rate", maxAddressRate),
			at:      func(s *Settings) *int { return &s.HTTPAddressBurst }, parse: parseCount(maxAddressRate)}.field(),
		typed[string]{name: SettingProxies, usage: "proxies that say in X-Forwarded-For who their clients are", extra: true,
			allowed: "addresses and networks as in 10.0.0.7, 192.168.1.0/24, separated by commas, none of them everybody (/0); empty for none",
			at:      func(s *Settings) *string { return &s.HTTPProxies }, parse: parseProxies}.field(),
		typed[Duration]{name: SettingHeaderTime, usage: "how long a client may take for the header of a request", allowed: "1s to 1h", extra: true,
			at: func(s *Settings) *Duration { return &s.HTTPHeaderTimeout }, parse: parseDuration(minClientTime, maxClientTime)}.field(),
		typed[Duration]{name: SettingReadTime, usage: "how long a client may take for a request, or for the first 512 KiB of it", allowed: "1s to 1h", extra: true,
			at: func(s *Settings) *Duration { return &s.HTTPReadTimeout }, parse: parseDuration(minClientTime, maxClientTime)}.field(),
		typed[Duration]{name: SettingIdleTime, usage: "how long a client may send no request, or take nothing of an answer", allowed: "1s to 1h", extra: true,
			at: func(s *Settings) *Duration { return &s.HTTPIdleTimeout }, parse: parseDuration(minClientTime, maxClientTime)}.field(),
	}
}

// Proxies takes http_proxies apart, which was judged before.
func Proxies(setting string) []netip.Prefix {
	networks, _ := readNetworks(setting)
	return networks
}

// readNetworks reads addresses and networks, of which none is everybody.
func readNetworks(list string) (networks []netip.Prefix, ok bool) {
	if strings.TrimSpace(list) == "" {
		return nil, true
	}
	for part := range strings.SplitSeq(list, ",") {
		network, err := readNetwork(strings.TrimSpace(part))
		if err != nil || network.Bits() == 0 || network.Addr().Is4In6() {
			return nil, false
		}
		networks = append(networks, network)
	}
	return networks, true
}

func readNetwork(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		network, err := netip.ParsePrefix(text)
		return network.Masked(), err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return addr.WithZone("").Prefix(addr.BitLen())
}

func parseProxies(s string) (string, bool) {
	_, ok := readNetworks(s)
	return s, ok
}
