package policy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestKindsOfFindingsAreDocumented: whoever reads what skein doctor says finds what it means.
func TestKindsOfFindingsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(filepath.Join(root, "internal/doctor/finding.go"))
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`Kind = "([a-z-]+)"`).FindAllStringSubmatch(string(code), -1)
	if len(kinds) < 20 {
		t.Errorf("found %d kinds: they are not read as they should be", len(kinds))
	}
	for _, kind := range kinds {
		if !strings.Contains(string(page), "\n| `"+kind[1]+"` | ") {
			t.Errorf("docs/operations.md has no row of kind %q", kind[1])
		}
	}
}
