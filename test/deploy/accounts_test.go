//go:build docker

package deploy

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// Projects of the cluster: an agent of the first starts workflows of the second.
const (
	caller = "flight-desk"
	owner  = "email-workflows"
)

// TestClusterOfAccounts brings the cluster up with an account for each project. The main job goes through the door between two of
// them, also without one process of each kind; nobody gets around it, and nothing is left undone.
func TestClusterOfAccounts(t *testing.T) {
	c := start(t, "--accounts")
	c.awaitMainJob()
	c.awaitHealthy(processes...)
	c.survives()
	c.keepsItsLevel()
	c.accountsAreApart()

	c.kill("nats-1", "desk-host-1", "mail-runner-1", "scheduler-1")
	c.mainJob()
	for _, project := range []string{caller, owner, "expenses"} {
		c.run("run", "--rm", "skein", "doctor", "--project", project, "--nats-nkey", "/keys/users/"+project+"/viewer.nk")
	}
}

// accountsAreApart checks that who may do everything in one account has no stream of another project there, nor hears of its
// workflows, while the owner has what the main job has left.
func (c *cluster) accountsAreApart() {
	c.t.Helper()
	stream := protocol.WorkflowsStream(owner, 0)
	own, err := natstest.JetStream(c.t, c.connect(owner, "admin")).Stream(c.t.Context(), stream)
	if err != nil || own.CachedInfo().State.Msgs == 0 {
		c.t.Fatalf("%s: the main job has left nothing in %s, error %v", owner, stream, err)
	}
	nc := c.connect(caller, "admin")
	js := natstest.JetStream(c.t, nc)
	names := js.StreamNames(c.t.Context())
	for name := range names.Name() {
		if kind, project, ok := protocol.ParseStream(name); ok && project != "" && project != caller {
			c.t.Errorf("%s has the stream %s, a %v of %s", caller, name, kind, project)
		}
	}
	if err := names.Err(); err != nil {
		c.t.Error(err)
	}
	if _, err := js.Stream(c.t.Context(), stream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		c.t.Errorf("%s: %s: error %v", caller, stream, err)
	}
	create := protocol.Instance{Project: owner, Workflow: "EMAIL_WORKFLOW", ID: "forged"}.CreateSubject()
	if _, err := nc.Request(create, []byte("{}"), natstest.Patience); !errors.Is(err, nats.ErrNoResponders) {
		c.t.Errorf("%s: %s: error %v", caller, create, err)
	}
}

// connect connects a user of a project to the servers, by their addresses in the network of the cluster.
func (c *cluster) connect(project, role string) *nats.Conn {
	c.t.Helper()
	keys := filepath.Join(c.dir, "keys")
	key, err := nats.NkeyOptionFromSeed(filepath.Join(keys, "users", project, role+".nk"))
	if err != nil {
		c.t.Fatal(err)
	}
	nc, err := nats.Connect("tls://nats-1:4222,tls://nats-2:4222,tls://nats-3:4222", key, nats.RootCAs(filepath.Join(keys, "ca.pem")),
		nats.SetCustomDialer(network{c}), nats.SkipHostLookup())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// network dials services of the cluster.
type network struct{ c *cluster }

func (n network) Dial(_, address string) (net.Conn, error) {
	service, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ip := n.c.inspect(n.c.container(service), "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
	return (&net.Dialer{Timeout: natstest.Patience}).DialContext(context.Background(), "tcp", net.JoinHostPort(ip, port))
}

// keepsItsLevel checks that up.sh with other flags refuses this cluster, by its keys and by its data.
func (c *cluster) keepsItsLevel(flags ...string) {
	c.t.Helper()
	for _, name := range []string{"keys", "data"} {
		dir := c.t.TempDir() // has nothing to come up with
		script, err := os.ReadFile(filepath.Join(c.dir, "up.sh"))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "up.sh"), script, 0o600)
		}
		if err == nil {
			err = os.Symlink(filepath.Join(c.dir, name), filepath.Join(dir, name))
		}
		if err != nil {
			c.t.Fatal(err)
		}
		out, err := c.up(dir, append(flags, "--local")...)
		if err == nil || !strings.Contains(string(out), "error: deploy/"+name+"/") {
			c.t.Errorf("up.sh %s with %s of the other level: error %v\n%s", strings.Join(flags, " "), name, err, out)
		}
	}
}
