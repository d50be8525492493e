package policy

import (
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestModulesAreMarked: go.mod says of each module whether the code imports it. go build does not look, and go mod tidy -diff needs
// a network.
func TestModulesAreMarked(t *testing.T) {
	t.Parallel()
	c := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	c.Dir = root
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go mod edit -json: %v", err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	imports := imported(t)
	for _, required := range mod.Require {
		isDirect := false
		for path := range imports {
			isDirect = isDirect || path == required.Path || strings.HasPrefix(path, required.Path+"/")
		}
		if isDirect == required.Indirect {
			t.Errorf("go.mod: is %s imported here? %t; run go mod tidy", required.Path, isDirect)
		}
	}
}

// imported has the paths of all packages that the code imports.
func imported(t *testing.T) map[string]bool {
	t.Helper()
	paths := map[string]bool{}
	for _, f := range sources(t) {
		for _, spec := range f.ast.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			paths[path] = true
		}
	}
	return paths
}
