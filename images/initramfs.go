// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/uringpv/uringpv/images/debian"
)

// Initramfs is a root file system in memory for the kernel, as a cpio archive in
// the "newc" format (Documentation/driver-api/early-userspace). The same files
// give the same bytes, in whatever order they are added: owner root, time 0.
type Initramfs struct {
	files map[string]node
}

// node is a file of an image.
type node struct {
	mode fs.FileMode // permissions and type
	data []byte      // content, or where a link leads to
}

// NewInitramfs is an image with nothing but the root directory.
func NewInitramfs() *Initramfs { return &Initramfs{files: map[string]node{}} }

// add puts a node at name and makes the directories above it.
func (i *Initramfs) add(name string, n node) {
	name = clean(name)
	if name == "" {
		return
	}
	if dir := path.Dir(name); dir != "." {
		if _, ok := i.files[dir]; !ok {
			i.Dir(dir)
		}
	}
	i.files[name] = n
}

// Dir adds a directory, mode 0755.
func (i *Initramfs) Dir(name string) { i.add(name, node{mode: fs.ModeDir | 0o755}) }

// File adds a regular file, perm its permissions.
func (i *Initramfs) File(name string, perm fs.FileMode, data []byte) {
	i.add(name, node{mode: perm.Perm(), data: data})
}

// Link adds a symbolic link to target.
func (i *Initramfs) Link(name, target string) {
	i.add(name, node{mode: fs.ModeSymlink | 0o777, data: []byte(target)})
}

// Package adds a package's files; keep says which, by their names without a
// leading slash.
func (i *Initramfs) Package(ctx context.Context, p debian.Package, keep func(name string) bool) error {
	return p.Each(ctx, func(e debian.Entry) error {
		switch {
		case !keep(e.Name):
		case e.Typeflag == tar.TypeDir:
			if !i.Has(e.Name) {
				i.Dir(e.Name)
			}
		case e.Typeflag == tar.TypeSymlink:
			i.Link(e.Name, e.Linkname)
		case e.Typeflag == tar.TypeLink:
			i.add(e.Name, i.files[e.Linkname])
		case e.Typeflag == tar.TypeReg:
			data, err := io.ReadAll(e.Content)
			if err != nil {
				return err
			}
			i.File(e.Name, e.FileInfo().Mode(), data)
		}
		return nil
	})
}

// Has says whether there is something at name.
func (i *Initramfs) Has(name string) bool {
	_, ok := i.files[clean(name)]
	return ok
}

// clean is name as the archive has it: without a leading slash.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// WriteTo writes the archive. Archives may be put one behind the other; so may
// the result and others.
func (i *Initramfs) WriteTo(w io.Writer) (int64, error) {
	c := &counter{w: w}
	a := cpio.NewWriter(c)
	names := make([]string, 0, len(i.files))
	for name := range i.files {
		names = append(names, name)
	}
	slices.Sort(names) // a directory sorts before what is in it
	for k, name := range names {
		n := i.files[name]
		h := &cpio.Header{Name: name, Inode: int64(k + 1), Mode: cpio.FileMode(n.mode.Perm()), Links: 1, Size: int64(len(n.data))}
		switch {
		case n.mode.IsDir():
			h.Mode |= cpio.TypeDir
			h.Links = 2
		case n.mode&fs.ModeSymlink != 0:
			h.Mode |= cpio.TypeSymlink // its content is where it leads to
		default:
			h.Mode |= cpio.TypeReg
		}
		if err := a.WriteHeader(h); err != nil {
			return c.n, fmt.Errorf("initramfs: %s: %w", name, err)
		}
		if _, err := a.Write(n.data); err != nil {
			return c.n, fmt.Errorf("initramfs: %s: %w", name, err)
		}
	}
	return c.n, a.Close()
}

// counter counts what goes to w.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
