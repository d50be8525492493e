package throttle

import (
	"net/netip"
	"slices"
	"strings"
)

// headerForwarded is where proxies say for whom they ask; each adds at the end whom it has seen itself.
const headerForwarded = "X-Forwarded-For"

// Proxies are the addresses whose word about their clients is taken.
type Proxies []netip.Prefix

// trusts reports whether an address is that of a proxy.
func (p Proxies) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// client is who has sent a request that came from a peer, given the lines of X-Forwarded-For. They are read from the end, as long as who
// has written them is a proxy: what stands before that, the client may have made up. ok is false if a proxy says nothing that is an
// address: then the request counts for nobody, for else all clients of that proxy would be one.
func (p Proxies) client(peer netip.Addr, lines []string) (addr netip.Addr, ok bool) {
	rest := strings.Join(lines, ",")
	named := !p.trusts(peer)
	for p.trusts(peer) && rest != "" {
		i := strings.LastIndexByte(rest, ',')
		hop, known := parseHop(rest[i+1:])
		if !known {
			break
		}
		peer, named, rest = hop, true, rest[:max(i, 0)]
	}
	return peer, named
}

// parseHop reads an address as proxies write it: some add the port.
func parseHop(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	if at, err := netip.ParseAddrPort(text); err == nil {
		return plain(at.Addr()), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return plain(addr), err == nil
}

// plain is an address as it is compared: IPv4 never as a part of IPv6, and without the zone.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// networkBits is how much of an address of IPv6 tells clients apart: a network of 64 bits belongs to one customer, who can use a new
// address of it for every connection.
const networkBits = 64

// owner is what an address counts for: itself, or its network.
func owner(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return netip.PrefixFrom(addr, networkBits).Masked()
}

// name is an owner for people.
func name(owner netip.Prefix) string {
	if owner.IsSingleIP() {
		return owner.Addr().String()
	}
	return owner.String()
}
