package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/skein-run/skein"

// root is the top of the tree, seen from this package.
const root = "../.."

type sourceFile struct {
	path string // from the top of the tree
	dir  string
	set  *token.FileSet
	ast  *ast.File
	text string
}

func (f sourceFile) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// sources parses every Go file of the tree.
func sources(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		short, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files = append(files, sourceFile{path: short, dir: filepath.ToSlash(filepath.Dir(short)), set: set, ast: parsed, text: string(text)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found %d Go files: the walk goes wrong", len(files))
	}
	return files
}

func TestEveryPackageSaysWhyItExists(t *testing.T) {
	t.Parallel()
	docs := map[string]string{}
	for _, f := range sources(t) {
		if f.test() {
			continue
		}
		docs[f.dir] += f.ast.Doc.Text()
	}
	for dir, doc := range docs {
		switch {
		case doc == "":
			t.Errorf("%s: no package doc", dir)
		case !strings.HasPrefix(dir, "cmd/") && !inExamples(dir) && !strings.Contains(doc, "must never"):
			t.Errorf("%s: the package doc does not say what the package must never do", dir)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test() || !strings.HasPrefix(f.dir, "pkg/") {
			continue
		}
		for _, decl := range f.ast.Decls {
			for _, missing := range undocumented(decl) {
				t.Errorf("%s: exported %s has no doc", f.path, missing)
			}
		}
	}
}

func undocumented(decl ast.Decl) []string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && !wellKnown[d.Name.Name] {
			return []string{d.Name.Name}
		}
	case *ast.GenDecl:
		var names []string
		for _, spec := range d.Specs {
			if s, ok := spec.(*ast.TypeSpec); ok && s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
				names = append(names, s.Name.Name)
			}
			if s, ok := spec.(*ast.ValueSpec); ok && s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil {
				names = append(names, s.Names[0].Name)
			}
		}
		return names
	}
	return nil
}

// wellKnown are methods whose meaning the language or its library fixes.
var wellKnown = map[string]bool{
	"Error": true, "Unwrap": true, "Is": true, "Terminal": true, "FailureName": true, "String": true, "Write": true,
	"Header": true, "WriteHeader": true, "Enabled": true, "Handle": true, "WithAttrs": true, "WithGroup": true,
	"MarshalText": true, "UnmarshalText": true,
}

// Ceilings of size, in lines. The aims are half of them: see CONTRIBUTING.md.
const (
	maxFile     = 800
	maxFunction = 80
)

func TestSizesStayBelowTheirCeilings(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if n := strings.Count(f.text, "\n"); n > maxFile {
			t.Errorf("%s: %d lines, at most %d: two nouns in one room?", f.path, n, maxFile)
		}
		if f.test() {
			continue
		}
		for _, decl := range f.ast.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok || d.Body == nil {
				continue
			}
			if n := f.set.Position(d.End()).Line - f.set.Position(d.Pos()).Line + 1; n > maxFunction {
				t.Errorf("%s: %s has %d lines, at most %d", f.path, d.Name.Name, n, maxFunction)
			}
		}
	}
}

// layers are the floors of the house: a package imports packages of lower floors, and of its own those listed before
// it. Above them come the examples, then whatever is not listed: the servers and tools, right below cmd.
var layers = [][]string{
	{"js", "pkg/protocol", "internal/logkey", "internal/testsignal", "internal/wire", "internal/ctxtime"},
	{"internal/cronline", "internal/moments", "internal/answers", "internal/journal", "internal/crontab", "internal/door", "internal/objects", "internal/client", "internal/porter", "internal/engine", "internal/streams", "internal/quiesce", "internal/post", "internal/durability", "internal/process", "internal/throttle",
		"internal/execution", "internal/slots", "internal/runner", "internal/janitor"},
	{"pkg/project"},
	{"internal/turn", "internal/stage", "internal/gateway"},
	{"pkg/workflow"},
	{"pkg/agent"},
}

func inExamples(dir string) bool { return dir == "examples" || strings.HasPrefix(dir, "examples/") }

