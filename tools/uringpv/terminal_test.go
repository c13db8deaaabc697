// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEscapes(t *testing.T) {
	for _, tt := range []struct {
		typed, guest string
		leave        bool
	}{
		{"abc", "abc", false},
		{"a\x01xb", "a", true},
		{"\x01X", "", true},
		{"\x01\x01", "\x01", false},
		{"\x01\x01x", "\x01x", false},
		{"\x01c", "\x01c", false},
		{"\x01", "", false},
	} {
		// In one read, and byte by byte.
		var whole, single escapes
		got, leave := whole.strip([]byte(tt.typed))
		var bytewise []byte
		left := false
		for i := range len(tt.typed) {
			rest, l := single.strip([]byte{tt.typed[i]})
			bytewise = append(bytewise, rest...)
			if left = l; left {
				break
			}
		}
		if string(got) != tt.guest || leave != tt.leave || string(bytewise) != tt.guest || left != tt.leave {
			t.Errorf("%q: the guest gets %q and %q, leave %v and %v; want %q, %v", tt.typed, got, bytewise, leave, left, tt.guest, tt.leave)
		}
	}
}

func TestEscapesChangeNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typed := rapid.SliceOf(rapid.Byte().Filter(func(b byte) bool { return b != keyEscape })).Draw(t, "typed")
		var e escapes
		if got, leave := e.strip(typed); string(got) != string(typed) || leave {
			t.Errorf("%q became %q, leave %v", typed, got, leave)
		}
	})
}

func TestInitrdsFollowEachOtherAligned(t *testing.T) {
	var paths []string
	for i, text := range []string{"one", "four", "sixsix"} {
		path := filepath.Join(t.TempDir(), "initrd")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(i, err)
		}
		paths = append(paths, path)
	}
	d, err := openInitrd(paths)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b, err := io.ReadAll(d)
	if err != nil || string(b) != "one\x00foursixsix\x00\x00" || d.size != int64(len(b)) {
		t.Errorf("%q of %d bytes, %v", b, d.size, err)
	}
	if none, err := openInitrd(nil); err != nil || none.size != 0 {
		t.Errorf("no files: %d bytes, %v", none.size, err)
	}
	for _, bad := range []string{"/nonexistent", t.TempDir(), "/dev/null"} {
		if _, err := openInitrd([]string{paths[0], bad}); err == nil || !strings.Contains(err.Error(), "--initrd") || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
