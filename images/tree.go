// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
)

// Tree is a root file system in memory. It is written as an initramfs or as an
// archive; the same files give the same bytes, in whatever order they are added.
type Tree struct {
	files map[string]node
}

// node is a file of a tree.
type node struct {
	mode     fs.FileMode // permissions and type
	uid, gid int
	data     []byte // content, or where a link leads to
}

// NewTree is a tree with nothing but the root directory.
func NewTree() *Tree { return &Tree{files: map[string]node{}} }

// add puts a node at name and makes the directories above it.
func (i *Tree) add(name string, n node) {
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
func (i *Tree) Dir(name string) { i.add(name, node{mode: fs.ModeDir | 0o755}) }

// File adds a regular file, perm its permissions.
func (i *Tree) File(name string, perm fs.FileMode, data []byte) {
	i.add(name, node{mode: perm.Perm(), data: data})
}

// Link adds a symbolic link to target.
func (i *Tree) Link(name, target string) {
	i.add(name, node{mode: fs.ModeSymlink | 0o777, data: []byte(target)})
}

// merge adds what is in o. A directory stays as it is where there is something already.
func (i *Tree) merge(o *Tree) {
	for name, n := range o.files {
		if _, there := i.files[name]; !there || !n.mode.IsDir() {
			i.files[name] = n
		}
	}
}

// Has says whether there is something at name.
func (i *Tree) Has(name string) bool {
	_, ok := i.files[clean(name)]
	return ok
}

// clean is name as the archive has it: without a leading slash.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// names are the names of all files, a directory before what is in it.
func (i *Tree) names() []string { return slices.Sorted(maps.Keys(i.files)) }

// WriteCPIO writes the tree as an initramfs, a cpio archive in the "newc" format
// (Documentation/driver-api/early-userspace), all times 0. Archives may be put one
// behind the other, so the kernel takes the result and another one after it.
func (i *Tree) WriteCPIO(w io.Writer) error {
	a := cpio.NewWriter(w)
	for k, name := range i.names() {
		n := i.files[name]
		h := &cpio.Header{
			Name: name, Inode: int64(k + 1), Mode: cpio.FileMode(n.mode.Perm()), Uid: n.uid, Guid: n.gid, Links: 1, Size: int64(len(n.data)),
		}
		for _, bit := range specialBits {
			if n.mode&bit.mode != 0 {
				h.Mode |= cpio.FileMode(bit.unix)
			}
		}
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
			return fmt.Errorf("initramfs: %s: %w", name, err)
		}
		if _, err := a.Write(n.data); err != nil {
			return fmt.Errorf("initramfs: %s: %w", name, err)
		}
	}
	return a.Close()
}

// WriteTar writes the tree as a tar archive, all times 0.
func (i *Tree) WriteTar(w io.Writer) error {
	a := tar.NewWriter(w)
	for _, name := range i.names() {
		n := i.files[name]
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: "./" + name, Mode: int64(n.mode.Perm()), Uid: n.uid, Gid: n.gid, Size: int64(len(n.data)),
			ModTime: time.Unix(0, 0), Format: tar.FormatGNU,
		}
		for _, bit := range specialBits {
			if n.mode&bit.mode != 0 {
				h.Mode |= bit.unix
			}
		}
		switch {
		case n.mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case n.mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, string(n.data), 0
		}
		if err := a.WriteHeader(h); err != nil {
			return fmt.Errorf("archive: %s: %w", name, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if _, err := a.Write(n.data); err != nil {
			return fmt.Errorf("archive: %s: %w", name, err)
		}
	}
	return a.Close()
}

// specialBits are the bits of a mode that Go keeps elsewhere than Unix.
var specialBits = []struct {
	mode fs.FileMode
	unix int64
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}