// floor gives the height of a package of this module, and its place on the floor.
func floor(dir string) (height, place int) {
	for h, names := range layers {
		if i := slices.Index(names, dir); i >= 0 {
			return h, i
		}
	}
	switch {
	case inExamples(dir):
		return len(layers), 0
	case strings.HasPrefix(dir, "pkg/"), strings.HasPrefix(dir, "internal/"):
		return len(layers) + 1, 0
	}
	return len(layers) + 2, 0 // cmd and test
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test() || f.dir == "internal/natstest" {
			continue
		}
		height, place := floor(f.dir)
		for _, spec := range f.ast.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			dir, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				if f.dir == "pkg/protocol" && strings.Contains(path, ".") {
					t.Errorf("%s imports %s: the protocol needs the standard library only", f.path, path)
				}
				continue
			}
			if dir == "internal/natstest" && !strings.HasPrefix(f.dir, "test/") {
				t.Errorf("%s imports %s: that is for tests", f.path, dir)
			}
			if h, p := floor(dir); h > height || h == height && h < len(layers) && p >= place {
				t.Errorf("%s imports %s: imports point down", f.path, dir)
			}
		}
	}
}

func TestPureEngineTouchesNothing(t *testing.T) {
	t.Parallel()
	forbidden := regexp.MustCompile(`\btime\.(Now|Since|Until|Sleep|After|AfterFunc|NewTimer|NewTicker)\b|\bgo func\b|\bsync\.|\bos\.`)
	for _, f := range sources(t) {
		if f.dir != "internal/engine" || f.test() {
			continue
		}
		if found := forbidden.FindString(f.text); found != "" {
			t.Errorf("%s uses %s: the engine is pure", f.path, found)
		}
	}
}

func TestNamesOfSubjectsStandInTheProtocolOnly(t *testing.T) {
	t.Parallel()
	forbidden := regexp.MustCompile(`^(wf|timer|inbox|clock|poke|ask|agent|activate|host|ended|sockets|door|news|post)\.[a-z0-9*>%{]|^(WORKFLOWS|TIMERS|INBOX|AGENTS|SCHEDULES|HOSTS|DEAD|CONNECTIONS|SLOTS|OBJECTS|OBJ|KV|POST)_|^_R_|^\$(KV|O)\.|^Nats-`)
	for _, f := range sources(t) {
		if f.test() || f.dir == "pkg/protocol" || f.dir == "internal/testsignal" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			if s, err := strconv.Unquote(literal.Value); err == nil && forbidden.MatchString(s) && !help(f.dir) {
				t.Errorf("%s: %q: names of subjects, streams, buckets and headers come from pkg/protocol", f.path, s)
			}
			return true
		})
	}
}

// help reports whether a package prints lines for people to type.
func help(dir string) bool { return dir == "internal/dev" || dir == "cmd/skein" }

func TestNothingIsLeftToDo(t *testing.T) {
	t.Parallel()
	marks := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	for _, f := range sources(t) {
		if found := marks.FindString(f.text); found != "" {
			t.Errorf("%s says %s: do it, or file it", f.path, found)
		}
	}
}

func TestNoTestSleepsOrSkips(t *testing.T) {
	t.Parallel()
	forbidden := regexp.MustCompile(`\.Skip(f|Now)?\(`)
	for _, f := range sources(t) {
		if found := forbidden.FindString(f.text); f.test() && f.dir != "test/policy" && found != "" {
			t.Errorf("%s: %s: a skipped test proves nothing", f.path, found)
		}
	}
}

func TestToolsAreContent(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{
		"gofmt":       {"gofmt", "-l", "."},
		"go vet":      {"go", "vet", "./..."},
		"go fix":      {"go", "fix", "-diff", "./..."},
		"staticcheck": {"go", "tool", "staticcheck", "./..."},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: each of them keeps all CPUs busy
			c := exec.CommandContext(t.Context(), command[0], command[1:]...)
			c.Dir = root
			var complaints, said strings.Builder // on a new machine the go command says what it downloads
			c.Stdout, c.Stderr = &complaints, &said
			if err := c.Run(); err != nil || complaints.Len() > 0 {
				t.Errorf("%s: %v\n%s%s", strings.Join(command, " "), err, complaints.String(), said.String())
			}
		})
	}
}
