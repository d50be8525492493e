package auth

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// appAccount is the account of all projects that have none of their own, sysAccount that of the servers.
const (
	appAccount = "SKEIN"
	sysAccount = "SYS"
)

// account is one of NATS. Nothing gets from one into another but by exports that are imported.
type account struct {
	name    string
	streams bool
	exports []string
	imports []string
	has     func(User) bool
}

// accounts are all of a cluster.
func (s *State) accounts() []account {
	sys := account{name: sysAccount, has: func(u User) bool { return u.Role == System }}
	all := []account{{name: appAccount, has: func(u User) bool { return u.Role != System }}}
	if s.Accounts {
		all = nil
		for _, project := range s.Projects {
			all = append(all, account{name: project, has: func(u User) bool { return u.Project == project }})
		}
	}
	var names []string
	for i := range all {
		a := &all[i]
		a.streams = true
		a.imports = append(a.imports, serviceFrom(sysAccount, protocol.SubjectServers))
		if s.Accounts {
			s.connect(a)
		}
		names = append(names, fmt.Sprintf("%q", a.name))
	}
	if len(names) > 0 { // an export to a list of nobody is one to everybody
		sys.exports = append(sys.exports, fmt.Sprintf("{ service: %q, response_type: stream, accounts: [ %s ] }", protocol.SubjectServers, strings.Join(names, ", ")))
	}
	return append(all, sys)
}

func serviceFrom(account, subject string) string {
	return fmt.Sprintf("{ service: { account: %q, subject: %q } }", account, subject)
}

func serviceTo(account, subject string) string {
	return fmt.Sprintf("{ service: %q, accounts: [ %q ] }", subject, account)
}

// usersConfig lists all users with what they may do. It is the same for all servers.
func (s *State) usersConfig() []byte {
	var b strings.Builder
	b.WriteString(madeBy)
	fmt.Fprintf(&b, "system_account: %q\naccounts {\n", sysAccount)
	for _, a := range s.accounts() {
		fmt.Fprintf(&b, "  %q {\n", a.name)
		if a.streams {
			b.WriteString("    jetstream: enabled\n")
		}
		writeLines(&b, "exports", a.exports)
		writeLines(&b, "imports", a.imports)
		b.WriteString("    users: [\n")
		for _, u := range s.Users {
			for _, key := range u.Keys {
				if a.has(u) {
					s.writeUser(&b, u, key)
				}
			}
		}
		b.WriteString("    ]\n  }\n")
	}
	b.WriteString("}\n")
	return []byte(b.String())
}

func writeLines(b *strings.Builder, what string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "    %s: [\n", what)
	for _, line := range lines {
		fmt.Fprintf(b, "      %s\n", line)
	}
	b.WriteString("    ]\n")
}
