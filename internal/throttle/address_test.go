package throttle

import (
	"net/netip"
	"testing"
)

// TestClientBehindProxies: only what proxies have written is believed, and that from the end.
func TestClientBehindProxies(t *testing.T) {
	t.Parallel()
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("192.0.2.1/32")}
	for _, row := range []struct {
		name, peer string
		lines      []string
		want       string // empty: it counts for nobody
	}{
		{"nobody between", "198.51.100.1", nil, "198.51.100.1"},
		{"a stranger says something", "198.51.100.1", []string{"203.0.113.9"}, "198.51.100.1"},
		{"a stranger says that he is a proxy", "198.51.100.1", []string{"203.0.113.9, 10.0.0.1"}, "198.51.100.1"},
		{"a proxy", "10.0.0.1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"forged before a proxy", "10.0.0.1", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9"},
		{"forged in a line of its own", "10.0.0.1", []string{"1.1.1.1", "203.0.113.9"}, "203.0.113.9"},
		{"forged with proxies", "10.0.0.1", []string{"1.1.1.1, 10.0.0.9, 203.0.113.9"}, "203.0.113.9"},
		{"two proxies", "10.0.0.1", []string{"1.1.1.1, 203.0.113.9, 192.0.2.1"}, "203.0.113.9"},
		{"two proxies, two lines", "10.0.0.1", []string{"1.1.1.1, 203.0.113.9", "192.0.2.1"}, "203.0.113.9"},
		{"a client that is a proxy itself", "10.0.0.1", []string{"10.0.0.2"}, "10.0.0.2"},
		{"forged nonsense", "10.0.0.1", []string{"x, , 203.0.113.9"}, "203.0.113.9"},
		{"nonsense behind two proxies", "10.0.0.1", []string{"x, 192.0.2.1"}, "192.0.2.1"},
		{"a port", "10.0.0.1", []string{"203.0.113.9:4711"}, "203.0.113.9"},
		{"IPv6", "fd00::1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 in brackets", "fd00::1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv6 with a port", "fd00::1", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		{"IPv4 as IPv6", "::ffff:10.0.0.1", []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		{"a zone", "fd00::1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"a proxy that says nothing", "10.0.0.1", nil, ""},
		{"a proxy that says nonsense", "10.0.0.1", []string{"unknown"}, ""},
		{"a proxy that ends with nothing", "10.0.0.1", []string{"203.0.113.9,"}, ""},
	} {
		addr, ok := proxies.client(plain(netip.MustParseAddr(row.peer)), row.lines)
		if ok != (row.want != "") || ok && addr.String() != row.want {
			t.Errorf("%s: %v, %v; want %q", row.name, addr, ok, row.want)
		}
	}
}

// TestWhomAnAddressCountsFor: a customer has 2^64 addresses of IPv6, and one of IPv4.
func TestWhomAnAddressCountsFor(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"203.0.113.9": "203.0.113.9", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::": "2001:db8:1:2::/64", "2001:db8:1:3::": "2001:db8:1:3::/64",
	} {
		if got := name(owner(netip.MustParseAddr(addr))); got != want {
			t.Errorf("%s counts for %s, want %s", addr, got, want)
		}
	}
}

// FuzzClient: whatever a client sends before what its proxy has written, it is who it is.
func FuzzClient(f *testing.F) {
	f.Add("1.1.1.1")
	f.Add("10.0.0.9, 10.0.0.8")
	f.Add("[::1]:80,,x")
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, forged string) {
		for _, lines := range [][]string{{forged + ", 203.0.113.9"}, {forged, "203.0.113.9"}, {forged, forged + ",203.0.113.9:1, 10.0.0.3"}} {
			if addr, ok := proxies.client(netip.MustParseAddr("10.0.0.1"), lines); !ok || addr.String() != "203.0.113.9" {
				t.Errorf("%q: %v, %v", lines, addr, ok)
			}
		}
	})
}
