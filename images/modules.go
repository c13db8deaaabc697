// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Module is a kernel module, not compressed.
type Module struct {
	Name     string // with underscores, as the kernel has it
	Data     []byte
	Compiler string // what built it; empty: it is Debian's
}

// modules is a kernel's modules, by name.
type modules struct {
	dir     string // a /lib/modules/RELEASE
	path    map[string]string
	builtin map[string]bool
}

// findModules lists the modules below dir, a /lib/modules/RELEASE.
func findModules(dir string) (*modules, error) {
	m := &modules{dir: dir, path: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if base, _, ok := strings.Cut(d.Name(), ".ko"); ok {
				m.path[moduleName(base)] = path
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		base, _, _ := strings.Cut(filepath.Base(strings.TrimSpace(line)), ".ko")
		m.builtin[moduleName(base)] = true
	}
	return m, nil
}

// moduleName is the kernel's own form of a module's name.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// load returns names and what they depend on, dependencies first.
func (m *modules) load(names []string) ([]Module, error) {
	var out []Module
	seen := map[string]bool{}
	var add func(name, by string) error
	add = func(name, by string) error {
		name = moduleName(name)
		if seen[name] || m.builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := m.path[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s, wanted by %s", name, by)
		}
		data, err := readModule(path)
		if err != nil {
			return err
		}
		deps, err := ModuleDepends(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range deps {
			if err := add(d, name); err != nil {
				return err
			}
		}
		soft, err := ModuleSoftDepends(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range soft {
			// An algorithm, for which there is a module of that name or, in plain C,
			// one that ends in _generic; or it is built in by yet another.
			for _, n := range []string{moduleName(d), moduleName(d) + "_generic"} {
				if m.path[n] == "" {
					continue
				}
				if err := add(n, name); err != nil {
					return err
				}
				break
			}
		}
		out = append(out, Module{Name: name, Data: data})
		return nil
	}
	for _, n := range names {
		if err := add(n, "the image"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readModule reads a module and unpacks it by its suffix.
func readModule(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r io.Reader = bytes.NewReader(b)
	switch filepath.Ext(path) {
	case ".ko":
		return b, nil
	case ".xz":
		r, err = xz.NewReader(r)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r); err == nil {
			defer d.Close()
		}
		r = d
	default:
		return nil, fmt.Errorf("%s: a module's name ends in .ko, .ko.xz or .ko.zst", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if b, err = io.ReadAll(r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// ModuleDepends is what a module says that it depends on.
func ModuleDepends(module []byte) ([]string, error) {
	names, err := ModuleInfo(module, "depends")
	if err != nil || names == "" {
		return nil, err
	}
	return strings.Split(names, ","), nil
}

// ModuleSoftDepends is what a module asks the kernel for by name when it is
// loaded, modprobe's "pre" soft dependencies (modprobe.d(5)).
func ModuleSoftDepends(module []byte) ([]string, error) {
	text, err := ModuleInfo(module, "softdep")
	if err != nil {
		return nil, err
	}
	return softDepends(text), nil
}

// softDepends is the names behind "pre:" in a line of softdep.
func softDepends(text string) []string {
	var names []string
	pre := false
	for _, word := range strings.Fields(text) {
		switch {
		case strings.HasSuffix(word, ":"):
			pre = word == "pre:"
		case pre:
			names = append(names, word)
		}
	}
	return names
}

// ModuleInfo is the value of the module's key, the first if there are several: a
// line KEY=VALUE in its section .modinfo. It is empty if there is no such line.
func ModuleInfo(module []byte, key string) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return "", err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return "", fmt.Errorf("no section .modinfo: not a kernel module")
	}
	info, err := s.Data()
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(info), "\x00") {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return value, nil
		}
	}
	return "", nil
}
