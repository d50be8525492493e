package protocol_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

var update = flag.Bool("update", false, "create golden files that are missing; existing ones are never touched")

// TestGoldenFiles holds what is written today against the golden bytes. A message that gets a new field gets a new
// row and file beside the old ones, which stay: what was stored once must be readable for ever.
func TestGoldenFiles(t *testing.T) {
	t.Parallel()
	for _, g := range goldens() {
		t.Run(g.file, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join("testdata", g.file+".json")
			got := encode(t, g.value)
			want, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && *update {
				createFile(t, path, got)
				want, err = got, nil
			}
			if err != nil {
				t.Fatalf("%v (a new message? go test ./pkg/protocol -update creates its file)", err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s\n got %s\nwant %s", path, got, want)
			}
			back := reflect.New(reflect.TypeOf(g.value))
			decode(t, want, back.Interface())
			if again := encode(t, back.Elem().Interface()); !bytes.Equal(again, want) {
				t.Errorf("%s, read and written again\n got %s\nwant %s", path, again, want)
			}
		})
	}
}

func TestGoldenFilesAllHaveARow(t *testing.T) {
	t.Parallel()
	rows := map[string]bool{}
	for _, g := range goldens() {
		rows[g.file+".json"] = true
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !f.IsDir() && !rows[f.Name()] {
			t.Errorf("testdata/%s has no row in goldens()", f.Name())
		}
	}
}

// createFile fails if the file exists.
func createFile(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(raw, '\n')
}

func decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

// TestGoldensCoverEveryField fails for a message type, a field or a kind that no golden file shows.
func TestGoldensCoverEveryField(t *testing.T) {
	t.Parallel()
	seen := seenInGoldens{fields: map[string]bool{}, words: map[string]bool{}}
	for _, g := range goldens() {
		seen.visit(reflect.ValueOf(g.value))
	}
	for _, field := range declaredFields(t) {
		if !seen.fields[field] {
			t.Errorf("no golden file has %s", field)
		}
	}
	for word, typeName := range declaredWords(t) {
		if typeName == "StreamKind" {
			continue // it stands for the names of streams, and is never stored
		}
		if !seen.words[typeName+" "+word] {
			t.Errorf("no golden file has the %s %q", typeName, word)
		}
	}
}

// seenInGoldens collects which fields had a value, as "Type.Field", and which words of which type occurred.
type seenInGoldens struct{ fields, words map[string]bool }

func (s seenInGoldens) visit(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			s.visit(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			s.visit(v.Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			s.visit(v.MapIndex(key))
		}
	case reflect.String:
		s.words[v.Type().Name()+" "+v.String()] = true
	case reflect.Struct:
		if v.Type().PkgPath() != reflect.TypeFor[protocol.Create]().PkgPath() {
			return
		}
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				s.fields[v.Type().Name()+"."+v.Type().Field(i).Name] = true
			}
			s.visit(v.Field(i))
		}
	}
}

// declaredFields lists the exported fields of all exported structs that are written as JSON.
func declaredFields(t *testing.T) (fields []string) {
	t.Helper()
	inspect(t, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		structure, ok := spec.Type.(*ast.StructType)
		if !ok || !spec.Name.IsExported() {
			return false
		}
		for _, field := range structure.Fields.List {
			if field.Tag == nil || !strings.Contains(field.Tag.Value, "json:") {
				continue
			}
			for _, name := range field.Names {
				fields = append(fields, spec.Name.Name+"."+name.Name)
			}
		}
		return false
	})
	if len(fields) < 100 {
		t.Fatalf("found only %d fields: %q", len(fields), fields)
	}
	return fields
}

// declaredWords maps the values of typed string constants to their type.
func declaredWords(t *testing.T) map[string]string {
	t.Helper()
	words := map[string]string{}
	inspect(t, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		typeName, ok := spec.Type.(*ast.Ident)
		if !ok || typeName.Name == "Class" { // Class is a token of a subject, not of a message
			return false
		}
		for _, value := range spec.Values {
			if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				words[strings.Trim(literal.Value, `"`)] = typeName.Name
			}
		}
		return false
	})
	return words
}

func inspect(t *testing.T, visit func(ast.Node) bool) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, visit)
	}
}
