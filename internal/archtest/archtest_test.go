// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pkg is what `go list -json` says of one package.
type pkg struct {
	Dir, ImportPath, Name     string
	GoFiles, CgoFiles         []string
	TestImports, XTestImports []string
	Deps                      []string
}

func (p pkg) rel() string { return strings.TrimPrefix(p.ImportPath, Module+"/") }

// own returns those of paths that belong to the module, relative to it.
func own(paths []string) []string {
	var out []string
	for _, p := range paths {
		if rel, ok := strings.CutPrefix(p, Module+"/"); ok {
			out = append(out, rel)
		}
	}
	return out
}

// listModule runs `go list -deps` over the module and returns its own packages.
func listModule(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,ImportPath,Name,GoFiles,CgoFiles,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if strings.HasPrefix(p.ImportPath, Module+"/") {
			pkgs = append(pkgs, p)
		}
	}
	if len(pkgs) == 0 {
		t.Fatal("go list names no package of the module")
	}
	return pkgs
}

// root returns the module's top directory.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("go env GOMOD: %v", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func TestImportsRunDownward(t *testing.T) {
	for _, p := range listModule(t) {
		// Deps is what the package's code reaches, directly or not.
		for _, dep := range own(p.Deps) {
			if why := allowed(p.rel(), dep); why != "" {
				t.Error(why)
			}
		}
		// Tests follow the same table: a test of hostring that needs memmap
		// shows that the two are one.
		for _, dep := range append(own(p.TestImports), own(p.XTestImports)...) {
			if why := allowed(p.rel(), dep); why != "" {
				t.Errorf("a test: %s", why)
			}
		}
	}
}

func TestTableOfDirections(t *testing.T) {
	tests := []struct {
		from, to string
		ok       bool
	}{
		{"tools/uringpv", "vmm", true},
		{"tools/uringpv", "guest/bare", true},
		{"vmm", "device/uringpv", true},
		{"vmm", "vmm/kvm", true},
		{"vmm/boot", "memmap", true},
		{"device/uringpv", "hostring", true},
		{"device/uringpv", "device/uringpv/disk", true},
		{"device/uringpv/relay", "device/uringpv", true},
		{"device/uringpv/relay", "device/uringpv/relay", true},
		{"hostring", "internal/shm", true},
		{"memmap", "internal/shm", true},
		{"guest/bare", "device/uringpv/abi", true},

		{"hostring", "memmap", false},
		{"memmap", "hostring", false},
		{"device/uringpv", "vmm", false},
		{"device/uringpv/relay", "vmm/kvm", false},
		{"device/uringpv", "device/uringpv/relay", false},
		{"device/uringpv/relay", "device/uringpv/passthrough", false},
		{"device/uringpv/isolated", "device/uringpv/passthrough", false},
		{"device/uringpv/abi", "device/uringpv", false},
		{"internal/shm", "memmap", false},
		{"vmm", "tools/uringpv", false},
		{"vmm", "guest/bare", false},
		{"guest/bare", "vmm", false},
		{"images", "vmm", false},
		{"nowhere", "vmm", false},
		{"vmm", "vmmore", false},
	}
	for _, tt := range tests {
		if why := allowed(tt.from, tt.to); (why == "") != tt.ok {
			t.Errorf("%s -> %s: allowed = %v, want %v (%s)", tt.from, tt.to, why == "", tt.ok, why)
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	for _, p := range listModule(t) {
		path := filepath.Join(p.Dir, "doc.go")
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Errorf("%s: no doc.go that says what the package owns: %v", p.rel(), err)
			continue
		}
		prefix := "Package " + p.Name + " "
		if p.Name == "main" {
			prefix = "Command " + filepath.Base(p.ImportPath) + " "
		}
		if f.Doc == nil || !strings.HasPrefix(f.Doc.Text(), prefix) {
			t.Errorf("%s: the package comment does not begin with %q", path, prefix)
		}
		for _, name := range append(p.GoFiles, p.CgoFiles...) {
			if name == "doc.go" {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Error(err)
			} else if f.Doc != nil && !strings.Contains(f.Doc.Text(), "Code generated") {
				t.Errorf("%s/%s: a second package comment; it belongs in doc.go", p.rel(), name)
			}
		}
	}
}

func TestUnsafeStaysInItsFiles(t *testing.T) {
	eachFile(t, func(path string, src []byte) {
		if filepath.Ext(path) != ".go" {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		for _, imp := range f.Imports {
			if imp.Path.Value == `"unsafe"` && !strings.HasSuffix(path, "_unsafe.go") {
				t.Errorf("%s imports unsafe; move what needs it to a file named *_unsafe.go", path)
			}
			if imp.Path.Value == `"C"` {
				t.Errorf("%s uses cgo; the module builds with CGO_ENABLED=0", path)
			}
		}
	})
}

func TestLicenceInTheFirstLine(t *testing.T) {
	const tag = "SPDX-License-Identifier: "
	eachFile(t, func(path string, src []byte) {
		switch filepath.Ext(path) {
		case ".go", ".c", ".h", ".S", ".ld":
		default:
			return
		}
		line, _, _ := bytes.Cut(src, []byte("\n"))
		if !bytes.Contains(line, []byte(tag)) {
			t.Errorf("%s: the first line has no %q", path, tag)
		}
	})
}

// eachFile calls visit for every regular file of the tree that is source: not
// in a hidden or built directory.
func eachFile(t *testing.T, visit func(path string, src []byte)) {
	t.Helper()
	top := root(t)
	seen := 0
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != top && (strings.HasPrefix(name, ".") || name == "bin" || name == "build" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		switch filepath.Ext(name) {
		case ".go", ".c", ".h", ".S", ".ld":
		default:
			return nil
		}
		src, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed by its owner between the two calls
		} else if err != nil {
			return err
		}
		seen++
		visit(path, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Fatal("no source file found")
	}
}
