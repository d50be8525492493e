package auth

import (
	"fmt"
	"net"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

const madeBy = "# Made by `skein auth`, which makes it again: what is changed here stops that.\n"

// folder is where the files of a server lie below the directory. It has all that the server needs.
func (v Server) folder() string { return filepath.Join("servers", v.Name) }

func (v Server) address() string { return net.JoinHostPort(v.Host, strconv.Itoa(v.Port)) }

// serverConfig is the configuration of one server.
func (s *State) serverConfig(v Server) []byte {
	var b strings.Builder
	b.WriteString(madeBy)
	fmt.Fprintf(&b, "server_name: %q\nport: %d\nclient_advertise: %q\n", v.Name, v.Port, v.address())
	b.WriteString("# A process that stands still must be missed soon: its agents are taken over.\n")
	b.WriteString("ping_interval: \"2s\"\nping_max: 2\n")
	b.WriteString("# What is acknowledged is on the disks of a majority, and survives that all of them lose power.\n")
	fmt.Fprintf(&b, "jetstream {\n  store_dir: %q\n  sync_interval: always\n}\n", v.Store)
	b.WriteString("tls {\n" + v.certificates("  ") + "}\n")
	if len(s.Servers) > 1 {
		s.clusterConfig(&b, v)
	}
	b.WriteString("include \"users.conf\"\n")
	return []byte(b.String())
}

func (v Server) certificates(indent string) string {
	var b strings.Builder
	for _, line := range [][2]string{{"cert_file", "cert.pem"}, {"key_file", "key.pem"}, {"ca_file", authorityCert}} {
		fmt.Fprintf(&b, "%s%s: %q\n", indent, line[0], path.Join(v.Dir, line[1]))
	}
	fmt.Fprintf(&b, "%smin_version: \"1.3\"\n%stimeout: 10\n", indent, indent)
	return b.String()
}

func (s *State) clusterConfig(b *strings.Builder, v Server) {
	fmt.Fprintf(b, "cluster {\n  name: %q\n  port: %d\n  cluster_advertise: %q\n", s.Cluster, v.ClusterPort,
		net.JoinHostPort(v.Host, strconv.Itoa(v.ClusterPort)))
	if s.NextPassword == "" { // while it is exchanged, certificates alone tell who is a server
		fmt.Fprintf(b, "  authorization {\n    user: %q\n    password: %q\n    timeout: 10\n  }\n", routeUser, s.Password)
	}
	fmt.Fprintf(b, "  tls {\n%s    verify: true\n  }\n  routes: [\n", v.certificates("    "))
	for _, other := range s.Servers {
		if other.Name != v.Name {
			fmt.Fprintf(b, "    \"nats-route://%s:%s@%s\"\n", routeUser, s.Password, net.JoinHostPort(other.Host, strconv.Itoa(other.ClusterPort)))
		}
	}
	b.WriteString("  ]\n}\n")
}

// routeUser is who servers are to each other.
const routeUser = "route"

func (s *State) writeUser(b *strings.Builder, u User, key Key) {
	fmt.Fprintf(b, "      # %s\n      {\n        nkey: %q\n", u.Name(), key.Public)
	if p := s.Permit(u.Project, u.Role); p != nil {
		b.WriteString("        permissions {\n          publish {\n")
		writeList(b, "allow", p.Publish)
		writeList(b, "deny", p.Deny)
		b.WriteString("          }\n          subscribe {\n")
		writeList(b, "allow", p.Subscribe)
		b.WriteString("          }\n")
		if p.Responds {
			fmt.Fprintf(b, "          allow_responses { max: -1, expires: %q }\n", respondWithin)
		}
		b.WriteString("        }\n")
	}
	b.WriteString("      }\n")
}

func writeList(b *strings.Builder, what string, subjects []string) {
	if len(subjects) == 0 {
		return
	}
	fmt.Fprintf(b, "            %s: [\n", what)
	for _, subject := range subjects {
		fmt.Fprintf(b, "              %q\n", subject)
	}
	b.WriteString("            ]\n")
}
