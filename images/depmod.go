// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/uringpv/uringpv/guest"
)

// kmod is depmod's package.
var kmod = []string{"kmod"}

// addedModule is where DKMS puts a module of Debian's below /lib/modules/RELEASE;
// modprobe prefers it to the kernel's own of the same name (depmod.d(5)).
const addedModule = "updates/dkms"

// addModules adds what modprobe needs on a root disk for the kernel that GetKernel
// knows as kernelName: all its modules, the driver, and depmod's index of them
// (modules.dep(5)).
func (c *Cache) addModules(ctx context.Context, t *Tree, kernelName string) error {
	k, err := c.GetKernel(ctx, kernelName)
	if err != nil {
		return err
	}
	driver, err := c.BuildModule(ctx, kernelName, guest.DriverName, guest.DriverSource())
	if err != nil {
		return err
	}
	sum := sha256.Sum256(driver.Data)
	index, err := c.Made(ctx, "modules-"+kernelName, k.dir+hex.EncodeToString(sum[:]), func(dir string) error {
		return c.depmod(ctx, dir, k, driver)
	})
	if err != nil {
		return err
	}
	for _, from := range []string{k.modules.dir, index} {
		err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			name, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			if top, _, below := strings.Cut(name, "/"); !below && !strings.HasPrefix(top, "modules.") {
				return nil // the kernel and its configuration, which Debian's later packages have there
			}
			b, err := os.ReadFile(path)
			t.File("usr/lib/modules/"+k.Release+"/"+name, 0o644, b)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// depmod fills dir with the driver and with the index of it and of the kernel's
// modules.
func (c *Cache) depmod(ctx context.Context, dir string, k *Kernel, driver Module) error {
	fmt.Fprintf(c.report, "indexing the modules of Linux %s\n", k.Release)
	tools, err := c.program(ctx, "kmod", toolsSuite, kmod)
	if err != nil {
		return err
	}
	base, err := os.MkdirTemp("", "depmod-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(base)
	modules := filepath.Join(base, "lib/modules", k.Release)
	if err := os.MkdirAll(filepath.Join(modules, addedModule), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(modules, addedModule, driver.Name+".ko"), driver.Data, 0o644); err != nil {
		return err
	}
	there, err := os.ReadDir(k.modules.dir)
	if err != nil {
		return err
	}
	for _, e := range there {
		if err := os.Symlink(filepath.Join(k.modules.dir, e.Name()), filepath.Join(modules, e.Name())); err != nil {
			return err
		}
	}
	// No configuration of the host's: only what every depmod does.
	empty := filepath.Join(base, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	cmd := tools.command(ctx, "usr/sbin/depmod", "-b", base, "-C", empty, k.Release)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("depmod for Linux %s: %w: %s", k.Release, err, out)
	}
	if len(out) > 0 {
		return fmt.Errorf("depmod for Linux %s: %s", k.Release, out)
	}
	for _, e := range there {
		if err := os.Remove(filepath.Join(modules, e.Name())); err != nil {
			return err
		}
	}
	return os.CopyFS(dir, os.DirFS(modules))
}
