package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
)

// TestMeasureAsUser: on servers that let only users in, all processes of a measurement are the user that the environment names;
// and the report does not take these servers for one of its own.
func TestMeasureAsUser(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "user.nk")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	s := natstest.Start(t, natstest.Adjust(func(o *server.Options) {
		o.Nkeys = []*server.NkeyUser{{Nkey: public}}
		o.NoAuthUser = "nobody" // who only asks whether the server is there
		o.Users = []*server.User{{Username: o.NoAuthUser, Password: "nobody", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"$JS.API.INFO"}},
		}}}
	}))
	t.Setenv(process.EnvName("nats_nkey"), file)
	out, err := execute(t, "throughput", "--nats-url", s.URL(), "--in-flight", "2", "--duration", "3s", "--warm-up", "0s", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !strings.Contains(r.Setup, "servers of --nats-url") || strings.Contains(r.Setup, "sync") {
		t.Errorf("the setup is %q", r.Setup)
	}
}
