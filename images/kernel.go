// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Kernel is a Debian kernel, unpacked.
type Kernel struct {
	Release string // as uname -r says it
	Image   string // path of its vmlinuz
	Config  string // path of its configuration
	modules *modules
	dir     string
}

// KernelSeries is which kernel.
type KernelSeries struct {
	Suite   string
	Image   string // meta-package of the kernel
	Headers string // meta-package of its headers
}

// kernelSeries are the kernels by the names that users give. The suites' own
// meta-packages say which version is the present one.
var kernelSeries = map[string]KernelSeries{
	"6.1":            {"bookworm", "linux-image-cloud-amd64", "linux-headers-cloud-amd64"},
	"6.1-generic":    {"bookworm", "linux-image-amd64", "linux-headers-amd64"},
	"6.12":           {"bookworm", "linux-image-6.12-cloud-amd64", "linux-headers-6.12-cloud-amd64"},
	"6.12-generic":   {"bookworm", "linux-image-6.12-amd64", "linux-headers-6.12-amd64"},
	"newest":         {"sid", "linux-image-cloud-amd64", "linux-headers-cloud-amd64"},
	"newest-generic": {"sid", "linux-image-amd64", "linux-headers-amd64"},
}

// KernelNames are the names that GetKernel knows, in order.
func KernelNames() []string {
	return []string{"6.1", "6.1-generic", "6.12", "6.12-generic", "newest", "newest-generic"}
}

// resolved is a kernel that GetKernel has got, if it has.
type resolved struct {
	mu     sync.Mutex
	kernel *Kernel
}

// GetKernel gets the kernel name and unpacks it in the cache. The same Cache always gives
// the same one, whatever comes into the archive meanwhile: a guest's parts belong
// together.
func (c *Cache) GetKernel(ctx context.Context, name string) (*Kernel, error) {
	series, ok := kernelSeries[name]
	if !ok {
		return nil, fmt.Errorf("kernel %q: must be one of %s", name, strings.Join(KernelNames(), ", "))
	}
	c.mu.Lock()
	r := c.kernels[name]
	if r == nil {
		r = &resolved{}
		c.kernels[name] = r
	}
	c.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kernel != nil {
		return r.kernel, nil
	}
	k, err := c.getKernel(ctx, name, series)
	if err == nil {
		r.kernel = k
	}
	return k, err
}

func (c *Cache) getKernel(ctx context.Context, name string, series KernelSeries) (*Kernel, error) {
	suite, err := c.Suite(ctx, series.Suite)
	if err != nil {
		return nil, err
	}
	// The meta-package's package, and where that is split, its parts.
	var names []string
	for next := []string{series.Image}; len(next) > 0; {
		deps, err := suite.Depends(ctx, next[0])
		if err != nil {
			return nil, err
		}
		next = next[1:]
		for _, d := range deps {
			if hasAnyPrefix(d, "linux-image-", "linux-binary-", "linux-modules-", "linux-base-") && !slices.Contains(names, d) {
				names, next = append(names, d), append(next, d)
			}
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("package %s of %s depends on no kernel", series.Image, series.Suite)
	}
	packages, err := suite.Fetch(ctx, false, names...)
	if err != nil {
		return nil, err
	}
	dir, err := c.Unpacked(ctx, "kernel-"+name, packages)
	if err != nil {
		return nil, err
	}
	return openKernel(dir)
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// openKernel finds the kernel in dir, where its packages were unpacked.
func openKernel(dir string) (*Kernel, error) {
	var image string
	for _, pattern := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			image = found[0]
			break
		}
	}
	if image == "" {
		return nil, fmt.Errorf("%s: no vmlinuz among the kernel's packages", dir)
	}
	k := &Kernel{Image: image, dir: dir}
	for _, root := range []string{"usr/lib/modules", "lib/modules"} {
		if entries, err := os.ReadDir(filepath.Join(dir, root)); err == nil && len(entries) > 0 {
			k.Release = entries[0].Name()
			var err error
			if k.modules, err = findModules(filepath.Join(dir, root, k.Release)); err != nil {
				return nil, err
			}
			break
		}
	}
	if k.Release == "" {
		return nil, fmt.Errorf("%s: no modules among the kernel's packages", dir)
	}
	k.Config = filepath.Join(dir, "boot", "config-"+k.Release)
	return k, nil
}

// Modules returns the modules names with all that they depend on, in the order in
// which to load them. What is built into the kernel is left out.
func (k *Kernel) Modules(names ...string) ([]Module, error) { return k.modules.load(names) }

// ModulesIfThere is that without those of names that the kernel does not have.
func (k *Kernel) ModulesIfThere(names ...string) ([]Module, error) {
	return k.modules.load(slices.DeleteFunc(slices.Clone(names), func(name string) bool { return k.modules.path[moduleName(name)] == "" }))
}
