// SPDX-License-Identifier: Apache-2.0

package images_test

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/images"
)

// modprobe finds the kernel's modules and the driver: what its index names is there.
func TestARootDiskHasItsKernelsModules(t *testing.T) {
	c := openCache(t)
	kernels := []string{"6.12"}
	if os.Getenv("URINGPV_TEST_FULL") != "" {
		kernels = driverKernels()
	}
	for _, kernel := range kernels {
		k, err := c.GetKernel(t.Context(), kernel)
		if err != nil {
			t.Fatal(err)
		}
		root, _, err := c.RootTree(t.Context(), kernel)
		if err != nil {
			t.Fatal(err)
		}
		files := filesBelow(t, root, "./usr/lib/modules/"+k.Release+"/")
		modules := map[string]bool{}
		for line := range strings.Lines(string(files["modules.dep"])) {
			for name := range strings.FieldsSeq(strings.Replace(line, ":", " ", 1)) {
				modules[name] = true
				if files[name] == nil {
					t.Errorf("Linux %s: there is no %s", k.Release, name)
				}
			}
		}
		const driver = "updates/dkms/uringpv.ko"
		if len(modules) < 500 || !modules[driver] {
			t.Errorf("Linux %s: modules.dep has %d modules, the driver among them: %v", k.Release, len(modules), modules[driver])
		}
		for name := range files {
			if strings.Contains(name, ".ko") && !modules[name] {
				t.Errorf("Linux %s: modules.dep does not have %s", k.Release, name)
			}
		}
		for _, name := range []string{"modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin"} {
			if len(files[name]) == 0 {
				t.Errorf("Linux %s: %s is empty or not there", k.Release, name)
			}
		}
		if magic, err := images.ModuleInfo(files[driver], "vermagic"); err != nil || !strings.HasPrefix(magic, k.Release+" ") {
			t.Errorf("the driver is for Linux %q, %v; want %s", magic, err, k.Release)
		}
	}
}

// filesBelow are the regular files of a tree whose names begin with dir, without it.
func filesBelow(t *testing.T, tree *images.Tree, dir string) map[string][]byte {
	t.Helper()
	r, w := io.Pipe()
	go func() { w.CloseWithError(tree.WriteTar(w)) }()
	files := map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		name, below := strings.CutPrefix(h.Name, dir)
		if !below || h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
}

// A root disk is made again when its files or its size are others, and only then.
func TestARootDiskIsMadeOnce(t *testing.T) {
	if os.Getenv("URINGPV_TEST_FULL") == "" {
		t.Skip("NOT TESTED: takes long (URINGPV_TEST_FULL=1)")
	}
	c := openCache(t)
	path := filepath.Join(t.TempDir(), "root.img")
	const size = 384 << 20
	build := func(size int64) fs.FileInfo {
		t.Helper()
		if err := c.BuildRoot(t.Context(), path, size, "6.12"); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != size {
			t.Errorf("%d bytes, want %d", info.Size(), size)
		}
		return info
	}
	first := build(size)
	if again := build(size); !os.SameFile(again, first) {
		t.Error("it was made again")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	build(size)
	build(size + 1<<20)
}
