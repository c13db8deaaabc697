// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/uringpv/uringpv/images/debian"
)

// sourceSum identifies a module's source.
func sourceSum(source map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(source)) {
		fmt.Fprintf(h, "%s %d\n", name, len(source[name]))
		h.Write(source[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// BuildModule builds the module name.ko from source, files by their names, for the kernel that GetKernel
// knows as kernelName, by the host's gcc and make against Debian's headers.
func (c *Cache) BuildModule(ctx context.Context, kernelName, name string, source map[string][]byte) (Module, error) {
	k, err := c.GetKernel(ctx, kernelName)
	if err != nil {
		return Module{}, err
	}
	headers, sum, err := c.headers(ctx, kernelName, k.Release)
	if err != nil {
		return Module{}, err
	}
	for _, tool := range []string{"make", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return Module{}, fmt.Errorf("%s is not installed: the driver is built with make and gcc", tool)
		}
	}
	dir, err := c.Made(ctx, name+"-"+kernelName, sum+sourceSum(source), func(dir string) error {
		fmt.Fprintf(c.report, "building %s.ko for Linux %s\n", name, k.Release)
		for file, data := range source {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
				return err
			}
		}
		cmd := exec.CommandContext(ctx, "make", "-C", headers, "M="+dir, "modules", "W=1", "KCFLAGS=-Werror")
		cmd.Env = append(os.Environ(), "LC_ALL=C", "MAKEFLAGS=", "MAKELEVEL=", "KBUILD_BUILD_TIMESTAMP=1970-01-01", "KBUILD_BUILD_USER=uringpv", "KBUILD_BUILD_HOST=uringpv")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s.ko for Linux %s: %w\n%s", name, k.Release, err, out)
		}
		return nil
	})
	if err != nil {
		return Module{}, err
	}
	data, err := os.ReadFile(filepath.Join(dir, name+".ko"))
	return Module{Name: moduleName(name), Data: data}, err
}

// headers is a directory against which modules for the kernel release build, and
// what identifies it.
func (c *Cache) headers(ctx context.Context, kernelName, release string) (dir, sum string, err error) {
	series := kernelSeries[kernelName]
	suite, err := c.Suite(ctx, series.Suite)
	if err != nil {
		return "", "", err
	}
	var names []string
	for next := []string{series.Headers}; len(next) > 0; next = next[1:] {
		deps, err := suite.Depends(ctx, next[0])
		if err != nil {
			return "", "", err
		}
		for _, d := range deps {
			if hasAnyPrefix(d, "linux-headers-", "linux-kbuild-") && !slices.Contains(names, d) {
				names, next = append(names, d), append(next, d)
			}
		}
	}
	packages, err := suite.Fetch(ctx, false, names...)
	if err != nil {
		return "", "", err
	}
	sum = sums(packages)
	root, err := c.Made(ctx, "headers-"+kernelName, sum, func(dir string) error {
		fmt.Fprintf(c.report, "unpacking the headers of Linux %s\n", release)
		return unpackHeaders(ctx, dir, packages)
	})
	if err != nil {
		return "", "", err
	}
	dir = filepath.Join(root, "usr/src/linux-headers-"+release)
	if _, err := os.Stat(dir); err != nil {
		return "", "", fmt.Errorf("the headers of %s are not those of Linux %s: %w", series.Headers, release, err)
	}
	return dir, sum, nil
}

// unpackHeaders unpacks header packages so that they work where they are: they
// name each other by absolute paths below /usr.
func unpackHeaders(ctx context.Context, dir string, packages []debian.Package) error {
	for _, p := range packages {
		if err := p.Unpack(ctx, dir); err != nil {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(dir, "usr/src"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			return relink(dir, path)
		case d.Name() == "vmlinux" && strings.Count(strings.TrimPrefix(path, dir), "/") == 4:
			// It feeds BTF only, which needs a tool that hosts may lack.
			return os.Remove(path)
		case d.Name() == "Makefile" && strings.Count(strings.TrimPrefix(path, dir), "/") == 4, d.Name() == ".kernelvariables":
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			// Relative to where make runs, so that the directory may be moved.
			text := strings.ReplaceAll(string(b), " /usr/src/", " $(dir $(lastword $(MAKEFILE_LIST)))../")
			return os.WriteFile(path, []byte(text), 0o644)
		}
		return nil
	})
}

// relink turns an absolute link at path, below root, into a relative one.
func relink(root, path string) error {
	target, err := os.Readlink(path)
	if err != nil || !filepath.IsAbs(target) {
		return err
	}
	rel, err := filepath.Rel(filepath.Dir(path), filepath.Join(root, target))
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(path), os.Symlink(rel, path))
}
