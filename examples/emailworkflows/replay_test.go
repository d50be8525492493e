package emailworkflows

import (
	"path/filepath"
	"testing"

	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// TestOldInstancesGoOn: whatever is changed in the workflow, instances that began before the change can go on with it. The
// files were written by skein workflows export and stay as they are.
func TestOldInstancesGoOn(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no histories: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			workflowtest.Replay(t, Workflows(New(nil))[0], workflowtest.Read(t, file))
		})
	}
}
