// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/uringpv/uringpv/images/debian"
)

// Userland is the files of some packages, from which programs are taken with the
// shared libraries that they need, and nothing else.
type Userland struct {
	all *Tree
}

// Userland reads packages, each set of them once.
func (c *Cache) Userland(ctx context.Context, packages []debian.Package) (*Userland, error) {
	return readOnce(c, c.userlands, packages, func() (*Userland, error) {
		fmt.Fprintf(c.report, "reading %d packages\n", len(packages))
		read, err := readPackages(ctx, packages)
		if err != nil {
			return nil, err
		}
		u := &Userland{NewTree()}
		for _, p := range read {
			u.all.merge(p.tree)
		}
		return u, nil
	})
}

// Take adds the files at names to i, links with what they lead to, programs with
// their loader and libraries.
func (u *Userland) Take(i *Tree, names ...string) error {
	for _, name := range names {
		if err := u.take(i, name, "the image"); err != nil {
			return err
		}
	}
	return nil
}

// libraryDirs is where the loader looks for libraries (ld.so(8)), on amd64.
var libraryDirs = []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib", "lib64"}

func (u *Userland) take(i *Tree, name, by string) error {
	name = clean(name)
	if i.Has(name) {
		return nil
	}
	n, ok := u.all.files[name]
	if !ok {
		return fmt.Errorf("no package has /%s, wanted by %s", name, by)
	}
	i.add(name, n)
	switch {
	case n.mode&fs.ModeSymlink != 0:
		target := string(n.data)
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		return u.take(i, target, "/"+name)
	case !n.mode.IsRegular() || !bytes.HasPrefix(n.data, []byte(elf.ELFMAG)):
		return nil
	}
	f, err := elf.NewFile(bytes.NewReader(n.data))
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	defer f.Close()
	if s := f.Section(".interp"); s != nil {
		loader, err := s.Data()
		if err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		if err := u.take(i, string(bytes.TrimRight(loader, "\x00")), "/"+name); err != nil {
			return err
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	runpath, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	for _, lib := range libraries {
		dirs := slices.Concat(runpath, libraryDirs)
		at := slices.IndexFunc(dirs, func(d string) bool { return u.all.Has(path.Join(d, lib)) })
		if at < 0 {
			return fmt.Errorf("no package has the library %s, wanted by /%s", lib, name)
		}
		if err := u.take(i, path.Join(dirs[at], lib), "/"+name); err != nil {
			return err
		}
	}
	return nil
}
