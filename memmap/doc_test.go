// SPDX-License-Identifier: Apache-2.0

package memmap_test

import (
	"errors"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// layoutDoc is where guest and host addresses are written down.
const layoutDoc = "../docs/memory-layout.md"

// code is a cell of a table that holds nothing but code.
var code = regexp.MustCompile("^`([^`]+)`$")

// documented is a table row that names a constant.
type documented struct {
	line       int
	value      string
	dir, ident string
}

// readLayoutDoc collects the rows of all tables that have a column "constant".
// Rows with a dash there say whose the value is instead.
func readLayoutDoc(t *testing.T) (rows []documented) {
	t.Helper()
	b, err := os.ReadFile(layoutDoc)
	if err != nil {
		t.Fatal(err)
	}
	column := -1
	for i, line := range strings.Split(string(b), "\n") {
		if !strings.HasPrefix(line, "|") {
			column = -1
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
			if cells[j] == "constant" {
				column = j
			}
		}
		if column < 0 || cells[column] == "constant" || strings.HasPrefix(cells[column], "---") || cells[column] == "—" {
			continue
		}
		name := code.FindStringSubmatch(cells[column])
		if name == nil || !strings.Contains(name[1], ".") {
			t.Errorf("%s:%d: %q is neither a constant nor a dash", layoutDoc, i+1, cells[column])
			continue
		}
		row := documented{line: i + 1}
		dot := strings.LastIndex(name[1], ".")
		row.dir, row.ident = name[1][:dot], name[1][dot+1:]
		// The value is the first cell of nothing but code.
		for _, c := range cells {
			if v := code.FindStringSubmatch(c); v != nil {
				row.value = v[1]
				break
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// noImports makes every imported package an empty one.
type noImports struct{}

func (noImports) Import(p string) (*types.Package, error) {
	pkg := types.NewPackage(p, path.Base(p))
	pkg.MarkComplete()
	return pkg, nil
}

// constants evaluates the constants of the package in a folder of the module
// from its source alone, without importing it. Those that depend on another
// package are not among them.
func constants(t *testing.T, dir string) map[string]constant.Value {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(dir), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var sources []*ast.File
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		source, err := parser.ParseFile(set, f, nil, parser.SkipObjectResolution)
		if errors.Is(err, os.ErrNotExist) {
			continue // renamed since it was listed
		}
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, source)
	}
	// What the empty imports lack are errors of no interest here.
	config := types.Config{Importer: noImports{}, Error: func(error) {}, IgnoreFuncBodies: true}
	pkg, _ := config.Check(dir, set, sources, nil)
	values := map[string]constant.Value{}
	for _, name := range pkg.Scope().Names() {
		if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok && c.Val().Kind() == constant.Int {
			values[name] = c.Val()
		}
	}
	return values
}

func TestMemoryLayoutDocSaysWhatTheCodeDoes(t *testing.T) {
	rows := readLayoutDoc(t)
	if len(rows) < 45 {
		t.Errorf("only %d rows name a constant: has the form of the tables changed?", len(rows))
	}
	packages := map[string]map[string]constant.Value{}
	for _, r := range rows {
		if packages[r.dir] == nil {
			packages[r.dir] = constants(t, r.dir)
		}
		got, ok := packages[r.dir][r.ident]
		if !ok {
			t.Errorf("%s:%d: there is no constant %s in %s", layoutDoc, r.line, r.ident, r.dir)
			continue
		}
		want := constant.MakeFromLiteral(r.value, token.INT, 0)
		if want.Kind() != constant.Int || !constant.Compare(got, token.EQL, want) {
			t.Errorf("%s:%d: %s.%s is %s, the document says %s", layoutDoc, r.line, r.dir, r.ident, got, r.value)
		}
	}
}

// The examples of the buffer table are what NewLayout makes.
func TestMemoryLayoutDocsBufferTables(t *testing.T) {
	const gib = 1 << 30
	for ram, want := range map[uint64]string{
		256 << 20:         "[0x0, +0x10000000)",
		2*gib + 512<<20:   "[0x0, +0x40000000) [0x40000000, +0x40000000) [0x80000000, +0x20000000)",
		4 * uint64(1<<30): "[0x0, +0x40000000) [0x40000000, +0x40000000) [0x80000000, +0x40000000) [0x100000000, +0x40000000)",
	} {
		var got []string
		for _, b := range layout(t, ram).Buffers() {
			got = append(got, b.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%d bytes: %v, want %s", ram, got, want)
		}
	}
}
