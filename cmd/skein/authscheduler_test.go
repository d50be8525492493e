package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// page reads what a process tells of itself.
func page(t *testing.T, address, path string) string {
	t.Helper()
	response, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil || response.Body.Close() != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestSchedulerOfAccounts: a scheduler serves the accounts that it has users for, whatever is wrong with one of them; those
// that come later, too, and those whose user changes.
func TestSchedulerOfAccounts(t *testing.T) {
	t.Parallel()
	f := newFort(t, 1, "--accounts")
	folder := t.TempDir()
	give := func(project string) {
		t.Helper()
		copyFile(t, f.seed(project+"/scheduler"), filepath.Join(folder, project+".nk"))
	}
	give("mill")
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "spy.nk"), unknown, 0o600); err != nil {
		t.Fatal(err)
	}
	health := "127.0.0.1:" + strconv.Itoa(natstest.FreePort(t))
	f.runAt(health, "scheduler", scheduler.Command(doctor.Rounds), "--nats-users", folder, "--nats-url", f.url, "--nats-ca", filepath.Join(f.dir, "ca.pem"))
	var ready process.Readiness
	if err := json.Unmarshal([]byte(page(t, health, "/readyz")), &ready); err != nil {
		t.Fatal(err)
	}
	if !ready.Ready || len(ready.Parts) != 1 || !strings.Contains(ready.Warnings["account spy"], "Authorization Violation") || ready.Warnings["account mill"] != "" {
		t.Errorf("ready: %+v", ready)
	}
	served := func(project string, how int) func() bool {
		line := `skein_scheduler_account_served{account="` + project + `"} ` + strconv.Itoa(how)
		return func() bool { return strings.Contains(page(t, health, "/metrics"), line) }
	}
	if !served("mill", 1)() || !served("spy", 0)() {
		t.Error("the metrics say something else")
	}
	fires := func(project string) func() bool {
		return func() bool {
			return strings.Contains(page(t, health, "/metrics"), `skein_scheduler_firings_total{account="`+project+`",project="`+project+`"}`)
		}
	}
	f.run("mill/workflow-runner", project.Command("mill-runner", workflow.Runner(workflow.Define("Sift", echo))),
		"--config", f.file("mill", `{ "name": "mill", "workflows": [{ "name": "sift", "class_name": "Sift", "schedules": [{ "cron": "* * * * * *", "params": "by cron" }] }] }`))
	natstest.Eventually(t, natstest.Patience, "schedules of mill fire", fires("mill"))

	give("desk")
	give("spy")
	natstest.Eventually(t, natstest.Patience, "the account that came later is served", served("desk", 1))
	natstest.Eventually(t, natstest.Patience, "the account that had a wrong user is served", served("spy", 1))
	f.run("desk/agent-host", project.Command("desk-host", agent.Host(agent.Define("Desk", func() *desk { return &desk{} }))),
		"--config", f.file("desk", `{ "name": "desk", "agents": [{ "class_name": "Desk" }] }`), "--http-addr", "127.0.0.1:"+strconv.Itoa(natstest.FreePort(t)))
	desks := agent.Bind[*desk]("Desk").In(f.open("desk/operator", `{ "name": "desk", "agents": [{ "class_name": "Desk" }] }`))
	if _, err := agent.Call(t.Context(), desks.Agent("jo"), (*desk).Watch, ""); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "schedules of desk fire", fires("desk"))

	connected := func() int { return strings.Count(f.log.String(), `msg="connected to NATS" account=mill`) }
	before := connected()
	f.report("rotate", "--role", "scheduler", "--project", "mill")
	f.reload()
	give("mill")
	f.report("rotate", "--finish")
	natstest.Eventually(t, natstest.Patience, "the scheduler has read its new file", func() bool { return connected() > before })
	natstest.Eventually(t, natstest.Patience, "schedules of mill fire again", fires("mill"))
	f.reload()
	if err := os.Remove(filepath.Join(folder, "spy.nk")); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "the account is served no more", func() bool { return !served("spy", 1)() && !served("spy", 0)() })
	if strings.Contains(f.log.String(), "Permissions Violation") {
		t.Error(f.log.String())
	}
}

// TestSchedulerWithoutAccounts: a folder that cannot be right is refused at once.
func TestSchedulerWithoutAccounts(t *testing.T) {
	t.Parallel()
	empty, twice := t.TempDir(), t.TempDir()
	for _, name := range []string{"a.nk", "a.creds"} {
		if err := os.WriteFile(filepath.Join(twice, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for folder, want := range map[string]string{
		empty:                           "has no file of a user; allowed are files NAME.nk or NAME.creds",
		twice:                           `allowed is one file for an account`,
		filepath.Join(empty, "nowhere"): "no such file",
	} {
		var log buffer
		cmd := scheduler.Command(doctor.Rounds)
		cmd.SetErr(&log)
		cmd.SetArgs([]string{"--nats-users", folder})
		if code := process.Execute(t.Context(), cmd); code != 1 || !strings.Contains(log.String(), want) {
			t.Errorf("%s: exit code %d, want %q in %s", folder, code, want, log.String())
		}
	}
}
