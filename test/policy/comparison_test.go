package policy

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	comparison = "docs/comparison.md"
	guarantees = "docs/guarantees.md"
)

// proof is a link to a function of a test.
var proof = regexp.MustCompile(`\[(\w+)\]\(([^)#]+_test\.go)\)`)

// TestComparisonIsProven: in each row of the comparison our column names tests, and each of them exists where the link
// leads to. What is said of others names a page.
func TestComparisonIsProven(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, comparison))
	if err != nil {
		t.Fatal(err)
	}
	functions := testFunctions(t)
	rows, links := 0, 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| feature ") || strings.HasPrefix(line, "| --- ") {
			continue
		}
		rows++
		if len(cells) != 6 {
			t.Errorf("%q has %d cells, want 6", cells[0], len(cells))
			continue
		}
		links += proven(t, functions, comparison, cells[0], cells[1])
		for _, cell := range cells[2:] {
			if cell = strings.TrimSpace(cell); !strings.HasPrefix(cell, "○") && cell != "not known" && !sourced(string(text), cell) {
				t.Errorf("%q: where does %q come from?", cells[0], cell)
			}
		}
	}
	if rows < 60 || links < rows {
		t.Errorf("%d links in %d rows: the table is not read as it should be", links, rows)
	}
}

// TestGuaranteesAreProven: each promise of the guarantees names tests that are there.
func TestGuaranteesAreProven(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, guarantees))
	if err != nil {
		t.Fatal(err)
	}
	functions, rows, inTable := testFunctions(t), 0, false
	for line := range strings.Lines(string(text)) {
		switch cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | "); {
		case line == "| promise | tests |\n":
			inTable = true
		case !strings.HasPrefix(line, "| "):
			inTable = false
		case inTable && !strings.HasPrefix(line, "| --- "):
			rows++
			if len(cells) != 2 {
				t.Errorf("%q has %d cells, want 2", cells[0], len(cells))
				continue
			}
			proven(t, functions, guarantees, cells[0], cells[1])
		}
	}
	if rows < 15 {
		t.Errorf("%d rows: the tables are not read as they should be", rows)
	}
}

// proven checks that a cell of a page names tests, and that they exist. It returns how many.
func proven(t *testing.T, functions map[string]bool, page, what, cell string) int {
	t.Helper()
	found := proof.FindAllStringSubmatch(cell, -1)
	if len(found) == 0 {
		t.Errorf("%q names no test", what)
	}
	for _, link := range found {
		file := path.Join(path.Dir(page), link[2])
		if !functions[file+" "+link[1]] {
			t.Errorf("%q: there is no %s in %s", what, link[1], file)
		}
	}
	return len(found)
}

// sourced reports whether a cell has a link, and each of its links a target.
func sourced(text, cell string) bool {
	for _, name := range regexp.MustCompile(`\]\[([\w-]+)\]`).FindAllStringSubmatch(cell, -1) {
		if !strings.Contains(text, "\n["+name[1]+"]: https://") {
			return false
		}
	}
	return strings.Contains(cell, "](https://") || strings.Contains(cell, "][")
}

// testFunctions has "file name" of every function of a test file.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	functions := map[string]bool{}
	for _, f := range sources(t) {
		for _, decl := range f.ast.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && f.test() && d.Recv == nil {
				functions[filepath.ToSlash(f.path)+" "+d.Name.Name] = true
			}
		}
	}
	return functions
}
