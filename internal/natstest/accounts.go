package natstest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// Accounts gives each of several projects an account of its own, with one user who may do everything in it (see User), and doors
// between them: a grant is written "caller:owner". Who connects without a name is the first project.
func Accounts(t testing.TB, projects []string, grants ...string) Option {
	t.Helper()
	path := filepath.Join(t.TempDir(), "accounts.conf")
	if err := os.WriteFile(path, []byte(accountsConfig(projects, grants)), 0o600); err != nil {
		t.Fatalf("natstest: accounts: %v", err)
	}
	return Adjust(func(o *server.Options) {
		c, err := server.ProcessConfigFile(path)
		if err != nil {
			t.Fatalf("natstest: accounts: %v", err)
		}
		o.Accounts, o.Users, o.NoAuthUser = c.Accounts, c.Users, projects[0]
	})
}

// User connects as the user of a project that has an account of its own.
func User(project string) nats.Option { return nats.UserInfo(project, project) }

func accountsConfig(projects, grants []string) string {
	var b strings.Builder
	b.WriteString("accounts {\n")
	for _, project := range projects {
		var exports, imports []string
		export := func(d protocol.Door) {
			exports = append(exports, fmt.Sprintf("{ service: %q, accounts: [ %q ] }", d.Subjects(), d.Caller))
		}
		imported := func(d protocol.Door) {
			imports = append(imports, fmt.Sprintf("{ service: { account: %q, subject: %q } }", d.Owner, d.Subjects()))
		}
		for _, grant := range slices.Sorted(slices.Values(grants)) {
			caller, owner, _ := strings.Cut(grant, ":")
			door, news := protocol.Door{Owner: owner, Caller: caller}, protocol.Door{News: true, Owner: caller, Caller: owner}
			switch project {
			case owner:
				export(door)
				imported(news)
			case caller:
				export(news)
				imported(door)
			}
		}
		fmt.Fprintf(&b, "  %s {\n    jetstream: enabled\n    users: [ { user: %q, password: %q } ]\n    exports: [ %s ]\n    imports: [ %s ]\n  }\n",
			project, project, project, strings.Join(exports, ", "), strings.Join(imports, ", "))
	}
	b.WriteString("}\n")
	return b.String()
}
