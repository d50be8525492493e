package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/auth"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// reload lets all servers load their files again.
func (f *fort) reload() {
	f.t.Helper()
	for _, s := range f.servers {
		if err := s.Reload(); err != nil {
			f.t.Fatal(err)
		}
	}
}

// report runs a sub-command of auth and reads what it has done.
func (f *fort) report(args ...string) auth.Report {
	f.t.Helper()
	var r auth.Report
	if err := json.Unmarshal([]byte(f.auth(0, append(args, "--output", "json")...)), &r); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// undisturbed checks that connections work and were never lost.
func undisturbed(t *testing.T, when string, conns ...*nats.Conn) {
	t.Helper()
	for _, nc := range conns {
		if err := nc.FlushTimeout(natstest.Patience); err != nil || nc.Stats().Reconnects > 0 {
			t.Errorf("%s: %s: %d reconnects, error %v", when, nc.Opts.Name, nc.Stats().Reconnects, err)
		}
	}
}

// TestRotate: keys are exchanged while everybody stays connected, until the old ones are taken away.
func TestRotate(t *testing.T) {
	t.Parallel()
	f := newFort(t, 1)
	old, other := f.connect("desk/agent-host"), f.connect("mill/workflow-runner")
	const file = "users/desk/agent-host.nk"
	first, err := os.ReadFile(filepath.Join(f.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	if r := f.report("rotate", "--project", "desk", "--role", "agent-host"); fmt.Sprint(r.Changed) != "["+"servers/n0/users.conf "+file+"]" {
		t.Errorf("rotate: %+v", r)
	}
	f.reload()
	renewed := f.connect("desk/agent-host")
	if r := f.report("rotate", "--project", "desk"); !slices.Contains(r.Kept, file) || len(r.Changed) != 4 { // one key is being exchanged already
		t.Errorf("rotate again: %+v", r)
	}
	f.reload()
	undisturbed(t, "with two keys", old, renewed, other)
	if kept, err := os.ReadFile(filepath.Join(f.dir, file+".old")); err != nil || string(kept) != string(first) {
		t.Errorf("the old file is lost: %v", err)
	}
	if old.NewInbox()[:20] != renewed.NewInbox()[:20] { // who has the old key answers who has the new one
		t.Error("the inboxes are of two users")
	}
	if r := f.report("rotate", "--finish"); len(r.Removed) != 4 {
		t.Errorf("finish: %+v", r)
	}
	f.reload()
	natstest.Eventually(t, natstest.Patience, "the old key is cut off", func() bool { return !old.IsConnected() })
	undisturbed(t, "with the new key", renewed, other)
	if r := f.report("rotate", "--finish"); len(r.Removed)+len(r.Changed)+len(r.Created) > 0 {
		t.Errorf("finish again: %+v", r)
	}
	if r := f.report("rotate", "--certificates"); len(r.Created) != 2 {
		t.Errorf("certificates: %+v", r)
	}
	f.reload()
	f.connect("desk/agent-host")
	undisturbed(t, "with new certificates", renewed, other)
}

// TestAddProject: who is connected stays so, and the new project works.
func TestAddProject(t *testing.T) {
	t.Parallel()
	f := newFort(t, 1)
	host, scheduler := f.connect("desk/agent-host"), f.connect("scheduler")
	create := protocol.Instance{Project: "barn", Workflow: "w", ID: "1"}.CreateSubject()
	publish := func() error { return scheduler.Publish(create, nil) }
	if !refused(t, scheduler, publish) {
		t.Error("the scheduler may start workflows of a project that is not there")
	}
	r := f.report("add-project", "barn", "--grant", "desk:barn/w")
	if fmt.Sprint(r.Created) != "[users/barn/agent-host.nk users/barn/operator.nk users/barn/viewer.nk users/barn/workflow-runner.nk]" {
		t.Errorf("created %q", r.Created)
	}
	f.reload()
	f.made("barn")
	undisturbed(t, "with another project", host)
	natstest.Eventually(t, natstest.Patience, "the scheduler serves the new project", func() bool {
		return scheduler.IsConnected() && !refused(t, scheduler, publish)
	})
	if refused(t, host, func() error { return host.Publish(create, nil) }) {
		t.Error("the grant does nothing")
	}
	create = protocol.Instance{Project: "barn", Workflow: "v", ID: "1"}.CreateSubject()
	if !refused(t, host, func() error { return host.Publish(create, nil) }) {
		t.Error("the grant is for all workflows")
	}
}

// TestInitIsCareful: what was made stays, what is secret is so, and what was changed by hand is not lost.
func TestInitIsCareful(t *testing.T) {
	t.Parallel()
	f := &fort{t: t, dir: filepath.Join(t.TempDir(), "auth")}
	args := []string{"init", "--project", "desk", "--servers", "3"}
	if r := f.report(args...); len(r.Kept)+len(r.Changed) > 0 || len(r.Created) != 24 {
		t.Errorf("init: %+v", r)
	}
	if err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		if seed, readErr := os.ReadFile(path); readErr == nil && !strings.HasPrefix(path, filepath.Join(f.dir, "users")) && strings.Contains(string(seed), "\nSU") {
			t.Errorf("%s has a seed", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if r := f.report(args...); len(r.Created)+len(r.Changed) > 0 || len(r.Kept) != 24 {
		t.Errorf("init again: %+v", r)
	}
	if r := f.report(append(args, "--name", "nats.example")...); len(r.Created) != 6 || len(r.Changed) > 0 { // certificates
		t.Errorf("init with another name: %+v", r)
	}
	users := filepath.Join(f.dir, "servers", "nats-2", "users.conf")
	changed, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	changed = append(changed, "# mine\n"...)
	if err := os.WriteFile(users, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		want string
		args []string
	}{
		{"nats-2/users.conf was changed by hand", []string{"add-project", "mill"}},
		{"nats-2/users.conf was changed by hand", []string{"rotate", "--all"}},
		{"nats-2/users.conf was changed by hand", args},
		{`cluster: "other": the directory is for "skein"`, append(args, "--cluster", "other")},
		{"those of a cluster stay", []string{"init", "--servers", "1"}},
		{`servers: "2": allowed is 1, 3 or 5`, []string{"init", "--dir", filepath.Join(f.dir, "x"), "--servers", "2"}},
		{`--server: "a": allowed is NAME=HOST[:PORT[:CLUSTERPORT]]`, []string{"init", "--server", "a"}},
		{`port of server a: "70000": allowed is 1 to 65535`, []string{"init", "--dir", filepath.Join(f.dir, "x"), "--server", "a=b:70000"}},
		{`host of server a: "b c": allowed is a name or an IP address`, []string{"init", "--dir", filepath.Join(f.dir, "x"), "--server", "a=b c"}},
		{`grant: "desk": allowed is FROM:TO or FROM:TO/WORKFLOW`, []string{"init", "--grant", "desk"}},
		{`there is no project "barn"; there are desk`, []string{"init", "--dir", filepath.Join(f.dir, "x"), "--project", "desk", "--grant", "desk:barn"}},
		{"project \"a.b\"", []string{"init", "--dir", filepath.Join(f.dir, "x"), "--project", "a.b"}},
		{`--role: "chief": allowed is one of [agent-host workflow-runner operator viewer scheduler admin system]`, []string{"rotate", "--role", "chief"}},
		{`there is no user of project "barn"`, []string{"rotate", "--project", "barn"}},
		{"rotate: wanted is one of --all, --certificates, --authority, --routes, or --project and --role", []string{"rotate"}},
		{"rotate: wanted is one of", []string{"rotate", "--routes", "--authority"}},
		{"rotate: wanted is one of", []string{"rotate", "--certificates", "--finish"}},
		{"accounts: \"true\": the directory was made with \"false\"", append(args, "--accounts")},
		{`project: "SYS": is the account of the servers`, []string{"init", "--dir", filepath.Join(f.dir, "x"), "--accounts", "--project", "SYS"}},
		{`--output: "xml": allowed is text or json`, []string{"rotate", "--all", "--output", "xml"}},
		{"nothing was made there", []string{"add-project", "mill", "--dir", filepath.Join(f.dir, "x")}},
	} {
		if text := f.auth(1, row.args...); !strings.Contains(text, row.want) {
			t.Errorf("%q says %q, want %q", row.args, text, row.want)
		}
	}
	if _, err := os.Stat(filepath.Join(f.dir, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
	if still, err := os.ReadFile(users); err != nil || string(still) != string(changed) {
		t.Errorf("what was changed by hand is lost: %v", err)
	}
}
