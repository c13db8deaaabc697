// SPDX-License-Identifier: Apache-2.0

package images_test

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/guest"
	"github.com/uringpv/uringpv/images"
)

// Programs on liburing are what any guest can run, whatever C library it has.
func TestLiburingsProgramsAreStatic(t *testing.T) {
	c := openCache(t)
	dir, err := c.BuildLiburing(t.Context(), guest.LiburingPort(), []string{"test/nop.t", "examples/link-cp", "example.c"})
	if err != nil {
		t.Fatal(err)
	}
	version, err := os.ReadFile(filepath.Join(dir, images.LiburingVersionFile))
	if err != nil || !strings.HasPrefix(string(version), guest.LiburingVersion+"-") {
		t.Errorf("version %q, want %s-N; %v", version, guest.LiburingVersion, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"example", "link-cp", "nop.t", images.LiburingVersionFile}; !slices.Equal(names, want) {
		t.Errorf("built %q, want %q", names, want)
	}
	for _, name := range []string{"example", "link-cp", "nop.t"} {
		f, err := elf.Open(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if f.Section(".interp") != nil || f.Type != elf.ET_EXEC {
			t.Errorf("%s needs a loader", name)
		}
		_ = f.Close()
	}
	if _, err := c.BuildLiburing(t.Context(), guest.LiburingPort(), []string{"test/no-such-test.t"}); err == nil || !strings.Contains(err.Error(), "no-such-test") {
		t.Errorf("a test that is not there: %v", err)
	}
}
