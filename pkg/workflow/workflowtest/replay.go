package workflowtest

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/skein-run/skein/pkg/workflow"
)

// Replay fails the test if instances whose history was exported cannot go on with the definition at hand: code contradicts
// what is recorded. It needs no server and no [Env], and no body runs. See [workflow.Replay].
func Replay(t testing.TB, definition workflow.Definition, history workflow.History) {
	t.Helper()
	err := workflow.Replay(t.Context(), definition, history)
	switch {
	case errors.Is(err, workflow.ErrDivergence):
		t.Errorf("%v\nInstances like this one would be held. Keep what is recorded as it is, for as long as there are such instances:"+
			" call the steps in the old order, or leave the old workflow as it is and define a new one beside it.", err)
	case err != nil:
		t.Errorf("workflowtest: %v", err)
	}
}

// Read reads a history from a file, as "skein workflows export" writes it.
func Read(t testing.TB, path string) workflow.History {
	t.Helper()
	var history workflow.History
	body, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(body, &history)
	}
	if err != nil {
		t.Fatalf("workflowtest: history %s: %v (skein workflows export WORKFLOW ID writes one)", path, err)
	}
	return history
}
