package main

import (
	"strconv"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestShardsNeedRights: a runner with more shards than its user has rights to says what it waits for, and gets ready as soon as
// the servers have loaded the rights.
func TestShardsNeedRights(t *testing.T) {
	t.Parallel()
	f := newFort(t, 1)
	config := f.file("spy", `{ "name": "spy", "shards": 2, "workflows": [{ "name": "sift", "class_name": "Sift" }] }`)
	health := "127.0.0.1:" + strconv.Itoa(natstest.FreePort(t))
	ready := f.begin(health, "spy/workflow-runner", project.Command("runner", workflow.Runner(workflow.Define("Sift", echo))),
		append(f.flags("spy/workflow-runner"), "--config", config)...)
	waits := `stream \"WORKFLOWS_spy=1\"`
	natstest.Eventually(t, natstest.Patience, "the runner says that it waits for "+waits, func() bool { return strings.Contains(f.log.String(), waits) })
	if ready() {
		t.Error("it takes work")
	}
	if r := f.report("add-project", "spy=2"); len(r.Created) != 0 || len(r.Changed) != 1 {
		t.Errorf("rights to more shards: %+v", r)
	}
	f.reload()
	natstest.Eventually(t, natstest.Patience, "it takes work", ready)
	for _, text := range []string{"spy=0", "spy=65", "spy=x", "spy="} {
		if said := f.auth(1, "add-project", text); !strings.Contains(said, text) || !strings.Contains(said, "1 to 64") {
			t.Errorf("%s: %s", text, said)
		}
	}
}
