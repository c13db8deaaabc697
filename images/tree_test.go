// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"errors"
	"io"
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
