package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/backup"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// saysIn runs skein, which must end with code and say each of the texts.
func saysIn(t *testing.T, code int, wants []string, args ...string) string {
	t.Helper()
	text, got := said(t, args...)
	if got != code {
		t.Errorf("%q: exit code %d, want %d:\n%s", args, got, code, text)
	}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q: %q is not in:\n%s", args, want, text)
		}
	}
	return text
}

func TestBackupCommands(t *testing.T) {
	t.Parallel()
	from, to := natstest.Start(t), natstest.Start(t)
	js := natstest.JetStream(t, from.Connect(t))
	for _, err := range []error{
		streams.EnsureProjects(t.Context(), js, streams.Options{}), streams.EnsureWorkflows(t.Context(), js, "shop", 1, streams.Options{}),
		streams.RegisterWorkflows(t.Context(), js, "shop", 1, map[string]string{"pay": "Pay"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	body, err := json.Marshal(protocol.Create{V: 1, Input: "i", Workflow: "pay", ID: "a"})
	if err == nil {
		_, err = js.Publish(t.Context(), protocol.Instance{Project: "shop", Workflow: "pay", ID: "a"}.CreateSubject(), body)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "b")
	at, there := []string{"--nats-url", from.URL()}, []string{"--nats-url", to.URL()}
	with := func(flags []string, args ...string) []string { return slices.Concat(args, flags) }
	saysIn(t, 1, []string{`project "bank": has no streams here`, "check the name"}, with(at, "backup", dir, "--project", "bank")...)
	saysIn(t, 0, []string{"shop, 2 messages of 5 streams", "what was acknowledged before"}, with(at, "backup", dir, "--project", "shop")...)
	saysIn(t, 1, []string{"is not empty"}, with(at, "backup", dir)...)
	saysIn(t, 0, []string{"2 messages of 5 streams, 1 instances (1 queued), 0 agents"}, "backup", "verify", dir)
	var v backup.Verified
	if err := json.Unmarshal([]byte(saysIn(t, 0, nil, "backup", "verify", dir, "--output", "json")), &v); err != nil || v.States[protocol.StateQueued] != 1 {
		t.Errorf("verified as JSON: %+v, %v", v, err)
	}
	saysIn(t, 1, []string{"--replicas: 2: allowed are 1, 3 and 5"}, with(there, "restore", dir, "--replicas", "2")...)
	saysIn(t, 0, []string{"restored shop as of", "2 messages of 5 streams, 1 instances", "start its schedulers, runners and hosts now", "both would act"},
		with(there, "restore", dir)...)
	saysIn(t, 1, []string{"these streams are there already: ", "WORKFLOWS_shop", "has none of them"}, with(there, "restore", dir)...)
	saysIn(t, 1, []string{"3 replicas: there are not as many servers", `see "Growing" in docs/operations.md`}, with(there, "scale", "--replicas", "3")...)
	saysIn(t, 0, []string{"5 streams have 1 replicas", "survives killed processes; does not survive"}, with(there, "scale", "--replicas", "1")...)
	saysIn(t, 1, []string{"--replicas: 0: allowed are 1, 3 and 5"}, with(there, "scale")...)
	if err := os.Truncate(filepath.Join(dir, "WORKFLOWS_shop.s2"), 100); err != nil {
		t.Fatal(err)
	}
	saysIn(t, exitLeft, []string{"WORKFLOWS_shop.s2: has 100 bytes", "take another backup"}, "backup", "verify", dir)
	saysIn(t, exitLeft, []string{"WORKFLOWS_shop.s2: has 100 bytes", "nothing was restored"}, with(there, "restore", dir)...)
	saysIn(t, exitLeft, []string{"was not finished"}, "backup", "verify", t.TempDir())
}

// TestBackupNeedsTheAdmin: where users have roles, the admin makes and restores backups, and changes replicas, and nobody else does.
func TestBackupNeedsTheAdmin(t *testing.T) {
	t.Parallel()
	f, g := newFort(t, 3), newFort(t, 1)
	f.made("desk", "mill")
	dir := filepath.Join(t.TempDir(), "b")
	saysIn(t, 0, []string{"desk, mill"}, append([]string{"backup", dir}, f.flags("admin")...)...)
	saysIn(t, 0, []string{"survives killed processes, and the loss or a power failure of 1 of 3 servers; a power failure of all at once loses nothing from their disks, but can leave a stream without a leader"},
		append([]string{"scale", "--replicas", "3"}, f.flags("admin")...)...)
	for _, user := range []string{"desk/operator", "mill/workflow-runner", "desk/agent-host", "mill/viewer", "scheduler"} {
		saysIn(t, 1, []string{"permissions violation", "this needs the admin"}, append([]string{"backup", filepath.Join(t.TempDir(), "b")}, f.flags(user)...)...)
		saysIn(t, 1, []string{"permissions violation", "this needs the admin"}, append([]string{"scale", "--replicas", "1", "--fewer"}, f.flags(user)...)...)
		saysIn(t, 1, []string{"permissions violation", "this needs the admin"}, append([]string{"restore", dir}, g.flags(user)...)...)
	}
	saysIn(t, 0, []string{"restored desk, mill"}, append([]string{"restore", dir, "--replicas", "1"}, g.flags("admin")...)...)
}
