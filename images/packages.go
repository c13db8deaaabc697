// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/uringpv/uringpv/images/debian"
)

// contents are a package's files.
type contents struct {
	tree  *Tree
	names []string // in the package's order
}

// readPackages reads packages, as many at a time as there are CPUs: to decompress
// them is most of the work of an image.
func readPackages(ctx context.Context, packages []debian.Package) ([]contents, error) {
	all := make([]contents, len(packages))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for n, p := range packages {
		g.Go(func() (err error) {
			all[n], err = readPackage(ctx, p)
			return err
		})
	}
	return all, g.Wait()
}

func readPackage(ctx context.Context, p debian.Package) (contents, error) {
	c := contents{tree: NewTree()}
	err := p.Each(ctx, func(e debian.Entry) error {
		c.names = append(c.names, e.Name)
		n := node{mode: e.FileInfo().Mode(), uid: e.Uid, gid: e.Gid}
		switch e.Typeflag {
		case tar.TypeDir:
		case tar.TypeSymlink:
			n.data = []byte(e.Linkname)
		case tar.TypeLink:
			n = c.tree.files[e.Linkname]
		case tar.TypeReg:
			var err error
			if n.data, err = io.ReadAll(e.Content); err != nil {
				return err
			}
		default:
			return nil // no package of Debian's has device files
		}
		c.tree.add(e.Name, n)
		return nil
	})
	return c, err
}
