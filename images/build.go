// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names of the files that Build makes.
const (
	KernelFile    = "vmlinuz"
	InitramfsFile = "initramfs.cpio"
	RootFile      = "root.img"
	ManifestFile  = "manifest.txt" // what is in the other files, and their checksums
)

// BuildOptions say what Build makes.
type BuildOptions struct {
	Kernel   string // see KernelNames
	Fio, XFS bool   // in the initramfs
	RootSize int64  // bytes of the root disk; 0: none
}

// Build makes a guest's files in the directory dir: kernel, initramfs, root disk
// and manifest. The same packages, compiler and options give the same bytes. Files of
// the same names are replaced, each when its successor is whole.
func (c *Cache) Build(ctx context.Context, dir string, o BuildOptions) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	g, err := c.BuildGuest(ctx, GuestOptions{Kernel: o.Kernel, Fio: o.Fio, XFS: o.XFS})
	if err != nil {
		return err
	}
	lines := append([]string{"linux " + g.Kernel.Release}, g.Packages...)
	makers := []struct {
		name string
		fill func(path string) error
	}{
		{KernelFile, func(path string) error { return copyFile(path, g.Kernel.Image) }},
		{InitramfsFile, func(path string) error { return writeFile(path, g.Initramfs.WriteCPIO) }},
	}
	if o.RootSize > 0 {
		root, packages, err := c.RootTree(ctx, o.Kernel)
		if err != nil {
			return err
		}
		lines = append(lines, packages...)
		makers = append(makers, struct {
			name string
			fill func(path string) error
		}{RootFile, func(path string) error { return c.makeExt4(ctx, path, o.RootSize, root) }})
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	for _, m := range makers {
		fmt.Fprintf(c.report, "writing %s\n", filepath.Join(dir, m.name))
		sum, err := replace(ctx, filepath.Join(dir, m.name), m.fill)
		if err != nil {
			return err
		}
		lines = append(lines, sum+"  "+m.name)
	}
	_, err = replace(ctx, filepath.Join(dir, ManifestFile), func(path string) error {
		return os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
	})
	return err
}

// BuildRoot makes the root disk path alone, size bytes, for the kernel that GetKernel
// knows as kernelName. It leaves path as it is if it was made of the same files, which
// path.inputs tells.
func (c *Cache) BuildRoot(ctx context.Context, path string, size int64, kernelName string) error {
	root, _, err := c.RootTree(ctx, kernelName)
	if err != nil {
		return err
	}
	files := sha256.New()
	if err := root.WriteTar(files); err != nil {
		return err
	}
	inputs := fmt.Sprintf("%d bytes, files %x\n", size, files.Sum(nil))
	said := path + ".inputs"
	if was, err := os.ReadFile(said); err == nil && string(was) == inputs {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	if err := os.Remove(said); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Fprintf(c.report, "writing %s\n", path)
	if _, err = replace(ctx, path, func(path string) error { return c.makeExt4(ctx, path, size, root) }); err != nil {
		return err
	}
	return os.WriteFile(said, []byte(inputs), 0o644)
}

// replace has fill make the file path under another name, and puts it there when
// it is whole. It returns the file's SHA-256.
func replace(ctx context.Context, path string, fill func(path string) error) (sum string, err error) {
	parts := path + ".part-*" // others may make the same
	if err := removeOld(parts); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(parts))
	if err != nil {
		return "", err
	}
	defer f.Close()
	part := f.Name()
	defer func() {
		if err != nil {
			if e := os.Remove(part); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}()
	if err := fill(part); err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	if err := f.Chmod(0o644); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), os.Rename(part, path)
}

// removeOld removes the files that match pattern and have been left for so long as what
// was begun, as by a build that was killed.
func removeOld(pattern string) error {
	left, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, path := range left {
		if isOlder(path, partLife, time.Now()) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// writeFile has write fill the file path.
func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}

// copyFile copies a file's content.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeFile(to, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}
