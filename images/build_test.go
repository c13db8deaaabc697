// SPDX-License-Identifier: Apache-2.0

package images_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/uringpv/uringpv/images"
)

// anotherCache is a cache with the same packages in which nothing is made yet, in
// a directory of another name.
func anotherCache(t *testing.T, c *images.Cache) *images.Cache {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir(filepath.Join(c.Dir(), "debian"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(c.Dir(), path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		switch {
		case d.IsDir():
			return os.Mkdir(to, 0o755)
		case slices.Contains([]string{"apt.conf", "lock", "pkgcache.bin", "srcpkgcache.bin"}, d.Name()):
			return nil // apt's own, for the one directory
		}
		return os.Symlink(path, to)
	})
	if err == nil {
		c, err = images.OpenCache(images.CacheOptions{Dir: dir, Report: t.Output()})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rootSize is about the smallest that holds the root disk's files.
const rootSize = 192 << 20

// Nothing is taken over from the first time, so that the driver is built twice too.
func TestAGuestIsReproducible(t *testing.T) {
	c := openCache(t)
	o := images.BuildOptions{Kernel: "6.12", RootSize: rootSize}
	first, second := t.TempDir(), t.TempDir()
	another := anotherCache(t, c)
	done := make(chan error)
	go func() { done <- c.Build(context.Background(), first, o) }()
	err := another.Build(context.Background(), second, o)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{images.KernelFile, images.InitramfsFile, images.RootFile, images.ManifestFile} {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs: %d and %d bytes", name, len(a), len(b))
		}
	}
}
