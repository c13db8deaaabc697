// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/cavaliergopher/cpio"
)

func TestAnInitramfsHasWhatWasAddedInOrder(t *testing.T) {
	build := func(reverse bool) []byte {
		i := NewTree()
		add := []func(){
			func() { i.File("/usr/bin/x", 0o755, []byte("program")) },
			func() { i.Link("bin", "usr/bin") },
			func() { i.File("empty", 0o600, nil) },
		}
		for k := range add {
			if reverse {
				k = len(add) - 1 - k
			}
			add[k]()
		}
		var b bytes.Buffer
		if err := i.WriteCPIO(&b); err != nil || b.Len()%4 != 0 {
			t.Fatalf("wrote %d bytes: %v", b.Len(), err)
		}
		return b.Bytes()
	}
	archive := build(false)
	if !bytes.Equal(archive, build(true)) {
		t.Error("the order of adding shows in the archive")
	}
	r := cpio.NewReader(bytes.NewReader(archive))
	want := []struct {
		name string
		mode cpio.FileMode
		data string
	}{
		{"bin", cpio.TypeSymlink | 0o777, "usr/bin"}, {"empty", cpio.TypeReg | 0o600, ""},
		{"usr", cpio.TypeDir | 0o755, ""}, {"usr/bin", cpio.TypeDir | 0o755, ""}, {"usr/bin/x", cpio.TypeReg | 0o755, "program"},
	}
	for _, w := range want {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if h.Mode&cpio.ModeType == cpio.TypeSymlink {
			data = []byte(h.Linkname)
		}
		if err != nil || h.Name != w.name || h.Mode != w.mode || string(data) != w.data || h.Uid != 0 || h.Guid != 0 {
			t.Errorf("%s: mode %o, %q, owner %d:%d, %v; want %s, mode %o, %q", h.Name, h.Mode, data, h.Uid, h.Guid, err, w.name, w.mode, w.data)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last file: %v", err)
	}
}

// Packages of one tree: a later file replaces what an earlier one has, a later directory
// nothing.
func TestMergedTreesKeepDirectoriesAndTakeFiles(t *testing.T) {
	tree, later := NewTree(), NewTree()
	tree.add("tmp", node{mode: fs.ModeDir | 0o700})
	tree.Link("bin", "usr/bin")
	tree.File("etc/a", 0o644, []byte("first"))
	later.Dir("tmp")
	later.Dir("bin")
	later.File("etc/a", 0o600, []byte("second"))
	later.File("etc/b", 0o644, []byte("b"))
	tree.merge(later)
	for name, want := range map[string]node{
		"tmp":   {mode: fs.ModeDir | 0o700},
		"bin":   {mode: fs.ModeSymlink | 0o777, data: []byte("usr/bin")},
		"etc":   {mode: fs.ModeDir | 0o755},
		"etc/a": {mode: 0o600, data: []byte("second")},
		"etc/b": {mode: 0o644, data: []byte("b")},
	} {
		if got := tree.files[name]; got.mode != want.mode || string(got.data) != string(want.data) {
			t.Errorf("%s is %v %q, want %v %q", name, got.mode, got.data, want.mode, want.data)
		}
	}
}
